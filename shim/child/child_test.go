package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// A test that starts itself with runVar becomes a program that runs its
// arguments by Run; aliveVar is a file without which the session has ended.
const (
	runVar   = "OUTCALL_TEST_CHILD"
	aliveVar = "OUTCALL_TEST_ALIVE"
)

func TestMain(m *testing.M) {
	if os.Getenv(runVar) == "" {
		os.Exit(m.Run())
	}
	os.Unsetenv(runVar)
	alive := os.Getenv(aliveVar)
	code, err := Run(Command{Path: os.Args[1], Argv: os.Args[1:], Env: os.Environ(), Beat: 10 * time.Millisecond,
		Alive: func(context.Context) error {
			if alive == "" {
				return nil
			}
			_, err := os.Stat(alive)
			return err
		}})
	var lost *Lost
	if errors.As(err, &lost) {
		fmt.Fprintln(os.Stderr, "lost:", lost)
		os.Exit(5)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "not started:", err)
		os.Exit(99)
	}
	os.Exit(code)
}

// wrapped is a command of this package under another command line.
func wrapped(argv ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", argv...)
	cmd.Env = append(os.Environ(), runVar+"=1", "SHELL=/bin/sh", "PS1=$ ")
	return cmd
}

func TestExitCodes(t *testing.T) {
	for script, want := range map[string]int{
		"exit 0": 0, "exit 1": 1, "exit 5": 5, "exit 255": 255,
		"kill -KILL $$": 128 + 9, "kill -TERM $$": 128 + 15, "kill -SEGV $$": 128 + 11,
	} {
		cmd := wrapped("/bin/sh", "-c", script)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want || len(out) > 0 {
			t.Errorf("%s: %d %q, want %d", script, got, out, want)
		}
	}
	cmd := wrapped("/no/such")
	if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 99 || !strings.Contains(string(out), "no such file") {
		t.Errorf("no such file: %d %s", cmd.ProcessState.ExitCode(), out)
	}
}

// start runs a command that says "up" and returns its further output.
func start(t *testing.T, cmd *exec.Cmd) (read func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); r.Close() })
	r.SetReadDeadline(time.Now().Add(time.Minute))
	var got []byte
	for b := make([]byte, 1); !strings.Contains(string(got), "up\n"); {
		if _, err := r.Read(b); err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got = append(got, b[0])
	}
	return func() string {
		rest, err := io.ReadAll(r)
		if err != nil {
			t.Error(err)
		}
		return string(rest)
	}
}

func TestSignalsAreForwarded(t *testing.T) {
	var list []string
	for _, sig := range forwarded() {
		if sig != unix.SIGTSTP { // TestTerminal
			list = append(list, strconv.Itoa(int(sig.(syscall.Signal))))
		}
	}
	cmd := wrapped(append([]string{"/bin/bash", "-c", `for s; do trap "echo got $s." $s; done; echo up; while [ ! -e "$0" ]; do sleep 0.01; done; exit 3`,
		filepath.Join(t.TempDir(), "end")}, list...)...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(time.Minute))
	in := bufio.NewScanner(r)
	for _, s := range append([]string{"up"}, list...) {
		want := "got " + s + "."
		if n, err := strconv.Atoi(s); err == nil {
			cmd.Process.Signal(syscall.Signal(n))
		} else {
			want = s
		}
		for in.Scan() && in.Text() != want {
		}
		if in.Text() != want {
			t.Fatalf("signal %s did not arrive: %q, %v", s, in.Text(), in.Err())
		}
	}
	os.WriteFile(cmd.Args[4], nil, 0o600)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("code %d", cmd.ProcessState.ExitCode())
	}
}

// A signal that was ignored when this began stays so.
func TestNohup(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", `trap '' HUP; exec "$0" "$@"`, "/proc/self/exe", "/bin/sh", "-c", "kill -HUP $$ $PPID; echo lives")
	cmd.Env = append(os.Environ(), runVar+"=1")
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[3] = exe
	if out, err := cmd.CombinedOutput(); string(out) != "lives\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
}

// The end of the session kills the whole group; what the command's own exit
// code would have been does not matter.
func TestLost(t *testing.T) {
	alive := filepath.Join(t.TempDir(), "alive")
	os.WriteFile(alive, nil, 0o600)
	cmd := wrapped("/bin/sh", "-c", "trap '' TERM HUP; sleep 300 & echo $!; echo $$; echo up; wait; exit 0")
	cmd.Env = append(cmd.Env, aliveVar+"="+alive)
	r, w, _ := os.Pipe()
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	buf := make([]byte, 100)
	var got string
	for !strings.Contains(got, "up\n") {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += string(buf[:n])
	}
	os.Remove(alive)
	rest, _ := io.ReadAll(r) // ends when the last of the group has gone
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 || !strings.Contains(string(rest), "lost: ") {
		t.Errorf("%d, %q", code, rest)
	}
	for _, f := range strings.Fields(got)[:2] {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		// SIGKILL has closed its pipe before it has gone.
		for limit := time.Now().Add(10 * time.Second); unix.Kill(pid, 0) != unix.ESRCH && !zombie(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("process %d still lives", pid)
			}
		}
	}
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// Killed itself, it takes the command with it.
func TestKilled(t *testing.T) {
	cmd := wrapped("/bin/sh", "-c", "echo up; exec sleep 300")
	read := start(t, cmd)
	cmd.Process.Kill()
	read() // the pipe ends with the command
}

// A console is a shell with job control on a terminal of its own.
type console struct {
	t    *testing.T
	f    *os.File
	come chan string
	seen string
}

func newConsole(t *testing.T) *console {
	t.Helper()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/bash", "--norc", "--noprofile", "-i")
	cmd.Env = append(os.Environ(), "PS1=READY> ", "TERM=dumb", "W="+exe, "HISTFILE=")
	f, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); f.Close() })
	c := &console{t: t, f: f, come: make(chan string, 1000)}
	go func() { // ends with the terminal
		defer close(c.come)
		for b := make([]byte, 4096); ; {
			n, err := f.Read(b)
			c.come <- string(b[:n])
			if err != nil {
				return
			}
		}
	}()
	c.line(`stty -echo; w() { ` + runVar + `=1 "$W" "$@"; }`)
	c.line("echo be''gin")
	c.wait("begin")
	return c
}

func (c *console) line(s string) { io.WriteString(c.f, s+"\n") }

// wait reads until the terminal shows text, and forgets what came before it.
func (c *console) wait(text string) {
	c.t.Helper()
	patience := time.After(30 * time.Second)
	for {
		if _, after, found := strings.Cut(c.seen, text); found {
			c.seen = after
			return
		}
		select {
		case s, ok := <-c.come:
			if c.seen += s; !ok {
				c.t.Fatalf("the terminal ended without %q: %q", text, c.seen)
			}
		case <-patience:
			c.t.Fatalf("no %q; the terminal shows %q", text, c.seen)
		}
	}
}

// An interactive child has the terminal: it reads, is interrupted, and stops
// and goes on as the shell's own job.
func TestTerminal(t *testing.T) {
	c := newConsole(t)
	c.line(`w /bin/bash -c 'read -p ask: x; echo "<$x>"'; echo "code=$?"`)
	c.wait("ask:")
	c.line("words")
	c.wait("<words>")
	c.wait("code=0")

	c.line(`w /bin/sh -c 'echo sl''ept; exec sleep 300'; echo "code=$?"`)
	c.wait("slept")
	io.WriteString(c.f, "\x03")
	c.wait("code=130")

	c.line(`w /bin/bash -c 'echo st''op; read x; echo "[$x]"'; echo "first=$?"`)
	c.wait("stop")
	io.WriteString(c.f, "\x1a")
	c.wait("Stopped")
	c.line("echo pro''mpt; fg")
	c.wait("prompt")
	c.line("late")
	c.wait("[late]")
	c.line("echo en''d")
	c.wait("end")
}

// In a pipeline the terminal stays with who reads it, and goes to the command
// only when that asks.
func TestPipeline(t *testing.T) {
	c := newConsole(t)
	c.line(`w /bin/echo through | bash -c 'read y; read -p who: x </dev/tty; echo "$y:$x"'`)
	c.wait("who:")
	c.line("me")
	c.wait("through:me")

	c.line(`echo data | w /bin/bash -c 'read y; read -p tty: x </dev/tty; echo "$y:$x"' | cat`)
	c.wait("tty:")
	c.line("mine")
	c.wait("data:mine")
	c.line("echo en''d")
	c.wait("end")
}

// Started in the background it is stopped for reading, as any job is, and goes
// on in the foreground.
func TestBackground(t *testing.T) {
	c := newConsole(t)
	c.line(`w /bin/bash -c 'read -p bg: x; echo "{$x}"' &`)
	c.wait("[1]")
	c.line("while ! jobs | grep -q Stopped; do sleep 0.02; done; echo stop''ped; fg")
	c.wait("stopped")
	c.line("fore")
	c.wait("{fore}")
	c.line("echo en''d")
	c.wait("end")
}
