package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"outcall/integration/harness"
)

// within fails a test whose operator had to wait for the agent.
func within(t *testing.T, what string, limit time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if d := time.Since(start); d > limit {
		t.Errorf("%s took %v, the agent held it up", what, d)
	}
}

// K3, K22: the stages that a start goes through have the agent's uid, and so it
// can stop them. That may spoil the exec; it holds up nothing else.
func TestK3StoppedStart(t *testing.T) {
	b := harness.New(t)
	p := b.StartSandbox(allowAPI, "sh", "-c", "echo ready; trap '' TERM; while :; do kill -STOP -1; done")
	p.WaitFor("ready")
	x := b.Start(b.Command("exec", p.Name, "--", "true"))
	select {
	case <-x.Done(): // this one got through, with or without its command
	case <-time.After(2 * time.Second):
	}
	second := b.Start(b.Command("exec", p.Name, "--", "true"))
	within(t, "bridge down", 5*time.Second, func() { b.Outcall("bridge", "--session", p.Name, "down").Must(t, 0) })
	within(t, "ps", 5*time.Second, func() {
		if r := b.Outcall("ps"); !strings.Contains(r.Stdout, p.Name) {
			t.Errorf("ps: %s %s", r.Stdout, r.Stderr)
		}
	})
	// Longer than the two graces and the gatekeeper's own, not as long as a
	// stage may take.
	within(t, "stop", 30*time.Second, func() {
		b.Outcall("stop", p.Name).Must(t, 0)
		p.Wait()
	})
	x.Wait()
	second.Wait()
}

// The same by --timeout, which no stopped helper may put off.
func TestK3StoppedHelperAndTimeout(t *testing.T) {
	b := harness.New(t)
	flags := append([]string{"--timeout", "3s"}, allowAPI...)
	within(t, "--timeout", 30*time.Second, func() {
		p := b.StartSandbox(flags, "sh", "-c", "echo ready; trap '' TERM; while :; do kill -STOP -1; done")
		p.WaitFor("ready")
		x := b.Start(b.Command("exec", p.Name, "--", "true"))
		p.Wait().Must(t, 124)
		x.Wait()
	})
}

// A start that was stopped is given up, and later ones have their turn: when
// the agent lets go, exec works.
func TestK3StoppedStartEnds(t *testing.T) {
	b := harness.New(t)
	hold := b.Work + "/hold"
	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := b.StartSandbox(allowAPI, "sh", "-c", "echo ready; trap '' TERM; while [ -e "+hold+" ]; do kill -STOP -1; done; echo over; exec sleep 1000")
	p.WaitFor("ready")
	spoilt := b.Start(b.Command("exec", p.Name, "--", "true"))
	time.Sleep(2 * time.Second) // it stands now
	within(t, "bridge down", 5*time.Second, func() { b.Outcall("bridge", "--session", p.Name, "down").Must(t, 0) })
	within(t, "bridge up", 5*time.Second, func() { b.Outcall("bridge", "--session", p.Name, "up").Must(t, 0) })
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	p.WaitFor("over")
	x := b.Start(b.Command("exec", p.Name, "--", "echo", "here"))
	select {
	case <-x.Done():
		if r := x.Wait(); r.Stdout != "here\n" {
			t.Errorf("exec: %d %s%s", r.Code, r.Stdout, r.Stderr)
		}
	case <-time.After(2 * time.Minute): // far more than both may take together
		t.Error("no exec after the agent has let go")
	}
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()
	spoilt.Wait()
}
