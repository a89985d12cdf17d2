package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"outcall/sandbox/gate"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/session"
)

// call runs one command line with an environment of its own.
func call(t *testing.T, env session.Env, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{io: stdio{strings.NewReader(""), &out, &errOut}, env: env}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.io.in)
	root.SetOut(&out)
	root.SetErr(&errOut)
	code = a.finish(root.ExecuteContext(t.Context()))
	return code, out.String(), errOut.String()
}

func testEnv(t *testing.T) session.Env {
	t.Helper()
	dir, err := os.MkdirTemp("", "outcall-cli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return session.Env{UID: os.Geteuid(), RuntimeDir: dir, TempDir: dir, Home: filepath.Join(dir, "home")}
}

func TestUsageErrors(t *testing.T) {
	env := testEnv(t)
	for _, tt := range []struct{ args, want string }{
		{"", "a command is missing"},
		{"bogus", `unknown command "bogus"`},
		{"rules lst", `unknown command "lst" (did you mean list or test or fmt?)`},
		{"bridge", "a command is missing"},
		{"--bogus", "unknown flag: --bogus"},
		{"run", "COMMAND is missing"},
		{"run --", "COMMAND is missing"},
		{"run --bogus x", "unknown flag: --bogus"},
		{"run --dns-port 5353 x", "takes no port of the host"},
		{"run --session s x", "its name is given by --name"},
		{"run -n a/b x", "session name"},
		{"run -n .. x", "is a directory"},
		{"run --mode warn x", `--mode "warn": want enforce or observe`},
		{"run --link tun x", "--link"},
		{"run --weak all x", `--weak "all": want proc`},
		{"run --subnet 10.200.0.1/24 x", "--subnet"},
		{"run --subnet 10.0.0.0/30 x", "--subnet"},
		{"run --subnet fd00::/64 x", "--subnet"},
		{"run --bridge much-too-long-name x", "--bridge"},
		{"run --bridge a/b x", "--bridge"},
		{"run --proxy-port 0 x", "--proxy-port"},
		{"run --proxy-port 65536 x", "proxy-port"},
		{"run --dns-upstream resolver x", "--dns-upstream"},
		{"run --dns-upstream 192.0.2.1,1.2.3 x", `--dns-upstream "1.2.3"`},
		{"run --dns-upstream 192.0.2.1:0 x", "--dns-upstream"},
		{"run --upstream-proxy ftp://u:secret@h x", "--upstream-proxy: want"},
		{"run --env =x y", "--env"},
		{"run --root --as-root x", "exclude"},
		{"run -q -v x", "exclude"},
		{"run --timeout -1s x", "--timeout"},
		{"run --timeout soon x", "timeout"},
		{"run --allow exa$mple x", "exa$mple"},
		{"ps x", `unexpected argument "x"`},
		{"stop", "NAME"},
		{"exec", "NAME is missing"},
		{"exec name", "wants a command"},
		{"exec name --", "wants a command"},
		{"exec --env x name ls", "--env"},
		{"bridge exec", "COMMAND is missing"},
		{"dns test", "HOST is missing"},
		{"dns test a b", "unexpected argument"},
		{"rules show", "ID is missing"},
		{"rules check", "PATH is missing"},
		{"explain", "TARGET is missing"},
		{"explain --ip x https://h/", "no address"},
		{"completion", "SHELL is missing"},
		{"completion csh", "want bash"},
	} {
		code, out, errOut := call(t, env, strings.Fields(tt.args)...)
		if code != exitUsage || out != "" || !strings.HasPrefix(errOut, "outcall: error: ") || !strings.Contains(errOut, tt.want) {
			t.Errorf("%q: code %d, stdout %q, stderr %q; want 2, nothing, %q", tt.args, code, out, errOut, tt.want)
		}
		if strings.Contains(errOut, "secret") {
			t.Errorf("%q: a password is printed", tt.args)
		}
		if !strings.Contains(errOut, "--help tells the usage") {
			t.Errorf("%q: no hint: %q", tt.args, errOut)
		}
	}
}

// What is behind the command is the command's.
func TestRunFlagsEndAtTheCommand(t *testing.T) {
	for _, args := range [][]string{
		{"-q", "sh", "-c", "x", "--mode", "bogus", "--", "-v"},
		{"-q", "--", "sh", "-c", "x", "--mode", "bogus", "--", "-v"},
	} {
		var f runFlags
		a := &app{}
		c := a.runCommand()
		f.add(a.cmd("x", "", none, nil)) // the flags can be added to any command
		if err := c.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.Flags().Args(), " "); got != "sh -c x --mode bogus -- -v" {
			t.Errorf("%q: command %q", args, got)
		}
	}
}

func runConfig(t *testing.T, f runFlags, args ...string) (cfgText string, err error) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := &app{io: stdio{null, null, null}, env: testEnv(t)}
	cfg, err := a.config(&f, args)
	if err != nil {
		return "", err
	}
	src, err := cfg.Sources()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%v %v %v %v %v %d sources", cfg.Command, cfg.Subnet, cfg.DNSUpstream, cfg.Observe, cfg.Dir, len(src)), nil
}

func TestRunConfig(t *testing.T) {
	dir := t.TempDir()
	f := runFlags{
		mode: "observe", subnet: "10.9.0.0/24", bridge: "b0", proxyPort: 1, link: "auto", workdir: dir,
		upstreams: []string{"192.0.2.1", "[2001:db8::1]:5353", "2001:db8::2"}, allow: []string{"a.test"},
	}
	got, err := runConfig(t, f, "x", "y")
	want := "[x y] 10.9.0.0/24 [192.0.2.1:53 [2001:db8::1]:5353 [2001:db8::2]:53] true " + dir + " 1 sources"
	if err != nil || got != want {
		t.Errorf("config = %s, %v\nwant %s", got, err, want)
	}
	for _, bad := range []func(*runFlags){
		func(f *runFlags) { f.workdir = filepath.Join(dir, "missing") },
		func(f *runFlags) { f.workdir = "/proc/version" },
		func(f *runFlags) { f.rules = []string{filepath.Join(dir, "missing")} },
		func(f *runFlags) { f.binds = []string{filepath.Join(dir, "missing")} },
	} {
		g := f
		bad(&g)
		if _, err := runConfig(t, g, "x"); exitCode(err) != exitSetup {
			t.Errorf("%+v: %v, want exit 125", g, err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	stage := &gate.StageError{Stage: "user namespace", Errno: syscall.EPERM, Hint: "line 1\nline 2"}
	for _, tt := range []struct {
		err  error
		want int
		text string
	}{
		{nil, 0, ""},
		{errors.New("x"), 1, "outcall: error: x\n"},
		{&usageError{errors.New("x")}, 2, "outcall: error: x\noutcall: hint: outcall run --help tells the usage\n"},
		{&codeError{7, nil}, 7, ""},
		{&codeError{exitSetup, fmt.Errorf("sandbox: %w", stage)}, 125,
			"outcall: error: sandbox: user namespace: operation not permitted\noutcall: hint: line 1\n  line 2\n"},
		{&codeError{exitNotFound, errors.New("nope: not found")}, 127, "outcall: error: nope: not found\n"},
		{&hostapi.StatusError{Status: 500, Text: "exec", Code: 126}, 126, "outcall: error: exec\n"},
		{&hostapi.StatusError{Status: 404, Text: "rule not found: \"\x1b[2J\""}, 1, "outcall: error: rule not found: \"\\x1b[2J\"\n"},
		{&hostapi.UnreachableError{Path: "/p", Err: syscall.ENOENT}, 1, "error: daemon unreachable (/p: no such file or directory)\n"},
		{&session.PickError{}, 1, "outcall: error: no session is running\n"},
	} {
		var b bytes.Buffer
		a := &app{io: stdio{err: &b}, command: "outcall run"}
		if got := a.finish(tt.err); got != tt.want || !strings.HasPrefix(b.String(), tt.text) || tt.text == "" && b.Len() > 0 {
			t.Errorf("%v: code %d, %q; want %d, %q", tt.err, got, b.String(), tt.want, tt.text)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	env := testEnv(t)
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"bridge", "--help"}, {"dns", "test", "-h"}} {
		if code, out, errOut := call(t, env, args...); code != 0 || errOut != "" || !strings.Contains(out, "Usage:\n  outcall") {
			t.Errorf("%q: code %d, %q, %q", args, code, out, errOut)
		}
	}
	if code, out, _ := call(t, env, "version"); code != 0 || out != "outcall "+version+"\n" {
		t.Errorf("version: %d, %q", code, out)
	}
	if code, out, _ := call(t, env, "version", "--json"); code != 0 || !strings.Contains(out, `"version": "devel"`) {
		t.Errorf("version --json: %d, %q", code, out)
	}
	for _, sh := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, out, _ := call(t, env, "completion", sh); code != 0 || !strings.Contains(out, "outcall") {
			t.Errorf("completion %s: %d, %d bytes", sh, code, len(out))
		}
	}
}

// A full or closed standard output is an error, not half an answer.
func TestOutputErrors(t *testing.T) {
	var errOut bytes.Buffer
	a := &app{io: stdio{out: failingWriter{}, err: &errOut}, env: testEnv(t)}
	root := a.root()
	root.SetArgs([]string{"version", "--json"})
	root.SetErr(&errOut)
	if code := a.finish(root.ExecuteContext(context.Background())); code != 1 || !strings.Contains(errOut.String(), "write standard output") {
		t.Errorf("code %d, %q", code, errOut.String())
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// A preset is printed as it is, without a session: what is saved loads.
func TestRulesShowPreset(t *testing.T) {
	env := testEnv(t)
	code, out, errOut := call(t, env, "rules", "show", "preset:npm")
	if code != 0 || errOut != "" {
		t.Fatalf("code %d, stderr %q", code, errOut)
	}
	path := filepath.Join(t.TempDir(), "npm.yaml")
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errOut := call(t, env, "rules", "check", path); code != 0 {
		t.Errorf("what was printed does not load: code %d, %s%s", code, out, errOut)
	}
	if code, out, _ := call(t, env, "rules", "show", "preset:npm", "--json"); code != 0 || !strings.Contains(out, `"name": "npm"`) {
		t.Errorf("--json: code %d, %s", code, out)
	}
	if code, out, errOut := call(t, env, "rules", "show", "preset:nmp"); code != exitUsage || out != "" || !strings.Contains(errOut, "pypi") {
		t.Errorf("an unknown preset: code %d, stdout %q, stderr %q", code, out, errOut)
	}
}
