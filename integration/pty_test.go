package integration

import (
	"bytes"
	"fmt"
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
	resize(t, ptmx, 24, 80)
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

func resize(t *testing.T, f *os.File, rows, cols uint16) {
	t.Helper()
	if err := pty.Setsize(f, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		t.Fatal(err)
	}
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

// typed types text. A terminal that gets Ctrl-C or Ctrl-Z forgets what was
// typed and not yet read, so nothing may be typed after one of them before
// its effect has been seen.
func (s *screen) typed(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.f, text); err != nil {
		s.t.Fatal(err)
	}
}

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

// ends waits for the program's end.
func (s *screen) ends(code int) {
	s.t.Helper()
	if r := s.p.Wait(); r.Code != code {
		s.t.Errorf("code %d, not %d; the terminal shows %q", r.Code, code, s.text())
	}
}

func sandboxed(b *harness.Bed, command ...string) []string {
	return append([]string{"run", "-q", "--name", b.NewName(), "--"}, command...)
}

// innerShell is a shell in the sandbox with a prompt that its own command
// line does not contain.
func innerShell(t *testing.T, b *harness.Bed) *screen {
	t.Helper()
	s := newScreen(t, b, harness.Outcall, sandboxed(b, "sh")...)
	s.typed("PS1='in''side> '\n")
	s.expect("inside> ")
	return s
}

func TestTerminalShell(t *testing.T) {
	b := harness.New(t)
	s := innerShell(t, b)
	s.typed("tty; stty size; echo mark$((1+1))\n")
	s.expect("/dev/pts/")
	s.expect("24 80")
	s.expect("mark2")
	s.expect("inside> ")
	s.typed("sh -c 'echo running$((1+1)); exec sleep 1000'\n")
	s.expect("running2")
	s.typed("\x03")
	s.expect("inside> ")
	s.typed("echo after$((1+1)) code$?\n")
	s.expect("after2 code130")
	s.typed("exit 5\n")
	s.ends(5)
}

// The size arrives, and with it the signal, also at a program in the
// foreground that waits for nothing else.
func TestTerminalResize(t *testing.T) {
	b := harness.New(t)
	s := innerShell(t, b)
	s.typed(`bash -c 'trap "stty size; exit" WINCH; echo wait''ing; while :; do sleep 0.05; done'` + "\n")
	s.expect("waiting")
	resize(t, s.f, 33, 101)
	s.expect("33 101")
	s.expect("inside> ")
	s.typed("stty size; exit\n")
	s.expect("33 101")
	s.ends(0)
}

// A pipe's reader that goes early ends its writer, within the sandbox's shell
// and around outcall itself.
func TestTerminalHead(t *testing.T) {
	b := harness.New(t)
	s := innerShell(t, b)
	s.typed("yes mark$((1+1)) | head -n 2; echo piped$((1+1))\n")
	s.expect("mark2\r\nmark2\r\npiped2")
	s.typed("exit\n")
	s.ends(0)

	s = newScreen(t, b, "bash", "--norc", "-i")
	s.typed("PS1='host''> '\n")
	s.expect("host> ")
	line := strings.Join(append([]string{harness.Outcall}, sandboxed(b, "yes", "much")...), " ")
	s.typed(line + " | head -n 2; echo codes${PIPESTATUS[*]}\n")
	s.expect("much\r\nmuch\r\n")
	s.expect(fmt.Sprintf("codes%d 0", 128+int(syscall.SIGPIPE)))
	s.typed("exit\n")
	s.ends(0)
}

// marks is a command that tells when it runs and marks each line that it gets:
// a terminal's own echo is not its answer. No blank, so that a shell's words
// stay as they are.
func marks(b *harness.Bed) string {
	return b.Write("work/marks", "echo ready; exec sed -u 's/^/got-/'\n")
}

// Ctrl-Z and fg in the caller's own shell, then Ctrl-C.
func TestTerminalJobControl(t *testing.T) {
	b := harness.New(t)
	s := newScreen(t, b, "bash", "--norc", "-i")
	s.typed("PS1='host''> '\n")
	s.expect("host> ")
	s.typed(harness.Outcall + " " + strings.Join(sandboxed(b, "sh", marks(b)), " ") + "\n")
	s.expect("ready")
	s.stopAndGoOn("host> ")
	s.typed("\x03")
	s.expect("host> ")
	s.typed("echo code$?; exit 0\n")
	s.expect("code130")
	s.ends(0)
}

// Ctrl-Z and fg in the sandbox's shell: its own job control.
func TestTerminalInnerJobControl(t *testing.T) {
	b := harness.New(t)
	s := newScreen(t, b, harness.Outcall, sandboxed(b, "bash", "--norc", "-i")...)
	s.typed("PS1='inner''> '\n")
	s.expect("inner> ")
	s.typed("sh " + marks(b) + "\n")
	s.expect("ready")
	s.stopAndGoOn("inner> ")
	s.typed("\x04")
	s.expect("inner> ")
	s.typed("exit 3\n")
	s.ends(3)
}

// stopAndGoOn talks to marks, stops it, talks to the shell, and to marks again.
func (s *screen) stopAndGoOn(prompt string) {
	s.t.Helper()
	s.typed("hello\n")
	s.expect("got-hello")
	s.typed("\x1a")
	s.expect("Stopped")
	s.expect(prompt)
	s.typed("echo shell$((1+1))\n")
	s.expect("shell2")
	s.expect(prompt)
	s.typed("fg\n")
	s.expect("marks\r\n") // the shell names what goes on
	s.typed("again\n")
	s.expect("got-again")
}

func TestTerminalIsRestored(t *testing.T) {
	b := harness.New(t)
	s := newScreen(t, b, "sh")
	s.typed("stty -g > before; " + harness.Outcall + " run -q -- stty raw -echo; stty -g > after; cmp before after && echo restored$((1+1))\n")
	s.expect("restored2")
	s.typed(harness.Outcall + " run -q -- " + harness.Probe + " tiocsti x; stty -g > after; cmp before after && echo same$((1+1))\n")
	s.expect("same2")
	s.typed("exit\n")
	s.ends(0)
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
	s.ends(0)
	if _, err := os.Stat(b.Work + "/typed"); err == nil {
		t.Error("K3: the caller's shell ran what was typed from inside")
	}
}

func TestTerminalPrograms(t *testing.T) {
	b := harness.New(t)
	b.Write("work/text", strings.Repeat("a line of text\n", 200)+"the last line\n")
	if err := os.Chmod(b.Work+"/text", 0o666); err != nil {
		t.Fatal(err)
	}
	s := newScreen(t, b, harness.Outcall, sandboxed(b, "vim", "-u", "NONE", "text")...)
	s.expect("a line of text")
	s.typed("ggOfrom vim\x1b:wq\r")
	s.ends(0)
	got, err := os.ReadFile(b.Work + "/text")
	if err != nil || !strings.HasPrefix(string(got), "from vim\n") {
		t.Errorf("vim wrote %.30q %v", got, err)
	}
	s = newScreen(t, b, harness.Outcall, sandboxed(b, "less", "text")...)
	s.expect("from vim")
	s.typed("G")
	s.expect("the last line")
	s.typed("q")
	s.ends(0)
}
