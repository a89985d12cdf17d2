package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/idmap"
	"outcall/sandbox/view"
)

func TestCommandSeesItsIDs(t *testing.T) {
	needNamespaces(t)
	o := options(t)
	c := session(t, o)
	want := fmt.Sprintf("%d %d", o.IDs.UID, o.IDs.GID)
	if got := sh(t, c, "echo $(id -u) $(id -g)"); got != want {
		t.Errorf("ids inside: %s, want %s", got, want)
	}
	if os.Geteuid() == 0 && o.IDs.KernelUID == 0 {
		t.Error("the command has kernel uid 0")
	}
	if c.Info().KeeperPID == 0 || c.Info().InitPID == 0 {
		t.Errorf("info: %+v", c.Info())
	}
}

// The kernel's uid is what counts for root's files, not what a map shows.
func TestKernelUIDIsNotRoot(t *testing.T) {
	c := inside(t)
	p, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{"sleep", "1000.5"}, Env: []string{"PATH=/bin:/usr/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Signal(deadline(t), p, unix.SIGKILL) }()
	all := withArg("1000.5")
	if len(all) == 0 {
		t.Fatal("the command is not seen from the host")
	}
	for _, cmdline := range all {
		b, err := os.ReadFile(strings.TrimSuffix(cmdline, "cmdline") + "status")
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^[UG]id:.*\b0\b`).Match(b) || regexp.MustCompile(`(?m)^Groups:.*\b0\b`).Match(b) {
			t.Errorf("root's ids:\n%s", b)
		}
	}
	if out := sh(t, c, "echo x 2>&1 > /proc/sys/kernel/core_pattern || echo refused"); !strings.Contains(out, "refused") {
		t.Errorf("core_pattern: %s", out)
	}
}

func TestExitStatus(t *testing.T) {
	c := inside(t)
	if _, ws := run(t, c, Agent, Spec{Argv: []string{"/bin/sh", "-c", "exit 42"}}); ws.ExitStatus() != 42 {
		t.Errorf("exit %d, want 42", ws.ExitStatus())
	}
	if _, ws := run(t, c, Agent, Spec{Argv: []string{"/bin/sh", "-c", "kill -TERM $$"}}); !ws.Signaled() || ws.Signal() != unix.SIGTERM {
		t.Errorf("status %v, want SIGTERM", ws)
	}
}

func TestExecErrors(t *testing.T) {
	needNamespaces(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/text", []byte("echo ran\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, dir + "/.."} {
		_ = os.Chmod(d, 0o755)
	}
	closed := dir + "/closed"
	if err := os.Mkdir(closed, 0); err != nil {
		t.Fatal(err)
	}
	o := options(t, func(_ *idmap.Request, v *view.Options) { v.Binds = []string{dir} })
	c := session(t, o)
	for _, x := range []struct {
		name, argv0, path string
		errno             syscall.Errno
	}{
		{"not found in PATH", "no-such-program", "/usr/bin:/bin", unix.ENOENT},
		{"not found by path", "/no/such/program", "", unix.ENOENT},
		{"not executable by path", dir + "/text", "", unix.EACCES},
		{"not executable in PATH", "text", dir, unix.EACCES},
		{"a directory", "/usr", "", unix.EACCES},
		// As in shells: who cannot look does not know of a file.
		{"a directory of PATH that cannot be entered", "no-such-program", closed + ":/usr/bin", unix.ENOENT},
		{"only a directory of that name in PATH", "bin", "/usr", unix.ENOENT},
		{"by a path that cannot be entered", closed + "/program", "", unix.EACCES},
		{"empty", "", "/usr/bin", unix.ENOENT},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{x.argv0}, Env: []string{"PATH=" + x.path}})
			var se *StageError
			if !errors.As(err, &se) || se.Stage != StageExec || se.Errno != x.errno {
				t.Errorf("%v, want stage exec and %v", err, x.errno)
			}
		})
	}
	_, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{"true"}, Dir: "/no/such/dir"})
	var se *StageError
	if !errors.As(err, &se) || se.Stage != StageWorkdir || se.Errno != unix.ENOENT {
		t.Errorf("missing directory: %v", err)
	}
}

func TestArgumentsOfAnyBytes(t *testing.T) {
	c := inside(t)
	long := strings.Repeat("x", 1<<17-20) // one string may have 128 KiB (execve(2))
	env := []string{envProbe + "=args", "RAW=\xff\xfe"}
	for i := range 10 {
		env = append(env, fmt.Sprintf("V%d=%s", i, long))
	}
	out, ws := run(t, c, Agent, Spec{Argv: []string{view.BinDir + "/outcall", "a\xffb", "", "ü"}, Env: env})
	if want := fmt.Sprintf("%q\n\"\"\n\"\\u00fc\"\n%d\n", "a\xffb", len(strings.Join(env, "\n"))); ws.ExitStatus() != 0 || out != want {
		t.Errorf("exit %d, %q, want %q", ws.ExitStatus(), out, want)
	}
}

func TestNoPowers(t *testing.T) {
	c := inside(t)
	out := sh(t, c, "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; ulimit -H -c; ls /proc/self/fd | wc -l")
	for _, want := range []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000",
		"CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if !strings.HasSuffix(out, "\n0\n4") { // 0-2 and ls's own
		t.Errorf("core limit and descriptors:\n%s", out)
	}
	wantPowers(t, probe(t, c, "powers"), "EPERM")
	// Root of a namespace below has power over its own mounts, but not over
	// those that were there before it.
	wantPowers(t, probe(t, c, "nested"), "EINVAL")
}

func wantPowers(t *testing.T, out, umount string) {
	t.Helper()
	want := "down EPERM\nroute EPERM\ndummy EPERM\npacket EPERM\nraw EPERM\numount " + umount + "\nremount EPERM"
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestRootInside(t *testing.T) {
	needNamespaces(t)
	o := options(t, func(r *idmap.Request, _ *view.Options) { r.Root = true })
	o.IDs = o.IDs.Single()
	c := session(t, o)
	if got := sh(t, c, "id -u"); got != "0" {
		t.Errorf("uid %s inside, want 0", got)
	}
	wantPowers(t, probe(t, c, "powers"), "EINVAL")
}

func TestRootInsideWithSubordinateIDs(t *testing.T) {
	needNamespaces(t)
	if os.Geteuid() != 0 {
		return // an ordinary user of a test has no range in /etc/subuid
	}
	o := options(t, func(r *idmap.Request, _ *view.Options) { r.Root = true })
	o.IDs.UIDs = append(o.IDs.UIDs[:1], idmap.Range{Inside: 1, Outside: 200000, Size: 65536})
	o.IDs.GIDs = append(o.IDs.GIDs[:1], idmap.Range{Inside: 1, Outside: 200000, Size: 65536})
	c := session(t, o)
	if !c.Info().Subordinate {
		t.Error("Info.Subordinate is not set")
	}
	if got := sh(t, c, "touch /tmp/x && chown 42:43 /tmp/x && stat -c %u:%g /tmp/x"); got != "42:43" {
		t.Errorf("owner %s, want 42:43", got)
	}
	wantPowers(t, probe(t, c, "powers"), "EINVAL")
}

// A helper that does nothing of the kind leaves the single id.
func TestSetUIDHelpersRefuse(t *testing.T) {
	if os.Geteuid() == 0 {
		return // root maps by itself; this runs as the ordinary user
	}
	o := options(t, func(r *idmap.Request, _ *view.Options) { r.Root = true })
	o.IDs.UIDHelper, o.IDs.GIDHelper = "/bin/false", "/bin/false"
	o.IDs.UIDs = append(o.IDs.UIDs[:1:1], idmap.Range{Inside: 1, Outside: 200000, Size: 65536})
	o.IDs.GIDs = append(o.IDs.GIDs[:1:1], idmap.Range{Inside: 1, Outside: 200000, Size: 65536})
	c := session(t, o)
	if c.Info().Subordinate {
		t.Error("Info.Subordinate is set")
	}
	if got := sh(t, c, "id -u"); got != "0" {
		t.Errorf("uid %s inside, want 0", got)
	}
}

func TestAsRoot(t *testing.T) {
	needNamespaces(t)
	if os.Geteuid() != 0 {
		_, err := idmap.New(idmap.Request{AsRoot: true})
		var are *idmap.AsRootError
		if !errors.As(err, &are) {
			t.Errorf("--as-root as an ordinary user: %v", err)
		}
		return
	}
	c := session(t, options(t, func(r *idmap.Request, _ *view.Options) { r.AsRoot = true }))
	if got := sh(t, c, "id -u; (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null || echo refused; (echo h > /proc/sysrq-trigger) 2>/dev/null || echo refused"); got != "0\nrefused\nrefused" {
		t.Errorf("got %q", got)
	}
}

// Whatever stage fails, its name comes back, the command does not run and
// nothing is left.
func TestEveryStageFails(t *testing.T) {
	needNamespaces(t)
	starting := []string{StageUserNS, StageRlimit, StageNetNS, StageInit, "mount", "proc", "sys", "dev", "run", "outcall", "tmp", "resolv.conf", "protect", "sockets",
		StageEnter, StageSysctl, StageBridge, StageUplink, StageRoute}
	for _, stage := range starting {
		t.Run(stage, func(t *testing.T) {
			o := options(t)
			o.FailStage = stage
			c, err := Start(deadline(t), o)
			if err == nil {
				c.Close()
			}
			checkRefused(t, err, stage)
		})
	}
	for _, stage := range []string{StageCommand, StageKeyring, StageExec, StageCaps, StageSeccomp} {
		t.Run(stage, func(t *testing.T) {
			o := options(t)
			o.FailStage = stage
			c := session(t, o)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			_, err = c.Spawn(deadline(t), Agent, Spec{Argv: []string{"/bin/echo", "ran"}, Stdio: [3]*os.File{nil, w, w}})
			w.Close()
			checkRefused(t, err, stage)
			if n, _ := r.Read(make([]byte, 10)); n != 0 {
				t.Error("the command wrote something")
			}
		})
	}
}

func checkRefused(t *testing.T, err error, stage string) {
	t.Helper()
	var se *StageError
	if !errors.As(err, &se) || se.Stage != stage || se.Errno != unix.EPERM {
		t.Errorf("%v, want stage %q refused with EPERM", err, stage)
	}
	if kids := children(); len(kids) != 0 && stage != StageCommand && stage != StageKeyring && stage != StageExec && stage != StageCaps && stage != StageSeccomp {
		t.Errorf("processes are left: %v", kids)
	}
}

func children() []int { return descendants(os.Getpid()) }

func TestStartIsCancelled(t *testing.T) {
	needNamespaces(t)
	for i := range 8 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i*5)*time.Millisecond)
		c, err := Start(ctx, options(t))
		cancel()
		if err == nil {
			c.Close()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			var se *StageError
			if !errors.As(err, &se) {
				t.Errorf("%v", err)
			}
		}
		if kids := children(); len(kids) != 0 {
			t.Fatalf("processes are left: %v", kids)
		}
	}
}

// K4: nothing that can be sent to pid 1 from inside ends it.
func TestInitOutlivesSignals(t *testing.T) {
	for _, root := range []bool{false, true} {
		needNamespaces(t)
		c := session(t, options(t, func(r *idmap.Request, _ *view.Options) { r.Root = root }))
		if out := probe(t, c, "signals"); out != "sent" {
			t.Error(out)
		}
		if out := sh(t, c, "echo alive"); out != "alive" {
			t.Error(out)
		}
		out := sh(t, c, "cat /proc/1/cmdline /proc/1/environ 2>&1; ls -l /proc/1/fd /proc/1/exe /proc/1/root 2>&1 | grep -c '>' || true")
		if !strings.HasSuffix(out, "0") || strings.Contains(out, "outcall") {
			t.Errorf("pid 1 shows %q", out)
		}
	}
}

func TestProcessGroupsAreApart(t *testing.T) {
	c := inside(t)
	if _, ws := run(t, c, Agent, Spec{Argv: []string{"/bin/sh", "-c", "kill -USR1 0"}}); ws.Signal() != unix.SIGUSR1 {
		t.Errorf("status %v", ws)
	}
	if _, ws := run(t, c, Agent, Spec{Argv: []string{"/bin/sh", "-c", "kill -KILL -1; exit 0"}}); ws.Signaled() {
		t.Logf("kill -1 reached the sender: %v", ws)
	}
	if out := sh(t, c, "echo alive"); out != "alive" {
		t.Error(out)
	}
}

func TestSignalReachesTheGroup(t *testing.T) {
	c := inside(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// Short sleeps: one that is started just after the signal delays the trap.
	p, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{"/bin/sh", "-c", "trap 'echo got; exit 7' INT; echo up; while :; do sleep 0.1; done"},
		Env: []string{"PATH=/bin:/usr/bin"}, Stdio: [3]*os.File{nil, w, nil}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(r)
	lines.Scan()
	if err := c.Signal(deadline(t), p, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	wait(t, p.Done(), "the end")
	if lines.Scan(); lines.Text() != "got" || p.Status().ExitStatus() != 7 {
		t.Errorf("%q, %v", lines.Text(), p.Status())
	}
	if err := c.Signal(deadline(t), p, unix.SIGTERM); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal to an ended process: %v", err)
	}
}

func TestWho(t *testing.T) {
	c := inside(t)
	in, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{view.BinDir + "/outcall", "one", "two words"}, Env: []string{envProbe + "=socket"}, Stdio: [3]*os.File{in, outW, outW}})
	in.Close()
	outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	var inode uint64
	if _, err := fmt.Fscan(out, &pid, &inode); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second answer comes by the pid of the first
		got, err := c.Who(deadline(t), inode)
		if err != nil {
			t.Fatal(err)
		}
		if got == nil || got.PID != pid || got.Exe != view.BinDir+"/outcall" || strings.Join(got.Args, "|") != view.BinDir+"/outcall|one|two words" {
			t.Errorf("got %+v, want pid %d", got, pid)
		}
	}
	inW.Close()
	wait(t, p.Done(), "the end")
	if got, err := c.Who(deadline(t), inode); err != nil || got != nil {
		t.Errorf("a closed socket belongs to %+v, %v", got, err)
	}
	if got, err := c.Who(deadline(t), 0); err != nil || got != nil {
		t.Errorf("socket 0 belongs to %+v, %v", got, err)
	}
}

func TestStdioStaysAsItWas(t *testing.T) {
	c := inside(t)
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	defer r.Close()
	p, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{"/bin/sh", "-c", "cat; readlink /proc/self/fd/1 | cut -c 1-5"}, Env: []string{"PATH=/bin:/usr/bin"}, Stdio: [3]*os.File{nil, w, nil}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, p.Done(), "the end")
	if nb, _ := unix.FcntlInt(w.Fd(), unix.F_GETFL, 0); nb&unix.O_NONBLOCK != 0 {
		t.Error("the pipe was left non-blocking")
	}
	w.Close()
	buf := make([]byte, 20)
	if n, _ := r.Read(buf); string(buf[:n]) != "pipe:\n" {
		t.Errorf("got %q", buf[:n])
	}
}
