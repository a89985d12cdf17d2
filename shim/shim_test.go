package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"outcall/shim/ask"
	"outcall/shim/child"
)

const token = "tok-0123456789abcdef0123456789abcdef"

// agentAPI is the session's side, as far as the shim sees it: a real HTTP
// server whose two answers a test chooses.
type agentAPI struct {
	mu      sync.Mutex
	asked   []map[string]any
	tokens  []string
	checkin func(w http.ResponseWriter)
	verdict func(w http.ResponseWriter)
}

func answer(status int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func serveAgent(t testing.TB, a *agentAPI) string {
	t.Helper()
	if a.checkin == nil {
		a.checkin = answer(200, `{"container_id":"s","session_token":"`+token+`","context_keys":[]}`)
	}
	dir, err := os.MkdirTemp("", "shim")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/checkin", func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); string(b) != "{}" {
			t.Errorf("check-in body %q", b)
		}
		a.checkin(w)
	})
	mux.HandleFunc("POST /v1/permissions/check", func(w http.ResponseWriter, r *http.Request) {
		var q map[string]any
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Errorf("question: %v", err)
		}
		a.mu.Lock()
		a.asked = append(a.asked, q)
		a.tokens = append(a.tokens, r.Header.Get("Authorization"))
		a.mu.Unlock()
		a.verdict(w)
	})
	srv := &http.Server{Handler: mux}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close(); os.RemoveAll(dir) })
	return path
}

// run plays one call of the shim and says what it would have become.
func run(t *testing.T, socket string, env []string, args ...string) (code int, ran []string, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = Main(t.Context(), Caller{
		Args: args, Env: append([]string{"PATH=/nonexistent:/usr/bin:/bin", "OUTCALL_AGENT_SOCK=" + socket}, env...), Dir: "/project", Version: "v1",
		Stdout: &out, Stderr: &errOut,
		Run: func(c child.Command) (int, error) {
			if err := syscall.Access(c.Path, 1); err != nil { // X_OK: what execve would say
				return 0, err
			}
			ran = append([]string{c.Path}, c.Argv...)
			return 0, nil
		},
	})
	return code, ran, out.String(), errOut.String()
}

var allow = answer(200, `{"allowed":true,"matched_rule":"r","reason":null}`)

func TestAllowed(t *testing.T) {
	a := &agentAPI{verdict: allow}
	sock := serveAgent(t, a)
	type m = map[string]any
	for _, tt := range []struct {
		args []string
		ran  []string
		want m
	}{
		{[]string{"exec", "true"}, []string{"true"}, m{"action_type": "tool_exec", "target": "true", "metadata": m{"cwd": "/project"}}},
		{[]string{"true", "-x", "a b"}, []string{"true", "-x", "a b"}, m{"action_type": "tool_exec", "target": "true",
			"metadata": m{"cwd": "/project", "args": "-x a b", "args_json": `["-x","a b"]`}}},
		{[]string{"true", "--version"}, []string{"true", "--version"}, m{"action_type": "tool_exec", "target": "true",
			"metadata": m{"cwd": "/project", "args": "--version", "args_json": `["--version"]`}}},
		{[]string{"exec", "--", "true"}, []string{"true"}, m{"action_type": "tool_exec", "target": "true", "metadata": m{"cwd": "/project"}}},
		{[]string{"--", "fetch"}, nil, m{"action_type": "tool_exec", "target": "fetch", "metadata": m{"cwd": "/project"}}},
		{[]string{"bash", "true", "x"}, []string{"true", "x"}, m{"action_type": "shell_exec", "target": "true",
			"metadata": m{"cwd": "/project", "args": "x", "args_json": `["x"]`}}},
		{[]string{"sh", "true"}, []string{"true"}, m{"action_type": "shell_exec", "target": "true", "metadata": m{"cwd": "/project"}}},
		{[]string{"fetch", "https://h/p?q"}, nil, m{"action_type": "network_call", "target": "https://h/p?q", "metadata": m{"method": "GET"}}},
		{[]string{"fetch", "h:22", "post"}, nil, m{"action_type": "network_call", "target": "h:22", "metadata": m{"method": "POST"}}},
		{[]string{"file", "../etc/passwd"}, nil, m{"action_type": "file_access", "target": "/etc/passwd", "metadata": m{"mode": "read", "cwd": "/project"}}},
		{[]string{"read", "/a/../b"}, nil, m{"action_type": "file_access", "target": "/b", "metadata": m{"mode": "read", "cwd": "/project"}}},
		{[]string{"write", "f"}, nil, m{"action_type": "file_access", "target": "/project/f", "metadata": m{"mode": "write", "cwd": "/project"}}},
	} {
		a.asked = nil
		code, ran, stdout, stderr := run(t, sock, nil, tt.args...)
		if tt.args[0] == "--" { // nothing of that name to run
			if code != exitNotFound {
				t.Errorf("%q: code %d", tt.args, code)
			}
		} else if code != 0 || stdout != "" || stderr != "" {
			t.Errorf("%q: code %d, %q, %q", tt.args, code, stdout, stderr)
		}
		if len(ran) > 0 {
			if !filepath.IsAbs(ran[0]) {
				t.Errorf("%q became %q", tt.args, ran[0])
			}
			ran = ran[1:]
		}
		if !slices.Equal(ran, tt.ran) {
			t.Errorf("%q became %q, want %q", tt.args, ran, tt.ran)
		}
		got, _ := json.Marshal(a.asked)
		want, _ := json.Marshal([]m{tt.want})
		if string(got) != string(want) {
			t.Errorf("%q asked %s\nwant %s", tt.args, got, want)
		}
	}
	if a.tokens[0] != "Bearer "+token {
		t.Errorf("Authorization %q", a.tokens[0])
	}
}

func TestDenied(t *testing.T) {
	a := &agentAPI{}
	sock := serveAgent(t, a)
	for body, want := range map[string]string{
		`{"allowed":false,"matched_rule":"no-git","reason":"blocked by policy"}`: "outcall-agent: denied by no-git: blocked by policy\n",
		`{"allowed":false,"matched_rule":null,"reason":null}`:                    "outcall-agent: denied by default policy: no rule allows it\n",
		`{"allowed":false}`: "outcall-agent: denied by default policy: no rule allows it\n",
		`{"allowed":false,"matched_rule":"\u001b]0;x\u0007","reason":"\u202ecba\n"}`: `outcall-agent: denied by \x1b]0;x\a: \u202ecba\n` + "\n",
	} {
		a.verdict = answer(200, body)
		for _, args := range [][]string{{"exec", "true"}, {"fetch", "h"}, {"write", "f"}} {
			code, ran, _, stderr := run(t, sock, nil, args...)
			if code != exitDenied || ran != nil || stderr != want {
				t.Errorf("%s, %q: code %d, ran %q, %q; want 1, nothing, %q", body, args, code, ran, stderr, want)
			}
		}
	}
}

// Everything that is no verdict runs nothing and is exit 5.
func TestNoVerdict(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	stuck := func(http.ResponseWriter) { <-hang }
	for _, tt := range []struct {
		name    string
		checkin func(http.ResponseWriter)
		verdict func(http.ResponseWriter)
		env     []string
		want    string
	}{
		{"check-in refused", answer(403, `{"error":"check-in rejected"}`), allow, nil, "refused with status 403: check-in rejected"},
		{"check-in without token", answer(200, `{}`), allow, nil, "no session token"},
		{"token with a header in it", answer(200, `{"session_token":"tok-\r\nX: y"}`), allow, nil, "no session token"},
		{"401", nil, answer(401, `{"error":"invalid or missing session token"}`), nil, "status 401"},
		{"413", nil, answer(413, ``), nil, "status 413: no reason given"},
		{"422", nil, answer(422, `{"error":"bad"}`), nil, "status 422"},
		{"429", nil, answer(429, `{"error":"rate limit exceeded"}`), nil, "status 429"},
		{"500", nil, answer(500, `{"allowed":true}`), nil, "status 500"},
		{"201", nil, answer(201, `{"allowed":true}`), nil, "status 201"},
		{"empty", nil, answer(200, ``), nil, "malformed"},
		{"no verdict", nil, answer(200, `{"matched_rule":"r"}`), nil, "no verdict in it"},
		{"null", nil, answer(200, `{"allowed":null}`), nil, "no verdict in it"},
		{"wrong type", nil, answer(200, `{"allowed":"true"}`), nil, "malformed"},
		{"html", nil, answer(200, `<html>`), nil, "malformed"},
		{"more than one", nil, answer(200, `{"allowed":true}{"allowed":false}`), nil, "malformed"},
		{"too long", nil, answer(200, `{"allowed":true,"reason":"`+strings.Repeat("x", (64<<10))+`"}`), nil, "malformed"},
		{"slow", nil, stuck, []string{"OUTCALL_TIMEOUT_SECS=1"}, "time-out"},
		{"slow check-in", stuck, allow, []string{"OUTCALL_TIMEOUT_SECS=1"}, "time-out"},
		{"bad time-out", nil, allow, []string{"OUTCALL_TIMEOUT_SECS=0"}, "want 1 to 300"},
		{"bad time-out", nil, allow, []string{"OUTCALL_TIMEOUT_SECS=301"}, "want 1 to 300"},
		{"bad time-out", nil, allow, []string{"OUTCALL_TIMEOUT_SECS=5s"}, "want 1 to 300"},
		{"bad time-out", nil, allow, []string{"OUTCALL_TIMEOUT_SECS=+5"}, "want 1 to 300"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sock := serveAgent(t, &agentAPI{checkin: tt.checkin, verdict: tt.verdict})
			code, ran, _, stderr := run(t, sock, tt.env, "exec", "true")
			if code != exitNoVerdict || ran != nil || !strings.Contains(stderr, tt.want) || !strings.HasSuffix(stderr, "nothing was run\n") {
				t.Errorf("code %d, ran %q, %q; want 5, nothing, %q", code, ran, stderr, tt.want)
			}
		})
	}
	code, ran, _, stderr := run(t, "/no/such.sock", nil, "true")
	if code != exitNoVerdict || ran != nil || !strings.Contains(stderr, "unreachable (/no/such.sock: no such file or directory)") {
		t.Errorf("no socket: code %d, ran %q, %q", code, ran, stderr)
	}
	long := slices.Repeat([]string{"x"}, 1024+2)
	for _, args := range [][]string{long, {"a", strings.Repeat("x", 32<<10+1)}, {"a", strings.Repeat("x", 32<<10), strings.Repeat("x", 32<<10), "x"}} {
		if code, ran, _, _ := run(t, "/no/such.sock", nil, args...); code != exitUsage || ran != nil {
			t.Errorf("an over-long command line: code %d, ran %d words", code, len(ran))
		}
	}
}

// A raw server, for answers that no HTTP server would give.
func TestBrokenServer(t *testing.T) {
	for _, raw := range []string{
		"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n\r\n", "SSH-2.0-x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"allowed\":true}",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", (16<<10)) + "\r\n\r\n{}",
	} {
		dir := t.TempDir()
		sock := filepath.Join(dir, "s")
		l, err := net.Listen("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, raw)
				c.Close()
			}
		}()
		code, ran, _, stderr := run(t, sock, nil, "true")
		if code != exitNoVerdict || ran != nil {
			t.Errorf("%.60q: code %d, ran %q, %s", raw, code, ran, stderr)
		}
		l.Close()
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--foo"}, {"-x", "ls"}, {"exec"}, {"exec", "--"}, {"bash"}, {""}, {"fetch"}, {"fetch", "u", "G3T"},
		{"fetch", "u", "GET", "x"}, {"fetch", "u", ""}, {"file"}, {"write", "a", "b"}, {"read", ""},
	} {
		code, ran, stdout, stderr := run(t, "/no/such.sock", nil, args...)
		if code != exitUsage || ran != nil || stdout != "" || !strings.Contains(stderr, "Usage:") {
			t.Errorf("%q: code %d, ran %q, stdout %q", args, code, ran, stdout)
		}
	}
	for _, first := range []string{"--version", "-V"} {
		if code, _, out, _ := run(t, "/no/such.sock", nil, first, "x"); code != 0 || out != "outcall-agent v1\n" {
			t.Errorf("%s: %d, %q", first, code, out)
		}
	}
	if code, _, out, _ := run(t, "/no/such.sock", nil, "--help"); code != 0 || out != usage {
		t.Errorf("--help: %d, %q", code, out)
	}
}

func TestNotRunnable(t *testing.T) {
	sock := serveAgent(t, &agentAPI{verdict: allow})
	dir := t.TempDir()
	plainFile := filepath.Join(dir, "f")
	os.WriteFile(plainFile, []byte("x"), 0o644)
	for name, want := range map[string]int{"no-such-command-here": 127, filepath.Join(dir, "missing"): 127, plainFile: 126} {
		if code, ran, _, _ := run(t, sock, nil, name); code != want || ran != nil {
			t.Errorf("%s: code %d, ran %q, want %d", name, code, ran, want)
		}
	}
	if code, _, _, _ := run(t, sock, []string{"PATH=" + dir}, "f"); code != 126 {
		t.Errorf("found in PATH and not executable: %d", code)
	}
	c := Caller{Stderr: io.Discard, Env: []string{"PATH=/usr/bin:/bin"}, Run: func(child.Command) (int, error) { return 0, syscall.ENOEXEC }}
	if code := c.run(ask.Client{}, []string{"true"}); code != 126 {
		t.Errorf("ENOEXEC: %d", code)
	}
}

// The real program: the command takes its place, with its own exit code and
// signal, and the program stays below its size limit.
func TestProgram(t *testing.T) {
	bin := buildShim(t)
	if fi, err := os.Stat(bin); err != nil || fi.Size() > 6<<20 {
		t.Errorf("size %d, %v; the limit is 6 MiB", fi.Size(), err)
	}
	sock := serveAgent(t, &agentAPI{verdict: allow})
	for script, want := range map[string]int{"exit 42": 42, "exit 5": 5, "kill -TERM $$": 128 + 15} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := exec.CommandContext(ctx, bin, "exec", "sh", "-c", script)
		cmd.Env = append(os.Environ(), "OUTCALL_AGENT_SOCK="+sock)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: %d, want %d (%s)", script, got, want, out)
		}
		cancel()
	}
}
