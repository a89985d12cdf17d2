package term

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if Main() {
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		os.Exit(supervise())
	}
	os.Exit(m.Run())
}

// aJob is a command with a pty, started without a sandbox.
type aJob struct {
	cmd   *exec.Cmd
	stops chan syscall.Signal
}

func (j *aJob) Stops() <-chan syscall.Signal   { return j.stops }
func (j *aJob) Continue(context.Context) error { return unix.Kill(-j.cmd.Process.Pid, unix.SIGCONT) }

// supervise is a small `outcall run`: a shell on a pty of its own. The shell
// runs what standard input's user types; the job's stop is told by SIGUSR1.
func supervise() int {
	t, err := Open(os.Stdin)
	if err == nil {
		err = t.Guard()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	master, tty, err := pty.Open()
	if err != nil {
		return 1
	}
	rows, cols := t.Size()
	if err := pty.Setsize(tty, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		return 1
	}
	j := &aJob{exec.Command("/bin/sh", "-c", os.Args[2]), make(chan syscall.Signal, 1)}
	j.cmd.Stdin, j.cmd.Stdout, j.cmd.Stderr = tty, tty, tty
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: unix.SIGKILL}
	if err := j.cmd.Start(); err != nil {
		return 1
	}
	tty.Close()
	r, err := t.Attach(context.Background(), os.Stdout, master, j)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go func() { // the gatekeeper's part: see the command stop
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(j.cmd.Process.Pid, &ws, unix.WUNTRACED, nil)
			if err != nil || pid > 0 && !ws.Stopped() {
				close(j.stops)
				return
			}
			j.stops <- ws.StopSignal()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r.Drain(ctx)
	if err := r.Close(); err != nil {
		return 1
	}
	if err := t.EndGuard(); err != nil {
		return 1
	}
	return 0
}

// A user is who sits at the terminal: a real shell with job control, in which
// the supervisor is a job.
type user struct {
	t      *testing.T
	master *os.File
	tty    *os.File
	cmd    *exec.Cmd
	seen   bytes.Buffer
}

func sit(t *testing.T) *user {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a pty and a shell; run without -short")
	}
	master, tty, err := pty.Open()
	must(t, err)
	u := &user{t: t, master: master, tty: tty}
	u.cmd = exec.Command("/bin/bash", "--norc", "--noprofile", "-i")
	exe, err := os.Executable()
	must(t, err)
	u.cmd.Env = []string{"PATH=/usr/bin:/bin", "PS1=ready> ", "EXE=" + exe, "TERM=dumb"}
	u.cmd.Stdin, u.cmd.Stdout, u.cmd.Stderr = tty, tty, tty
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: unix.SIGKILL}
	must(t, u.cmd.Start())
	t.Cleanup(func() { u.cmd.Process.Kill(); u.cmd.Wait(); master.Close(); tty.Close() })
	u.until("ready> ")
	return u
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (u *user) types(s string) {
	u.t.Helper()
	_, err := io.WriteString(u.master, s)
	must(u.t, err)
}

func (u *user) resize(rows, cols uint16) {
	u.t.Helper()
	must(u.t, control(u.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}))
}

// until reads the screen until a text has come.
func (u *user) until(text string) string {
	u.t.Helper()
	end := time.Now().Add(10 * time.Second)
	buf := make([]byte, 4096)
	for {
		if before, after, ok := strings.Cut(u.seen.String(), text); ok {
			u.seen.Reset()
			u.seen.WriteString(after)
			return before
		}
		if !u.readable(time.Until(end)) {
			u.t.Fatalf("waiting for %q; on the screen: %q", text, u.seen.String())
		}
		n, err := transfer(u.master, buf, unix.Read)
		must(u.t, err)
		u.seen.Write(buf[:n])
	}
}

// readable waits for output; a pty's master may have no deadlines.
func (u *user) readable(d time.Duration) (ok bool) {
	must(u.t, control(u.master, func(fd int) error {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(d, 0).Milliseconds()))
		ok = n > 0 || again(err)
		if again(err) {
			return nil
		}
		return err
	}))
	return ok
}

func (u *user) mode() string {
	u.t.Helper()
	tio, err := unix.IoctlGetTermios(int(u.tty.Fd()), unix.TCGETS)
	must(u.t, err)
	return fmt.Sprintf("%x %x %x %x %x", tio.Iflag, tio.Oflag, tio.Cflag, tio.Lflag, tio.Cc)
}

// stty asks a program at the shell's prompt, where readline's own mode is off.
func (u *user) stty() string {
	u.types("stty -g; echo done-'x'\n")
	return u.until("done-x")
}

func TestKeysAndSize(t *testing.T) {
	u := sit(t)
	u.resize(33, 77)
	before := u.stty()
	u.types(`$EXE supervise 'stty size; trap "echo interrupted; stty size" INT; echo up; until read a; do :; done; echo got-$a'` + "\n")
	u.until("33 77")
	u.until("up")
	u.resize(44, 88)
	// The size is set by a signal; ask until it is there.
	for range 100 {
		u.types("\x03")
		u.until("interrupted")
		if strings.Contains(u.until("\n")+u.until("\n"), "44 88") {
			break
		}
	}
	u.types("hello\n")
	u.until("got-hello")
	u.until("ready> ")
	if after := u.stty(); strings.Fields(after)[len(strings.Fields(after))-1] != strings.Fields(before)[len(strings.Fields(before))-1] {
		t.Errorf("mode before %q, after %q", before, after)
	}
}

// TestStopAndContinue: Ctrl-Z gives the terminal and the prompt back, fg goes
// on where it was.
func TestStopAndContinue(t *testing.T) {
	u := sit(t)
	// The command must have a parent in its session to be stopped by a key.
	u.types(`$EXE supervise 'set -m; bash -c "echo up; read a; echo one \$a; kill -TSTP \$\$; read a; echo two \$a"; kill -STOP $$; fg >/dev/null'` + "\n")
	u.until("up")
	u.types("first\n")
	u.until("one first")
	u.until("Stopped")
	u.until("ready> ")
	u.types("echo at-'the'-prompt\n")
	u.until("at-the-prompt")
	u.types("fg\n")
	u.types("second\n")
	u.until("two second")
	u.until("ready> ")
}

// TestBackground: in the background the terminal is not touched.
func TestBackground(t *testing.T) {
	u := sit(t)
	u.types(`$EXE supervise 'echo from-'the'-back' & wait; echo mode-'is'-ours` + "\n")
	u.until("from-the-back")
	u.until("mode-is-ours")
}

// TestCrash: SIGKILL of the supervisor, and the terminal is as it was.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a pty; run without -short")
	}
	master, tty, err := pty.Open()
	must(t, err)
	defer master.Close()
	defer tty.Close()
	u := &user{t: t, master: master, tty: tty}
	before := u.mode()
	exe, err := os.Executable()
	must(t, err)
	c := exec.Command(exe, "supervise", "echo up; read a")
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, c.Start())
	u.until("up")
	poll(t, func() bool { return u.mode() != before })
	must(t, c.Process.Kill())
	c.Wait()
	poll(t, func() bool { return u.mode() == before })
}

// poll waits for a condition that another process brings about.
func poll(t *testing.T, ok func() bool) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for tick := time.NewTicker(2 * time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("it did not come to be")
		}
	}
}

// TestFlags: O_NONBLOCK is never set on the user's terminal.
func TestFlags(t *testing.T) {
	master, tty, err := pty.Open()
	must(t, err)
	defer master.Close()
	defer tty.Close()
	before, err := unix.FcntlInt(tty.Fd(), unix.F_GETFL, 0)
	must(t, err)
	inner, innerTTY, err := pty.Open()
	must(t, err)
	defer inner.Close()
	term, err := Open(tty)
	must(t, err)
	r, err := term.Attach(context.Background(), tty, inner, &aJob{stops: make(chan syscall.Signal)})
	must(t, err)
	innerTTY.Close()
	r.Drain(context.Background())
	must(t, r.Close())
	must(t, r.Close())
	after := 0
	must(t, control(tty, func(fd int) (err error) { after, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); return }))
	if after != before {
		t.Errorf("flags %x, were %x", after, before)
	}
}

func TestNoTerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	must(t, err)
	defer f.Close()
	if _, err := Open(f); err == nil {
		t.Error("/dev/null was taken for a terminal")
	}
}

// A pipeline's other programs write to the terminal while it is raw.
func TestSharedTerminalKeepsItsLines(t *testing.T) {
	for _, shared := range []bool{false, true} {
		master, tty, err := pty.Open()
		must(t, err)
		defer master.Close()
		defer tty.Close()
		term, err := Open(tty)
		must(t, err)
		if shared {
			term.Share()
		}
		must(t, term.Raw())
		tio, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		must(t, err)
		if got := tio.Oflag&unix.OPOST != 0; got != shared {
			t.Errorf("shared %v: output processing is %v", shared, got)
		}
		if tio.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
			t.Errorf("shared %v: the terminal is not raw", shared)
		}
		must(t, term.Restore())
	}
}
