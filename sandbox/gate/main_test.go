package gate

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"outcall/sandbox/idmap"
	"outcall/sandbox/view"
)

// The tests run in real namespaces. As root they run twice: as real root,
// which gives root up for the command, and as an ordinary user.
const (
	envUser  = "GATE_TEST_USER"  // set in the run as an ordinary user
	envProbe = "GATE_TEST_PROBE" // makes this program one of the probes
	testUID  = 12345
)

func TestMain(m *testing.M) {
	if Main() {
		return
	}
	if name := os.Getenv(envProbe); name != "" {
		os.Exit(runProbe(name))
	}
	code := m.Run()
	// A fuzz run needs no namespaces, and its corpus is root's.
	fuzzing := flag.Lookup("test.fuzz").Value.String() != ""
	if os.Geteuid() == 0 && os.Getenv(envUser) == "" && idmap.RealRoot() && !fuzzing {
		if c := asUser(); code == 0 {
			code = c
		}
	}
	os.Exit(code)
}

// asUser runs the same tests as an ordinary user.
func asUser() int {
	var args []string
	for _, a := range os.Args[1:] {
		// These name files that the other user cannot write.
		if !strings.HasPrefix(a, "-test.testlogfile") && !strings.HasPrefix(a, "-test.coverprofile") && !strings.HasPrefix(a, "-test.gocoverdir") &&
			!strings.HasPrefix(a, "-test.outputdir") {
			args = append(args, a)
		}
	}
	if err := runAs(testUID, testUID, args); err != nil {
		fmt.Printf("as uid %d: %v\n", testUID, err)
		return 1
	}
	return 0
}

// runAs runs tests as another user, from a copy of this program that every
// user can reach.
func runAs(uid, gid int, args []string) error {
	dir, err := os.MkdirTemp("", "gate-user-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	home := filepath.Join(dir, "home")
	bin := filepath.Join(dir, "gate.test")
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o755), os.Chown(home, uid, gid), copyFile("/proc/self/exe", bin))
	if err != nil {
		return err
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir = home
	cmd.Env = append(os.Environ(), envUser+"=1", "HOME="+home, "TMPDIR="+home, "XDG_RUNTIME_DIR=")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return cmd.Run()
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func needNamespaces(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs namespaces; -short is given")
	}
}

// options are those of an ordinary session in the root directory.
func options(t *testing.T, change ...func(*idmap.Request, *view.Options)) Options {
	t.Helper()
	req := idmap.Request{Dir: "/", Getenv: func(string) string { return "" }}
	vo := view.Options{Dir: "/", Hostname: "test", Resolvers: []netip.Addr{netip.MustParseAddr("10.200.0.1")}}
	for _, f := range change {
		f(&req, &vo)
	}
	ids, err := idmap.New(req)
	if err != nil {
		t.Fatal(err)
	}
	vo.UID, vo.GID, vo.AsRoot = ids.KernelUID, ids.KernelGID, ids.AsRoot
	spec, err := view.Plan(vo)
	if err != nil {
		t.Fatal(err)
	}
	return Options{IDs: ids, View: spec}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func session(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := Start(deadline(t), o)
	if err != nil {
		var se *StageError
		if errors.As(err, &se) {
			t.Fatalf("%v\nmend: %s", err, se.Hint)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// inside makes the session that most tests want.
func inside(t *testing.T) *Client {
	t.Helper()
	needNamespaces(t)
	return session(t, options(t))
}

// run runs a command to its end and returns what it wrote.
func run(t *testing.T, c *Client, w Where, s Spec) (string, syscall.WaitStatus) {
	t.Helper()
	ctx := deadline(t)
	r, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Stdio[1], s.Stdio[2] = pw, pw
	if s.Env == nil {
		s.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	p, err := c.Spawn(ctx, w, s)
	pw.Close()
	if err != nil {
		t.Fatalf("spawn %q: %v", s.Argv, err)
	}
	var out bytes.Buffer
	_ = r.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(&out, r); err != nil {
		t.Fatalf("read the output of %q: %v", s.Argv, err)
	}
	wait(t, p.Done(), fmt.Sprintf("the end of %q", s.Argv))
	return out.String(), p.Status()
}

func sh(t *testing.T, c *Client, script string) string {
	t.Helper()
	out, ws := run(t, c, Agent, Spec{Argv: []string{"/bin/sh", "-c", script}})
	if ws.ExitStatus() != 0 {
		t.Fatalf("sh -c %q: exit %d, %q", script, ws.ExitStatus(), out)
	}
	return strings.TrimSpace(out)
}

// probe runs a part of this program inside; the view has a copy of it.
func probe(t *testing.T, c *Client, name string, args ...string) string {
	t.Helper()
	out, ws := run(t, c, Agent, Spec{Argv: append([]string{view.BinDir + "/outcall"}, args...), Env: []string{envProbe + "=" + name, "PATH=/usr/bin:/bin"}})
	if ws.ExitStatus() != 0 {
		t.Fatalf("probe %s: exit %d, %s", name, ws.ExitStatus(), out)
	}
	return strings.TrimSpace(out)
}

func wait(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not come", what)
	}
}

// eventually polls for what the kernel does on its own time.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for !ok() {
		select {
		case <-end:
			t.Fatalf("after %v: not %s", within, what)
		case <-tick.C:
		}
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	return len(f) > 0 && string(f[0]) != "Z"
}

// withArg lists the processes of the host that have an argument.
func withArg(arg string) []string {
	var out []string
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err == nil && strings.Contains("\x00"+string(b)+"\x00", "\x00"+arg+"\x00") {
			out = append(out, p)
		}
	}
	return out
}
