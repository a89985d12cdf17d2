package integration

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"outcall/integration/harness"
)

// A screen is a terminal with something started in it.
type screen struct {
	t  *testing.T
	f  *os.File
	p  *harness.Proc
	mu sync.Mutex
	b  bytes.Buffer
}

func newScreen(t *testing.T, b *harness.Bed, program string, args ...string) *screen {
	t.Helper()
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	pty.Setsize(ptmx, &pty.Winsize{Rows: 24, Cols: 80})
	cmd := b.Program(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	// The command of the harness becomes the program by exec: the terminal is its own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s := &screen{t: t, f: ptmx, p: b.Start(cmd)}
	tty.Close()
	go io.Copy(s, ptmx) // ends with the last open end of the terminal
	t.Cleanup(func() { ptmx.Close() })
	return s
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *screen) typed(text string) { io.WriteString(s.f, text) }

// expect waits for text that came after all that was expected before.
func (s *screen) expect(text string) {
	s.t.Helper()
	ok := harness.Eventually(20*time.Second, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		i := bytes.Index(s.b.Bytes(), []byte(text))
		if i >= 0 {
			s.b.Next(i + len(text))
		}
		return i >= 0
	})
	if !ok {
		s.t.Fatalf("the terminal does not show %q but %q", text, s.text())
	}
}

func sandboxed(b *harness.Bed, command ...string) []string {
	return append([]string{"run", "-q", "--name", b.NewName(), "--"}, command...)
}

func TestTerminalShell(t *testing.T) {
	b := harness.New(t)
	s := newScreen(t, b, harness.Outcall, sandboxed(b, "sh")...)
	s.typed("tty; stty size; echo mark$((1+1))\n")
	s.expect("/dev/pts/")
	s.expect("24 80")
	s.expect("mark2")
	pty.Setsize(s.f, &pty.Winsize{Rows: 33, Cols: 101})
	s.typed("sleep 0.2; stty size\n")
	s.expect("33 101")
	s.typed("sleep 1000\n")
	s.typed("\x03")
	s.typed("echo after$((1+1))\n")
	s.expect("after2")
	s.typed("seq 100000 | head -n 1; echo piped$((1+1))\n")
	s.expect("piped2")
	s.typed("exit 5\n")
	if r := s.p.Wait(); r.Code != 5 {
		t.Errorf("code %d", r.Code)
	}
}

// Ctrl-Z and fg in the caller's own shell, and the terminal as it was.
func TestTerminalJobControl(t *testing.T) {
	b := harness.New(t)
	s := newScreen(t, b, "bash", "--norc", "-i")
	s.typed("PS1='host> '; stty -g; echo start$((1+1))\n")
	s.expect("start2")
	s.typed(harness.Outcall + " " + strings.Join(sandboxed(b, "cat"), " ") + "\n")
	s.typed("hello\n")
	s.expect("hello\r\nhello")
	s.typed("\x1a")
	s.expect("Stopped")
	s.typed("echo outside$((1+1))\n")
	s.expect("outside2")
	s.typed("fg\n")
	s.typed("again\n")
	s.expect("again\r\nagain")
	s.typed("\x03")
	s.typed("echo code$?; exit\n")
	s.expect("code130")
	s.p.Wait()
}

func TestTerminalIsRestored(t *testing.T) {
	b := harness.New(t)
	s := newScreen(t, b, "sh")
	s.typed("stty -g > before; " + harness.Outcall + " run -q -- stty raw -echo; stty -g > after; cmp before after && echo restored$((1+1))\n")
	s.expect("restored2")
	s.typed(harness.Outcall + " run -q -- " + harness.Probe + " tiocsti x; stty -g > after; cmp before after && echo same$((1+1))\n")
	s.expect("same2")
	s.typed("exit\n")
	s.p.Wait()
}

// K3: what is typed from inside must not reach the caller's shell.
func TestK3TypedFromInside(t *testing.T) {
	b := harness.New(t)
	s := newScreen(t, b, "sh")
	s.typed(harness.Outcall + " run -q -- " + harness.Probe + " tiocsti 'touch typed\n'; echo back$((1+1))\n")
	for range 2 {
		s.expect(`"ok":false`)
	}
	s.expect("back2")
	s.typed("exit\n")
	s.p.Wait()
	if _, err := os.Stat(b.Work + "/typed"); err == nil {
		t.Error("K3: the caller's shell ran what was typed from inside")
	}
}

func TestTerminalPrograms(t *testing.T) {
	b := harness.New(t)
	b.Write("work/text", strings.Repeat("a line of text\n", 200))
	s := newScreen(t, b, harness.Outcall, sandboxed(b, "vim", "-u", "NONE", "text")...)
	s.expect("a line of text")
	s.typed("ggOfrom vim\x1b:wq\r")
	if r := s.p.Wait(); r.Code != 0 {
		t.Errorf("vim: code %d", r.Code)
	}
	got, err := os.ReadFile(b.Work + "/text")
	if err != nil || !strings.HasPrefix(string(got), "from vim\n") {
		t.Errorf("vim wrote %.30q %v", got, err)
	}
	s = newScreen(t, b, harness.Outcall, sandboxed(b, "less", "text")...)
	s.expect("from vim")
	s.typed("Gq")
	if r := s.p.Wait(); r.Code != 0 {
		t.Errorf("less: code %d", r.Code)
	}
}
