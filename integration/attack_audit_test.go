package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// K7, C13: beside a named audit stand those of older sessions.
func TestK7AuditOfOlderSessions(t *testing.T) {
	b := harness.New(t)
	dir := filepath.Join(b.Home, "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	audit := dir + "/a.jsonl"
	flags := append([]string{"-q", "--audit", audit}, allowAPI...)
	b.Sandbox(flags, curl("https://evil.test/")...)
	older := hashes(t, []string{audit})[audit]
	b.Sandbox(flags, "sh", "-c", harness.Probe+" write "+audit+" "+audit+".1; "+harness.Probe+" replace "+audit+" "+audit+".1; cd logs; "+
		"echo x >> a.jsonl.1; rm -f a.jsonl.1; mv a.jsonl.1 x; echo forged > a.jsonl.2; mv ../logs ../moved")
	if got := hashes(t, []string{audit + ".1"})[audit+".1"]; got != older {
		t.Errorf("K7: an older session's audit is %s, was %s", got, older)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("K7: %v %v", entries, err)
	}
	b.Outcall("log", "verify", audit).Must(t, 0)
	// The directory is protected, so nobody works in it.
	r := b.Sandbox([]string{"--audit", audit, "--workdir", dir}, "echo", "ran").Must(t, 125)
	mustContain(t, "refusal", r.Stderr, "protect", dir)
	if r.Stdout != "" {
		t.Errorf("%q", r.Stdout)
	}
}

// A session whose audit's disk is full denies what it cannot write down, and
// goes on when there is room again.
func TestAuditDiskFull(t *testing.T) {
	b := harness.New(t)
	const inside = `one() { curl -sS --max-time 20 https://api.allowed.test/ >/dev/null 2>&1; }
wait_for() { n=0; while [ ! -e "$1" ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done; }
one && echo first
echo > full; wait_for filled
# What is left of the file's last page takes some lines yet.
n=0; while one && [ $n -lt 100 ]; do n=$((n+1)); done; [ $n -lt 100 ] && echo denied
one || echo denied again
echo > free; wait_for freed
n=0; while ! one && [ $n -lt 30 ]; do sleep 0.5; n=$((n+1)); done; [ $n -lt 30 ] && echo last`
	const outside = `state=$HOME/.local/state; mkdir -p $state && mount -t tmpfs -o size=128k none $state || exit 99
"$0" run -n full --allow api.allowed.test -- sh -c "$1" &
wait_for() { n=0; while [ ! -e "$1" ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done; }
wait_for full; cat /dev/zero > $state/fill 2>/dev/null; echo > filled
wait_for free; rm $state/fill; echo > freed
wait $!; echo "code $?"
"$0" log verify $state/outcall/full/audit.jsonl >/dev/null && echo verified
grep -c '"reason":"the audit cannot be written' $state/outcall/full/audit.jsonl`
	r := b.Start(b.Program("unshare", "-Urm", "sh", "-c", outside, harness.Outcall, inside)).Wait()
	want := "first\ndenied\ndenied again\nlast\ncode 0\nverified\n"
	if !strings.HasPrefix(r.Stdout, want) || strings.HasSuffix(r.Stdout, "\n0\n") {
		t.Errorf("got %q, want %q and the denials' count\n%s", r.Stdout, want, r.Stderr)
	}
	if n := strings.Count(r.Stderr, "no space left on device: every further attempt is denied"); n != 1 {
		t.Errorf("told %d times:\n%s", n, r.Stderr)
	}
	mustContain(t, "standard error", r.Stderr, "audit: written again")
}

// A disk that is full from the start is no place for an audit.
func TestAuditDiskFullAtStart(t *testing.T) {
	b := harness.New(t)
	const script = `mkdir -m 700 logs && mount -t tmpfs -o size=64k,mode=700 none logs || exit 99
cat /dev/zero > logs/fill 2>/dev/null
"$0" run -q --audit $PWD/logs/a.jsonl -- echo ran`
	cmd := b.Program("unshare", "-Urm", "sh", "-c", script, harness.Outcall)
	cmd.Dir = b.Home
	r := b.Start(cmd).Wait().Must(t, 125)
	if r.Stdout != "" {
		t.Errorf("%q", r.Stdout)
	}
	mustContain(t, "refusal", r.Stderr, "audit", "no space left on device")
}
