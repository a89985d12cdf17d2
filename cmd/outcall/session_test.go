package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// harmless fails if a terminal could be steered by out.
func harmless(t *testing.T, what, out string) {
	t.Helper()
	for _, r := range out {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			t.Errorf("%s prints %q", what, r)
			return
		}
	}
}

func TestSessionCommands(t *testing.T) {
	env := testEnv(t)
	f, s := startSession(t, env, "one")
	f.lines = []string{
		`{"time":"2026-01-02T03:04:05Z","seq":1,"event":"verdict","layer":"dns","verdict":"deny","query":"evil\u001b[2J\u202e","rule":"default policy","id":"d-1"}`,
		`{"time":"2026-01-02T03:04:05Z","seq":2,"event":"verdict","layer":"flow","verdict":"allow","ip":"192.0.2.1","port":443,"rule":"a"}`,
	}
	for _, tt := range []struct {
		args string
		code int
		want []string
	}{
		{"ps", 0, []string{"NAME", "one", `agent 'evil\x1b]0;owned\a\u202etest\n'`}},
		{"bridge status", 0, []string{"Bridge:    outcall0\nStatus:    up\nIndex:     2\nnftables:  active\n"}},
		{"bridge status --json", 0, []string{`"nftables_active": true`, `"index": 2`}},
		{"--socket " + s.Info.Socket + " bridge status", 0, []string{"outcall0"}},
		{"bridge status --socket " + s.Info.Socket, 0, []string{"outcall0"}},
		{"--session one bridge status", 0, []string{"outcall0"}},
		{"bridge nft", 0, []string{"table inet outcall {\n\tchain r_\\x1b[2J {\n"}},
		{"rules list", 0, []string{"/r.yaml:5", `evil\x1b]0;owned\a\u202etest\n`}},
		{"rules counters", 0, []string{"a", "3", "NXDOMAIN", "7"}},
		{"rules reload", 0, []string{"warning: /r.yaml:2: unused definition\n", "1 files, 3 rules\n"}},
		{"rules reload --dry-run --json", 0, []string{`"files_loaded": 1`, `"dry_run": true`}},
		{"dns status", 0, []string{"10.200.0.1", "ss in the gateway shows no socket"}},
		{"dns test x.test", 1, []string{"NXDOMAIN", "default policy"}},
		{"flows list", 0, []string{"f-1"}},
		{"explain https://x/", 0, []string{"deny"}},
		{"log", 0, []string{"deny", `\x1b`, "192.0.2.1"}},
		{"log one --denied", 0, []string{"default policy"}},
		{"log one --json --denied", 0, []string{`"seq":1,`}},
		{"log nosuch", 1, nil},
		{"--session two bridge status", 1, nil},
		{"exec one -- /bin/sh -c true", 0, nil},
		{"exec -- /bin/echo hello", 0, []string{"hello\n"}},
		{"exec one /bin/false", 1, nil},
		{"exec one -- /no/such/program", 127, nil},
		{"exec one -- /etc/passwd", 126, nil},
		{"bridge exec -- /bin/echo gw", 0, []string{"gw\n"}},
	} {
		code, out, errOut := call(t, env, strings.Fields(tt.args)...)
		if code != tt.code {
			t.Errorf("%s: code %d, want %d (%s%s)", tt.args, code, tt.code, out, errOut)
		}
		for _, w := range tt.want {
			if !strings.Contains(out, w) {
				t.Errorf("%s prints\n%s\nwithout %q", tt.args, out, w)
			}
		}
		harmless(t, tt.args, out)
		harmless(t, tt.args, errOut)
	}
	if _, out, _ := call(t, env, "log", "--denied"); strings.Contains(out, "192.0.2.1") {
		t.Errorf("log --denied prints an allow:\n%s", out)
	}
	if code, out, _ := call(t, env, "ps", "--json"); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("ps --json: %d, %s", code, out)
	}
}

func TestReloadRefused(t *testing.T) {
	env := testEnv(t)
	f, _ := startSession(t, env, "one")
	f.reloadErr = errors.New("/etc/outcall/rules.d/agent.yaml:5: CEL parse error: undefined identifier 'http_host'")
	code, out, errOut := call(t, env, "rules", "reload")
	if code != 1 || out != "" || errOut != "outcall: error: "+f.reloadErr.Error()+"\n" {
		t.Errorf("code %d, %q, %q", code, out, errOut)
	}
}

func TestPrewarm(t *testing.T) {
	env := testEnv(t)
	f, _ := startSession(t, env, "one")
	if code, _, _ := call(t, env, "dns", "prewarm", "a.test"); code != 1 {
		t.Errorf("a name that is denied: code %d", code)
	}
	f.rcode = "NOERROR"
	if code, out, _ := call(t, env, "dns", "prewarm", "b.test"); code != 0 || strings.Count(out, "NOERROR") != 2 {
		t.Errorf("code %d, %s", code, out)
	}
	if got := strings.Join(f.kept, ","); got != "a.test A,a.test AAAA,b.test A,b.test AAAA" {
		t.Errorf("asked %s", got)
	}
}

func TestWhichSession(t *testing.T) {
	env := testEnv(t)
	want := func(text string, args ...string) {
		t.Helper()
		if code, _, errOut := call(t, env, args...); code != 1 || !strings.Contains(errOut, text) {
			t.Errorf("%q: %d, %q; want %q", args, code, errOut, text)
		}
	}
	want("no session is running", "bridge", "status")
	want("error: daemon unreachable (/no/such.sock: no such file or directory)\n", "bridge", "status", "--socket", "/no/such.sock")
	startSession(t, env, "a")
	startSession(t, env, "b")
	want("several sessions are running, name one with --session: a, b", "rules", "list")
	want(`session "c" is not running (running: a, b)`, "rules", "list", "--session", "c")
	if code, out, _ := call(t, env, "rules", "list", "--session", "b"); code != 0 || out == "" {
		t.Errorf("--session b: %d", code)
	}
}

func TestStopAndFollow(t *testing.T) {
	env := testEnv(t)
	f, _ := startSession(t, env, "one")
	f.lines = []string{`{"event":"start","time":"2026-01-02T03:04:05Z","seq":1}`}
	done := make(chan int, 1)
	r, w := io.Pipe()
	go func() {
		a := &app{io: stdio{strings.NewReader(""), w, io.Discard}, env: env}
		root := a.root()
		root.SetArgs([]string{"log", "-f", "one"})
		done <- a.finish(root.ExecuteContext(t.Context()))
		w.Close()
	}()
	buf := make([]byte, 256)
	if n, err := r.Read(buf); err != nil || !strings.Contains(string(buf[:n]), "start") {
		t.Fatalf("the first line is not there at once: %q, %v", buf[:n], err)
	}
	if code, _, errOut := call(t, env, "stop", "one"); code != 0 {
		t.Errorf("stop: %d, %s", code, errOut)
	}
	if code := <-done; code != 0 {
		t.Errorf("log -f ended with %d", code)
	}
}

// The audit of a session that has ended is read from its file, and `log
// verify` names the first line that does not fit.
func TestEndedSession(t *testing.T) {
	env := testEnv(t)
	path := env.AuditPath("gone")
	os.MkdirAll(filepath.Dir(path), 0o700)
	os.WriteFile(path, []byte(`{"time":"2026-01-02T03:04:05Z","seq":1,"prev":"x","event":"verdict","verdict":"deny","query":"q.test"}`+"\nbroken\x1b\n"), 0o600)
	code, out, errOut := call(t, env, "log", "gone")
	if code != 0 || !strings.Contains(out, "q.test") || !strings.Contains(out, `? broken\x1b`) {
		t.Errorf("log gone: %d, %q, %q", code, out, errOut)
	}
	harmless(t, "log gone", out)
	if code, _, errOut := call(t, env, "log", "verify", path); code != 1 || !strings.Contains(errOut, path+":1: ") {
		t.Errorf("log verify: %d, %q", code, errOut)
	}
	if code, _, _ := call(t, env, "log", "verify", path, "--head", "xyz"); code != exitUsage {
		t.Errorf("a head that is no hash: %d", code)
	}
	if code, _, _ := call(t, env, "log", "-f", "gone"); code != 1 {
		t.Errorf("follow of an ended session: %d", code)
	}
	if code, _, _ := call(t, env, "log", "../gone"); code != 1 {
		t.Errorf("a name that is a path: %d", code)
	}
}

func TestRulesCheckAndTrust(t *testing.T) {
	env := testEnv(t)
	dir := t.TempDir()
	rules := filepath.Join(dir, ".outcall", "rules")
	os.MkdirAll(rules, 0o755)
	file := filepath.Join(rules, "r.yaml")
	os.WriteFile(file, []byte("version: \"1\"\nrules:\n  - id: a\n    condition: 'dns.query == \"a.test\"'\n    action: allow\n"), 0o644)
	if code, out, errOut := call(t, env, "rules", "check", file); code != 0 || !strings.Contains(out, "1 files, 1 rules\n") {
		t.Errorf("check: %d, %q, %q", code, out, errOut)
	}
	code, out, errOut := call(t, env, "trust", dir)
	if code != 0 || !strings.Contains(out, "trusted:") || !strings.Contains(out, "a.test") {
		t.Errorf("trust: %d, %q, %q", code, out, errOut)
	}
	loaded := func() (int, string) {
		var b bytes.Buffer
		a := &app{io: stdio{err: &b}, env: env}
		read, err := a.sourcesOf(a.places(dir, nil, nil))
		if err != nil {
			t.Fatal(err)
		}
		src, err := read()
		if err != nil {
			t.Fatal(err)
		}
		return len(src), b.String()
	}
	if n, note := loaded(); n != 1 || note != "" {
		t.Errorf("trusted: %d files, %q", n, note)
	}
	os.WriteFile(file, []byte("version: \"1\"\nrules:\n  - id: a\n    condition: 'http_host == \"a.test\"'\n    action: allow\n"), 0o644)
	if n, note := loaded(); n != 0 || strings.Count(note, "\n") != 1 || !strings.Contains(note, "outcall trust") {
		t.Errorf("changed after trust: %d files, %q", n, note)
	}
	code, out, _ = call(t, env, "rules", "check", file)
	if want := file + ":4: CEL parse error: undefined identifier 'http_host' (did you mean http.host?)\n"; code != 1 || out != want {
		t.Errorf("check of a bad rule: %d, %q", code, out)
	}
	if code, _, _ := call(t, env, "trust", dir); code != 1 {
		t.Errorf("a rule that does not load was trusted: %d", code)
	}
}

func TestExplainWithoutSession(t *testing.T) {
	env := testEnv(t)
	code, out, errOut := call(t, env, "explain", "https://a.test/", "--allow", "a.test", "--ip", "198.41.0.4")
	if code != 0 || !strings.Contains(out, "allow") || !strings.Contains(out, "cli-1") {
		t.Errorf("%d, %q, %q", code, out, errOut)
	}
	if code, out, _ := call(t, env, "explain", "https://b.test/", "--allow", "a.test", "--ip", "198.41.0.4", "--json"); code != 0 || !strings.Contains(out, `"verdict": "deny"`) {
		t.Errorf("%d, %s", code, out)
	}
}

// exec with a terminal: the command gets one of the same size, keys go
// through raw, and the caller's terminal is as before at the end.
func TestExecTerminal(t *testing.T) {
	env := testEnv(t)
	startSession(t, env, "one")
	outer, tty, err := pty.Open()
	if err != nil {
		t.Fatalf("a pty cannot be had (is /dev/ptmx there?): %v", err)
	}
	defer outer.Close()
	defer tty.Close()
	pty.Setsize(outer, &pty.Winsize{Rows: 33, Cols: 77})
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	a := &app{io: stdio{tty, tty, io.Discard}, env: env}
	root := a.root()
	root.SetArgs([]string{"exec", "one", "--", "/bin/sh", "-c", `stty size; read x; echo "got $x"; test -t 0 && test -t 1 && exit 9`})
	done := make(chan int, 1)
	go func() { done <- a.finish(root.ExecuteContext(t.Context())) }()
	seen := readUntil(t, outer, "33 77")
	outer.Write([]byte("key\r"))
	seen += readUntil(t, outer, "got key")
	if code := <-done; code != 9 {
		t.Errorf("code %d; the terminal showed %q", code, seen)
	}
	after, err := term.GetState(int(tty.Fd()))
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as before: %v", err)
	}
}

func readUntil(t *testing.T, f *os.File, want string) string {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(20 * time.Second))
	var seen []byte
	buf := make([]byte, 1024)
	for !bytes.Contains(seen, []byte(want)) {
		n, err := f.Read(buf)
		seen = append(seen, buf[:n]...)
		if err != nil {
			t.Fatalf("the terminal showed %q without %q: %v", seen, want, err)
		}
	}
	return string(seen)
}
