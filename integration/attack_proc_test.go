package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// P1: the network that the agent stands in.
func TestP1NetworkIsNotItsOwn(t *testing.T) {
	b := harness.New(t)
	_, lines := b.Attempts(allowAPI, "netadmin")
	for _, l := range lines {
		if l.OK {
			t.Errorf("P1: %s succeeded", l.Target)
		}
	}
	// And after all these attempts the gate still stands.
	m := b.Mark()
	r := b.Sandbox(append(allowAPI, "--no-proxy"), "sh", "-c", harness.Probe+" netadmin; unshare -Ur "+harness.Probe+" netadmin; "+
		harness.Probe+" tcp x "+at(b.V4(t, "evil.test"), 443))
	lines = r.Lines(t)
	if l := lines[len(lines)-1]; l.OK {
		t.Errorf("P1: %+v", l)
	}
	b.MustBeQuiet(t, m, nil)
}

// P2: other namespaces.
func TestP2Namespaces(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	m := b.Mark()
	_, lines := b.Attempts(allowAPI, "namespaces", k.Word, at(b.V4(t, "evil.test"), b.Ports.Echo))
	for _, l := range lines {
		switch {
		case l.Op == "namespaces" && l.OK:
			for inner := range strings.Lines(l.Data) {
				if strings.Contains(inner, `"ok":true`) {
					t.Errorf("P2: %s: %s", l.Target, inner)
				}
			}
		case l.Op == "setns" && l.OK && l.Data != "same":
			t.Errorf("P2: entered %s: %s", l.Target, l.Data)
		case l.Op == "parent" && l.OK:
			t.Errorf("P2: the owner of the network namespace was given out")
		}
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
}

// P3: processes that are not the agent's.
func TestP3OtherProcesses(t *testing.T) {
	b := harness.New(t)
	secret := exec.Command("sleep", "1000")
	secret.Env = []string{"SECRET=p3-secret"}
	if err := secret.Start(); err != nil {
		t.Fatal(err)
	}
	defer secret.Wait()
	defer secret.Process.Kill()
	_, lines := b.Attempts(allowAPI, "look")
	for _, l := range lines {
		if strings.Contains(l.Data, "p3-secret") || strings.Contains(l.Data, "sleep 1000") {
			t.Errorf("P3: a process of the host is seen: %+v", l)
		}
		if what := filepath.Base(l.Target); l.OK && strings.HasPrefix(l.Target, "1/") && (what == "mem" || what == "environ" || what == "ptrace" || what == "root") {
			t.Errorf("P3: init's %s: %+v", what, l)
		}
	}
}

// P5 and the sockets under /run are K1's test; here is the environment.
func TestP5Environment(t *testing.T) {
	b := harness.New(t)
	b.Setenv("SSH_AUTH_SOCK=/x", "DBUS_SESSION_BUS_ADDRESS=unix:path=/x", "DISPLAY=:0", "WAYLAND_DISPLAY=w", "TMUX=/x,1,0", "STY=1",
		"XAUTHORITY=/x", "VSCODE_IPC_HOOK=/x", "DOCKER_SOCKET=/x", "http_proxy=http://evil.test:1", "No_Proxy=*", "KEPT=yes", "GPG_AGENT_SOCK=/x")
	r := b.Sandbox(append(allowAPI, "-e", "DISPLAY", "-e", "ADDED=1"), "env").Must(t, 0)
	mustLack(t, "environment", r.Stdout, "SSH_AUTH_SOCK", "DBUS_", "WAYLAND", "TMUX", "STY=", "XAUTHORITY", "VSCODE", "DOCKER_SOCKET", "evil.test", "GPG_AGENT")
	mustContain(t, "environment", r.Stdout, "KEPT=yes", "DISPLAY=:0", "ADDED=1",
		"HTTP_PROXY=http://10.200.0.1:8080\n", "https_proxy=http://10.200.0.1:8080\n", "ALL_PROXY=http://10.200.0.1:8080\n", "NO_PROXY=localhost,127.0.0.1,::1\n")
	r = b.Sandbox(append(allowAPI, "--no-proxy"), "env").Must(t, 0)
	for l := range strings.Lines(strings.ToLower(r.Stdout)) {
		if k, _, _ := strings.Cut(l, "="); strings.HasSuffix(k, "_proxy") {
			t.Errorf("--no-proxy left %s", l)
		}
	}
}

// P12: no way to more privileges.
func TestP12NoNewPrivileges(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox(allowAPI, "sh", "-c", "grep -E 'NoNewPrivs|CapEff|CapPrm|CapBnd|CapAmb|Seccomp:' /proc/self/status; id -u").Must(t, 0)
	mustContain(t, "status", r.Stdout, "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "Seccomp:\t2")
	if strings.HasSuffix(r.Stdout, "\n0\n") {
		t.Error("P12: uid 0 inside")
	}
	for _, c := range []string{"su -c id", "newuidmap $$ 0 0 1"} {
		if r := b.Sandbox(allowAPI, "sh", "-c", c+" </dev/null"); r.Code == 0 {
			t.Errorf("P12: %s: %s", c, r.Stdout)
		}
	}
}

// P14: what tries to outlive the session. The bed's own check for leftovers
// says whether it did.
func TestP14Daemons(t *testing.T) {
	b := harness.New(t)
	before := b.Snapshot()
	r := b.Sandbox(allowAPI, "sh", "-c", harness.Probe+" daemon; nohup sh -c 'trap \"\" TERM HUP INT; sleep 1000' >/dev/null 2>&1 & sleep 0.2; echo done")
	mustContain(t, "stdout", r.Must(t, 0).Stdout, "done")
	if left := b.LeftAfter(before, harness.Patience/30); len(left) > 0 {
		t.Errorf("P14: left: %v", left)
	}
}

// K24: a crash inside calls no core handler.
func TestK24Crash(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox(allowAPI, harness.Probe, "crash")
	if r.Code != 128+11 {
		t.Errorf("K24: code %d: %s", r.Code, r.Stderr)
	}
	lines := r.Lines(t)
	if len(lines) != 1 || lines[0].Data != "1 1" {
		t.Errorf("K24: the core limit is %+v, not 1 1", lines)
	}
}

// The view of contract 1.1.
func TestView(t *testing.T) {
	b := harness.New(t)
	b.Write("work/file", "mine\n")
	outside := "/tmp/outside-file"
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(outside)
	r := b.Sandbox(allowAPI, "sh", "-c", `cat file; echo new > made; ls -A /tmp | wc -l; cat /etc/resolv.conf; cat /etc/hosts; pwd; ls `+b.Home+"/.local/state/outcall "+b.Runtime+`/outcall 2>&1; id -u`).Must(t, 0)
	mustContain(t, "view", r.Stdout, "mine\n", "nameserver 10.200.0.1\n", "nameserver fd0c:a11::1\n", "options ndots:0", b.Work+"\n", "localhost")
	mustLack(t, "view", r.Stdout, "audit.jsonl", "outside-file")
	if _, err := os.Stat(b.Work + "/made"); err != nil {
		t.Errorf("the work directory is not the caller's: %v", err)
	}
	if e, err := os.ReadDir("/tmp"); err != nil || len(e) > 2 {
		t.Errorf("ghost files: %v %v", e, err)
	}
	r = b.Sandbox(allowAPI, "sh", "-c", "echo x > /sys/kernel/mm/ksm/run; echo x > /etc/evil; touch /tmp/inside /dev/shm/inside && ls /tmp /dev/shm").Must(t, 0)
	mustContain(t, "own places", r.Stdout, "inside")
	if _, err := os.Stat("/tmp/inside"); err == nil {
		t.Error("/tmp is the host's")
	}
}

// K6 and the rest that needs real root: WORLD_AS=root.
func TestRootIsNotRootInside(t *testing.T) {
	if world.As() != "root" {
		t.Skip("needs real root: run with WORLD_AS=root (make users)")
	}
	b := harness.New(t)
	r := b.Sandbox([]string{"--allow", "api.allowed.test"}, "sh", "-c",
		`id -u; echo evil > /proc/sys/kernel/core_pattern; echo 1 > /proc/sys/vm/overcommit_memory; cat /etc/shadow; ls /root; echo x > /etc/evil; whoami; echo $HOME`)
	if first := strings.SplitN(r.Stdout, "\n", 2)[0]; first != "1777" {
		t.Errorf("K6: the command ran as %q", first)
	}
	if n := strings.Count(strings.ToLower(r.Stderr), "permission denied") + strings.Count(r.Stderr, "Permission denied") + strings.Count(strings.ToLower(r.Stderr), "read-only"); n < 4 {
		t.Errorf("K6: not all was refused: %s", r.Stderr)
	}
	mustContain(t, "banner", r.Stderr, "1777")
	if _, err := os.Stat("/etc/evil"); err == nil {
		t.Error("K6: /etc was written")
		os.Remove("/etc/evil")
	}
}
