package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// allPorts is how many TCP ports an address has.
const allPorts = 65535

// scanStep is how many of them are tried while the test waits once.
const scanStep = 1 << 14

// maxSupervisor is more memory than a supervisor may ever have held, in KiB: a
// scan or a flood costs it what its limits allow and not what was sent.
const maxSupervisor = 512 << 10

// peakMemory is the most that a process has held so far, in KiB.
func peakMemory(t *testing.T, pid int) (kib int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(bytes.NewReader(status)); sc.Scan(); {
		if _, err := fmt.Sscanf(sc.Text(), "VmHWM: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatalf("no VmHWM in %s", status)
	return 0
}

// refusedFlows sums the attempts at the flow layer that the audit of a session
// tells as denied: by lines, by lines that stand for several, and by counts of
// what found no line. lost are those that were refused without a verdict.
func refusedFlows(t *testing.T, b *harness.Bed, name string) (denied, lost int) {
	t.Helper()
	for _, e := range b.Events(t, name) {
		switch {
		case e.Event == "limit", e.Event == "overflow" && e.Layer == "": // a limit has no layer
			lost += max(e.Count, 1)
		case e.Layer == "flow" && (e.Event == "overflow" || e.Denied()):
			denied += max(e.Count, 1)
		}
	}
	return denied, lost
}

// N2, N11: every TCP port of the gateway, of the host's services, of a
// neighbour and of an address outside. What the contract names answers;
// nothing leaves; every attempt is in the audit or in one of its counts. Of
// the IPv6 twins that are in no element of the table either, the low ports do.
func TestN2EveryPort(t *testing.T) {
	b := harness.New(t)
	const filter, withProxy = "53", "53 8080" // the filter answers at every address
	low, all := 2000, allPorts
	if testing.Short() {
		all = 9000
	}
	targets := []struct {
		addr, open string
		last       int
	}{
		{"10.200.0.1", withProxy, all}, {"fd0c:a11::1", withProxy, all}, {"10.200.0.254", filter, all}, {"fd0c:a11::fe", filter, low},
		{"10.200.0.3", filter, all}, {"fd0c:a11::3", filter, low}, {b.V4(t, "evil.test").String(), filter, all}, {b.V6(t, "evil.test").String(), filter, low},
	}
	script, attempts := "", 0
	var steps []string
	open := map[string]string{}
	for _, x := range targets {
		for first := 1; first <= x.last; first += scanStep {
			steps = append(steps, fmt.Sprintf("after %s %d", x.addr, first))
			script += fmt.Sprintf("%s scan %s %d-%d; echo %s\n", harness.Probe, x.addr, first, min(first+scanStep-1, x.last), steps[len(steps)-1])
		}
		attempts += x.last - len(strings.Fields(x.open))
		open[x.addr] = x.open
	}
	m := b.Mark()
	p := b.StartSandbox(allowAPI, "sh", "-c", script+"echo done; exec sleep 1000")
	for _, step := range steps { // each has its own patience
		p.WaitFor(step + "\n")
	}
	p.WaitFor("done")
	if kib := peakMemory(t, p.Cmd.Process.Pid); kib > maxSupervisor {
		t.Errorf("the supervisor has held %d KiB", kib)
	}
	b.Outcall("stop", p.Name).Must(t, 0)
	got := map[string]string{}
	for _, l := range p.Wait().Lines(t) {
		got[l.Target] = strings.TrimSpace(got[l.Target] + " " + l.Data)
	}
	for addr, want := range open {
		if got[addr] != want {
			t.Errorf("%s answers at %q, not at %q", addr, got[addr], want)
		}
	}
	if denied, lost := refusedFlows(t, b, p.Name); denied < attempts {
		t.Errorf("%d ports were refused, and the audit tells of %d (and %d without a verdict)", attempts, denied, lost)
	}
	b.MustBeQuiet(t, m, nil)
}

// A flood of first packets, each from a socket of its own that is gone at
// once: no verdict can be given on all of them, but all of them are counted.
func TestFloodOfSYNs(t *testing.T) {
	b := harness.New(t)
	m := b.Mark()
	evil4, evil6 := b.V4(t, "evil.test").String(), b.V6(t, "evil.test").String()
	p := b.StartSandbox(append(harness.Allow("api.allowed.test"), "--no-proxy"), "sh", "-c",
		fmt.Sprintf("%[1]s flood %[2]s 1000-%[4]d; %[1]s flood %[3]s 1000-%[4]d; curl -sS --max-time 30 https://api.allowed.test/; echo done; exec sleep 1000", harness.Probe, evil4, evil6, allPorts))
	p.WaitFor("done")
	if kib := peakMemory(t, p.Cmd.Process.Pid); kib > maxSupervisor {
		t.Errorf("the supervisor has held %d KiB", kib)
	}
	b.Outcall("stop", p.Name).Must(t, 0)
	r := p.Wait()
	mustContain(t, "the allowed request", r.Stdout, apiBody)
	sent := 0
	for _, l := range r.Lines(t) {
		var n int
		if _, err := fmt.Sscan(l.Data, &n); err != nil || !l.OK {
			t.Errorf("%+v", l)
		}
		sent += n
	}
	denied, lost := refusedFlows(t, b, p.Name)
	if denied+lost < sent {
		t.Errorf("%d were sent, and the audit tells of %d and %d", sent, denied, lost)
	}
	b.MustBeQuiet(t, m, func(f world.Frame) bool {
		return f.Dst.Addr() != mustAddr(evil4) && f.Dst.Addr() != mustAddr(evil6)
	})
}
