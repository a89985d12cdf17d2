package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"outcall/integration/harness"
	"outcall/integration/world"
)

func allowRule(name string) string {
	return fmt.Sprintf("  - id: allow-%[2]s\n    condition: 'dns.query == %[1]q || network.hostname == %[1]q'\n    action: allow\n",
		name, strings.ReplaceAll(name, ".", "-"))
}

// The command line, by script: testdata/*.txtar.
func TestCommandLine(t *testing.T) {
	b := harness.New(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			for _, kv := range b.Env {
				k, v, _ := strings.Cut(kv, "=")
				if k != "HOME" {
					e.Setenv(k, v)
				}
			}
			e.Setenv("HOME", e.WorkDir+"/home")
			return os.Mkdir(e.WorkDir+"/home", 0o755)
		},
		WorkdirRoot: b.Home,
		Cmds:        map[string]func(*testscript.TestScript, bool, []string){"code": codeCommand},
	})
}

// codeCommand is `code N PROGRAM ARG...`: the exit code must be N.
func codeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM [ARG...]")
	}
	program := args[1]
	if program == "outcall" {
		program = harness.Outcall // the script's PATH is not the test's
	}
	cmd := world.Command(program, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, k := range []string{"HOME", "PATH", "XDG_RUNTIME_DIR", "CURL_CA_BUNDLE", "TERM"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	out, err := cmd.CombinedOutput()
	got := 0
	if ee, ok := err.(*exec.ExitError); ok {
		got = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	ts.Logf("%s", out)
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, not %s", got, args[0])
	}
}

func TestExitCodes(t *testing.T) {
	b := harness.New(t)
	file := b.Write("work/not-executable", "x")
	for _, c := range []struct {
		code  int
		flags []string
		args  []string
	}{
		{0, nil, []string{"true"}}, {7, nil, []string{"sh", "-c", "exit 7"}}, {128 + 9, nil, []string{"sh", "-c", "kill -9 $$"}},
		{128 + 15, nil, []string{"sh", "-c", "kill -15 $$"}}, {127, nil, []string{"no-such-command"}}, {126, nil, []string{file}},
		{124, []string{"--timeout", "300ms"}, []string{"sleep", "1000"}}, {125, []string{"--rules", "/no/such/file"}, []string{"echo", "ran"}},
		{125, []string{"--audit", "/no/such/dir/a.jsonl"}, []string{"echo", "ran"}}, {2, []string{"--no-such-flag"}, []string{"echo", "ran"}},
		{2, []string{"--mode", "sometimes"}, []string{"echo", "ran"}},
	} {
		r := b.Sandbox(append([]string{"-q"}, c.flags...), c.args...)
		if r.Code != c.code {
			t.Errorf("run %v -- %v: code %d, not %d: %s", c.flags, c.args, r.Code, c.code, r.Stderr)
		}
		if r.Stdout != "" {
			t.Errorf("run %v -- %v: stdout %q", c.flags, c.args, r.Stdout)
		}
	}
}

func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			b := harness.New(t)
			p := b.StartSandbox(allowAPI, "sh", "-c", "echo ready; exec sleep 1000")
			p.WaitFor("ready")
			p.Cmd.Process.Signal(sig)
			if r := p.Wait(); r.Code != 128+int(sig) {
				t.Errorf("code %d: %s", r.Code, r.Stderr)
			}
		})
	}
}

func TestStop(t *testing.T) {
	b := harness.New(t)
	p := b.StartSandbox(allowAPI, "sh", "-c", `trap "" TERM; echo ready; while :; do sleep 1000; done`)
	p.WaitFor("ready")
	b.Outcall("stop", p.Name).Must(t, 0)
	if r := p.Wait(); r.Code < 128 {
		t.Errorf("code %d", r.Code)
	}
}

func TestSessionCommands(t *testing.T) {
	b := harness.New(t)
	p := b.StartSandbox(allowAPI, "sh", "-c", "echo ready; exec sleep 1000")
	p.WaitFor("ready")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"ps"}, []string{p.Name}}, {[]string{"bridge", "status"}, []string{"Bridge:    outcall0", "Status:    up", "nftables:  active"}},
		{[]string{"bridge", "exec", "--", "/bin/ls", "/sys/class/net"}, []string{"outcall0\n"}},
		{[]string{"rules", "list"}, []string{"cli-1", "cli-2"}}, {[]string{"dns", "status"}, []string{"10.200.0.1"}},
		{[]string{"dns", "test", "api.allowed.test"}, []string{"cli-1"}}, {[]string{"exec", p.Name, "--", "echo", "beside"}, []string{"beside"}},
		{[]string{"rules", "counters"}, []string{"cli-1"}}, {[]string{"rules", "reload"}, nil}, {[]string{"log", p.Name}, nil}, {[]string{"doctor"}, nil},
	} {
		r := b.Outcall(c.args...)
		if r.Code != 0 {
			t.Errorf("%v: code %d: %s", c.args, r.Code, r.Stderr)
		}
		mustContain(t, strings.Join(c.args, " "), r.Stdout, c.want...)
	}
	for _, args := range [][]string{{"ps", "--json"}, {"bridge", "status", "--json"}, {"rules", "list", "--json"}, {"rules", "counters", "--json"}, {"doctor", "--json"}} {
		if r := b.Outcall(args...); !json.Valid([]byte(strings.TrimSpace(r.Stdout))) {
			t.Errorf("%v: no JSON: %s %s", args, r.Stdout, r.Stderr)
		}
	}
	if r := b.Sandbox([]string{"--name", p.Name}, "true"); r.Code != 125 {
		t.Errorf("a live name was taken: %d", r.Code)
	}
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()
	r := b.Outcall("--socket", b.Runtime+"/outcall/gone/host.sock", "bridge", "status")
	if r.Code != 1 {
		t.Errorf("a dead socket: code %d", r.Code)
	}
	mustContain(t, "dead socket", r.Stderr, "error: daemon unreachable ("+b.Runtime+"/outcall/gone/host.sock: no such file or directory)")
}

func TestBridgeDownStopsEgress(t *testing.T) {
	b := harness.New(t)
	rules := harness.Allow("api.allowed.test")
	p := b.StartSandbox(append(rules, "--no-proxy"), "sh", "-c",
		"echo ready; exec sleep 1000")
	p.WaitFor("ready")
	if r := b.Outcall("--session", p.Name, "bridge", "down"); r.Code != 0 {
		t.Errorf("down: %s", r.Stderr)
	}
	m := b.Mark()
	r := b.Outcall("exec", p.Name, "--", "curl", "-sS", "--max-time", "3", "https://api.allowed.test/")
	if r.Code == 0 {
		t.Error("the bridge is down and a request passed")
	}
	b.MustBeQuiet(t, m, nil)
	if r := b.Outcall("--session", p.Name, "bridge", "up"); r.Code != 0 {
		t.Errorf("up: %s", r.Stderr)
	}
	if r := b.Outcall("exec", p.Name, "--", "curl", "-sS", "--max-time", "10", "https://api.allowed.test/"); r.Stdout != apiBody {
		t.Errorf("after up: %q %s", r.Stdout, r.Stderr)
	}
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()
}

// A reload opens and closes, live flows included, and a bad file changes nothing.
func TestReload(t *testing.T) {
	b := harness.New(t)
	file := b.Rules("r.yaml", allowRule("git.allowed.test"))
	cmd, name := b.SandboxCommand([]string{"-q", "--no-proxy", "--rules", file}, harness.Probe, "hold", "git.allowed.test:"+port(b.Ports.Echo))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	p.WaitFor("held")
	fmt.Fprintln(in, "one")
	p.WaitFor("one")
	b.Rules("r.yaml", "  - id: broken\n    condition: 'http_host == \"x\"'\n    action: allow\n")
	r := b.Outcall("--session", name, "rules", "reload")
	if r.Code != 1 {
		t.Errorf("a bad file was taken: %d", r.Code)
	}
	mustContain(t, "reload", r.Stderr, "r.yaml:4: CEL parse error: undefined identifier 'http_host' (did you mean http.host?)")
	fmt.Fprintln(in, "two")
	p.WaitFor("two")
	b.Rules("r.yaml", allowRule("api.allowed.test"))
	b.Outcall("--session", name, "rules", "reload").Must(t, 0)
	fmt.Fprintln(in, "three")
	p.WaitFor(`"ok":false`)
	in.Close()
	for _, l := range p.Wait().Lines(t) {
		if strings.Contains(l.Data, "three") {
			t.Error("the flow that the new rules deny is still alive")
		}
	}
}

// kill -9 of the supervisor at random points: the agent is gone within a
// second and nothing is left.
func TestKillSupervisor(t *testing.T) {
	points := 200
	if testing.Short() {
		points = 10
	}
	b := harness.New(t)
	start := b.StartSandbox(allowAPI, "echo", "ready").Wait().Must(t, 0).Took
	before := b.Snapshot()
	for i := range points {
		cmd, name := b.SandboxCommand(append(harness.Allow("api.allowed.test"), "--no-proxy"), "sh", "-c",
			harness.Probe+" daemon >/dev/null; while :; do curl -sS -o /dev/null https://api.allowed.test/; done")
		p := b.Start(cmd)
		delay := time.Duration(rand.Int64N(int64(start) * 2))
		select {
		case <-p.Done():
		case <-time.After(delay):
		}
		cmd.Process.Kill()
		p.Wait()
		if left := b.LeftAfter(before, time.Second, staleFileOf(name)); len(left) > 0 {
			t.Fatalf("point %d, %v after the start: left after a second: %v", i, delay, left)
		}
		before = b.Snapshot()
	}
	// Stale directories are removed by the next run or ps.
	b.Outcall("ps").Must(t, 0)
	entries, _ := os.ReadDir(b.Runtime + "/outcall")
	for _, e := range entries {
		if e.Name() != "lock~" {
			t.Errorf("stale: %s", e.Name())
		}
	}
}

// staleFileOf accepts the files of the session that was just killed: the next
// run or ps removes them.
func staleFileOf(name string) func(string) bool {
	return func(left string) bool {
		return strings.HasPrefix(left, "file ") && strings.Contains(left, "/outcall/"+name)
	}
}
