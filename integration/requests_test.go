package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"outcall/integration/harness"
)

// A loop is a session whose command waits, and what is done in it and to it.
type loop struct {
	*harness.Bed
	*harness.Proc
	t *testing.T
}

func startLoop(t *testing.T, b *harness.Bed, flags ...string) *loop {
	t.Helper()
	p := b.StartSandbox(flags, "sh", "-c", "echo ready; exec sleep 1000")
	p.WaitFor("ready\n")
	t.Cleanup(func() {
		b.Outcall("stop", p.Name) // it may have ended
		p.Wait()
	})
	return &loop{b, p, t}
}

// inside runs a command beside the session's.
func (l *loop) inside(args ...string) harness.Result {
	l.t.Helper()
	return l.Outcall(append([]string{"--session", l.Proc.Name, "exec", "--"}, args...)...)
}

// requests is the operator's side.
func (l *loop) requests(args ...string) harness.Result {
	l.t.Helper()
	return l.Outcall(append([]string{"--session", l.Proc.Name, "requests"}, args...)...)
}

// propose proposes rules from inside, as the command would.
func (l *loop) propose(file string) (id string) {
	l.t.Helper()
	path := l.Write("work/proposal.yaml", file)
	return strings.TrimSpace(l.inside("outcall-agent", "request", path).Must(l.t, 0).Stdout)
}

// A proposal is the agent API's answer.
type proposal struct {
	ID, Status, Reason string
}

const agentCall = `
call() { curl -sS --max-time 20 --unix-socket /run/outcall/agent.sock -H "Authorization: Bearer $token" "$@"; }
token=$(call -d '{}' http://agent/v1/checkin | sed 's/.*"session_token":"\([^"]*\)".*/\1/')
call http://agent/v1/requests/rules/`

// poll is the request's state as the command sees it.
func (l *loop) poll(id string) (p proposal) {
	l.t.Helper()
	out := l.inside("sh", "-c", agentCall+id).Must(l.t, 0).Stdout
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		l.t.Fatalf("agent API: %q: %v", out, err)
	}
	return p
}

// becomes waits for a state.
func (l *loop) becomes(id, status string) proposal {
	l.t.Helper()
	var p proposal
	harness.MustEventually(l.t, harness.Patience, id+" is "+status, func() bool { p = l.poll(id); return p.Status == status })
	return p
}

func ruleFile(items string) string { return "version: \"1\"\nrules:\n" + items }

var requestID = regexp.MustCompile(`^rr-[0-9a-f]{12}$`)

// The whole loop: denied, asked for, approved for a time, allowed, expired,
// denied again, and the flow that lived by it is closed.
func TestRequestLoop(t *testing.T) {
	b := harness.New(t)
	const name = "api.allowed.test"
	l := startLoop(t, b, "--allow", "git.allowed.test:22")
	web := curl("-o", "/dev/null", "https://"+name+"/")
	m := b.Mark()
	if l.inside(web...).Code == 0 {
		t.Fatal("allowed before it was asked for")
	}
	b.MustBeQuiet(t, m, nil)
	id := l.propose(ruleFile(allowRule(name)))
	if !requestID.MatchString(id) || l.poll(id).Status != "pending" {
		t.Fatalf("proposed: %q", id)
	}
	if l.inside(web...).Code == 0 {
		t.Error("allowed by a request that waits")
	}
	if again := l.propose(ruleFile(allowRule(name))); again != id {
		t.Errorf("asked twice: %s, %s", id, again)
	}
	mustContain(t, "requests list", l.requests("list").Must(t, 0).Stdout, id, l.Proc.Name, "pending")
	mustContain(t, "the banner's side", l.Errors(), "outcall: the agent proposes rules: outcall requests show "+id)
	shown := l.requests("show", id).Must(t, 0).Stdout
	mustContain(t, "requests show", shown, "+   - id: allow-api-allowed-test\n", "api.[allowed.test]", "connect CONNECT "+name+" tcp/443 (2 times", "sha256 ")
	mustContain(t, "requests show", shown, "would allow 2 of the last 2 denials\n", "and also opens\n  "+name+": dns A, tcp/443,")
	sum := regexp.MustCompile(`sha256 ([0-9a-f]{64})`).FindStringSubmatch(shown)
	if sum == nil {
		t.Fatalf("no hash:\n%s", shown)
	}
	// Nobody can be asked; a hash of something else approves nothing.
	r := l.requests("approve", id, "--for", "10m")
	if mustContain(t, "no terminal", r.Stderr, "--yes"); r.Code != 2 {
		t.Errorf("code %d", r.Code)
	}
	r = l.requests("approve", id, "--sha256", strings.Repeat("0", 64))
	if mustContain(t, "another hash", r.Stderr, "not the one that was shown"); r.Code != 1 || l.poll(id).Status != "pending" {
		t.Errorf("code %d", r.Code)
	}
	const howLong = 15 * time.Second
	l.requests("approve", id, "--for", howLong.String(), "--sha256", sum[1]).Must(t, 0)
	until := time.Now().Add(howLong)
	l.inside(web...).Must(t, 0)
	mustContain(t, "rules list", b.Outcall("--session", l.Proc.Name, "rules", "list").Must(t, 0).Stdout, "allow-api-allowed-test", "request:"+id)
	spec := "raw,4," + name + "," + port(b.Ports.Echo)
	k := l.keep(spec)
	if got := k.do("send One")[spec]; !got.OK {
		t.Errorf("an allowed flow: %+v", got)
	}
	// A reload of the operator's files keeps what is approved.
	b.Outcall("--session", l.Proc.Name, "rules", "reload").Must(t, 0)
	if time.Now().Before(until) && l.poll(id).Status != "approved" && time.Now().Before(until) {
		t.Error("the reload has ended the approval")
	}
	l.becomes(id, "expired")
	mustContain(t, "outcall-agent status", l.inside("outcall-agent", "status", id).Stdout, "expired")
	if early := time.Until(until); early > time.Second {
		t.Errorf("expired %v too early", early)
	}
	k.mustLive(b, 2, func(string) bool { return false })
	m = b.Mark()
	if l.inside(web...).Code == 0 {
		t.Error("allowed after its time")
	}
	b.MustBeQuiet(t, m, nil)
	l.audited("approved until ", "has expired: 1 rule gone", "the agent proposes rules")
}

// keep opens a connection beside the session's command.
func (l *loop) keep(specs ...string) *keeper {
	l.t.Helper()
	cmd := l.Command(append([]string{"--session", l.Proc.Name, "exec", "--", harness.Probe, "keep"}, specs...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	k := &keeper{Proc: l.Start(cmd), t: l.t, in: in}
	k.Name = l.Proc.Name
	k.WaitFor("kept\n")
	for _, x := range k.lines() {
		if !x.OK {
			l.t.Fatalf("not opened: %+v", x)
		}
	}
	return k
}

// audited demands policy lines that contain the texts.
func (l *loop) audited(texts ...string) {
	l.t.Helper()
	var got strings.Builder
	for _, e := range l.Events(l.t, l.Proc.Name) {
		if e.Event == "policy" {
			got.WriteString(e.ID + " " + e.Reason + "\n")
		}
	}
	mustContain(l.t, "audit", got.String(), texts...)
}

// What is approved for good is loaded by the next run of the project, beside
// --rules, too, and by no other project's; until it is revoked.
func TestRequestForGood(t *testing.T) {
	b := harness.New(t)
	const name = "api.allowed.test"
	l := startLoop(t, b)
	id := l.propose(ruleFile(allowRule(name)))
	waiting := l.propose(ruleFile(allowRule("www.evil.test")))
	l.requests("approve", id, "--yes").Must(t, 0)
	web := curl("-o", "/dev/null", "https://"+name+"/")
	l.inside(web...).Must(t, 0)
	b.Outcall("stop", l.Proc.Name).Must(t, 0)
	l.Wait()

	operator := b.Rules("r.yaml", allowRule("git.allowed.test"))
	r := b.Sandbox([]string{"--rules", operator}, web...).Must(t, 0)
	mustContain(t, "banner", r.Stderr, "1 approved request", "1 rule request waiting: outcall requests list")
	other := b.Write("elsewhere/x", "")
	cmd, _ := b.SandboxCommand([]string{"-q"}, web...)
	cmd.Dir = filepath.Dir(other)
	if os.Chown(cmd.Dir, agentOwner(t, b), -1) != nil || b.Start(cmd).Wait().Code == 0 {
		t.Error("another project's run is allowed, too")
	}

	// A block of the operator stands before it, whatever its priority.
	low := b.Rules("block.yaml", strings.Replace(blockRule(name), "priority: 1\n", "priority: 2000000000\n", 1))
	if b.Sandbox([]string{"-q", "--rules", low}, web...).Code == 0 {
		t.Error("it stands before a block of the operator")
	}
	// A file of the operator that takes its id wins; that is said.
	taken := b.Rules("taken.yaml", strings.ReplaceAll(allowRule("git.allowed.test"), "allow-git-allowed-test", "allow-api-allowed-test"))
	r = b.Sandbox([]string{"--rules", taken}, web...)
	if mustContain(t, "banner", r.Stderr, id+" is not in force"); r.Code == 0 {
		t.Error("allowed by a request that does not fit")
	}

	l = startLoop(t, b)
	k := l.keep("raw,4," + name + "," + port(b.Ports.Echo))
	r = l.requests("revoke", id).Must(t, 0)
	mustContain(t, "revoke", r.Stdout, "1 flow(s) closed")
	k.mustLive(b, 3, func(string) bool { return false })
	if got := l.poll(id); got.Status != "rejected" || got.Reason != "the approval was taken back" {
		t.Errorf("after the revocation: %+v", got)
	}
	l.requests("reject", waiting, "--reason", "not that host").Must(t, 0)
	if got := l.poll(waiting); got.Status != "rejected" || got.Reason != "not that host" {
		t.Errorf("after the rejection: %+v", got)
	}
	mustContain(t, "requests list", l.requests("list").Must(t, 0).Stdout, "No pending rule requests.")
	mustContain(t, "requests list", l.requests("list", "--all").Must(t, 0).Stdout, "not that host", "the approval was taken back")
	l.audited("was taken back (the approval was taken back): 1 rule gone, 1 flow closed", "rejected: not that host")
}

// agentOwner is the owner of the work directory.
func agentOwner(t *testing.T, b *harness.Bed) int {
	t.Helper()
	st, err := os.Stat(b.Work)
	if err != nil {
		t.Fatal(err)
	}
	return int(ownerOf(st))
}

// Two sessions of one project share what waits and what is approved; what one
// takes back is gone in the other at once.
func TestRequestsOfTwoSessions(t *testing.T) {
	b := harness.New(t)
	const name = "api.allowed.test"
	one, two := startLoop(t, b, "-q"), startLoop(t, b, "-q")
	id := one.propose(ruleFile(allowRule(name)))
	mustContain(t, "the other session", two.requests("list").Must(t, 0).Stdout, id, one.Proc.Name)
	two.requests("approve", id, "--yes").Must(t, 0)
	web := curl("-o", "/dev/null", "https://"+name+"/")
	two.inside(web...).Must(t, 0)
	harness.MustEventually(t, harness.Patience, "the first session allows it, too", func() bool { return one.inside(web...).Code == 0 })
	k := one.keep("raw,4," + name + "," + port(b.Ports.Echo))
	two.requests("revoke", id).Must(t, 0)
	k.mustLive(b, 1, func(string) bool { return false })
	if one.inside(web...).Code == 0 {
		t.Error("allowed in the first session after the second took it back")
	}
	one.audited("was approved in another session: 1 rule in force", "was taken back")
}

// K7 and the house's fourth invariant: nothing of the store is to be seen or
// written inside, by whatever name.
func TestK7RequestStore(t *testing.T) {
	b := harness.New(t)
	l := startLoop(t, b, "-q")
	id := l.propose(ruleFile(allowRule("api.allowed.test")))
	dir := filepath.Join(b.Home, ".local/state/outcall/requests~")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || fi.Mode() != 0o600 {
			t.Errorf("K7: %s: %v %v", e.Name(), fi.Mode(), err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 || len(entries) < 2 {
		t.Errorf("K7: %v %v %v", fi.Mode(), err, entries)
	}
	file := filepath.Join(dir, entries[0].Name())
	before := hashes(t, []string{file})
	script := fmt.Sprintf("ls -la %[1]s %[2]s 2>&1; cat %[1]s/* 2>&1; mkdir -p %[1]s && echo x > %[3]s; mv %[2]s %[2]s.old; find / -name '%[4]s*' 2>/dev/null; true",
		dir, filepath.Dir(dir), file, filepath.Base(entries[0].Name()))
	out := l.inside("sh", "-c", script).Must(t, 0).Stdout
	mustLack(t, "inside", strings.ReplaceAll(out, file, ""), id, "rule_file", entries[0].Name())
	same(t, before, hashes(t, []string{file}))
	if l.poll(id).Status != "pending" {
		t.Error("K7: the request has gone")
	}
}

// A store that cannot be read approves nothing and is told with its mend; no
// session is lost by it.
func TestRequestStoreIsCorrupt(t *testing.T) {
	b := harness.New(t)
	l := startLoop(t, b, "-q")
	id := l.propose(ruleFile(allowRule("api.allowed.test")))
	l.requests("approve", id, "--yes").Must(t, 0)
	web := curl("-o", "/dev/null", "https://api.allowed.test/")
	l.inside(web...).Must(t, 0)
	k := l.keep("raw,4,api.allowed.test," + port(b.Ports.Echo))
	files, err := filepath.Glob(filepath.Join(b.Home, ".local/state/outcall/requests~/*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte(`{"version":1,`), 0o600); err != nil {
		t.Fatal(err)
	}
	k.mustLive(b, 1, func(string) bool { return false })
	if l.inside(web...).Code == 0 {
		t.Error("what cannot be read is in force")
	}
	r := l.requests("list")
	if mustContain(t, "requests list", r.Stderr, files[0]+" is corrupt", "remove it to begin anew"); r.Code != 1 {
		t.Errorf("code %d", r.Code)
	}
	if r = l.inside("outcall-agent", "request", b.Write("work/p.yaml", ruleFile(allowRule("www.evil.test")))); r.Code == 0 {
		t.Errorf("a request was kept: %s", r.Stdout)
	}
	mustLack(t, "inside", r.Stdout+r.Stderr, files[0])
	r = b.Sandbox(nil, "true").Must(t, 0)
	mustContain(t, "banner", r.Stderr, "is corrupt")
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	mustContain(t, "requests list", l.requests("list").Must(t, 0).Stdout, "No pending rule requests.")
}
