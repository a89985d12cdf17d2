package gate

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/view"
)

// A screen collects what a terminal shows.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func watch(f *os.File) *screen {
	s := &screen{}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := f.Read(b)
			s.mu.Lock()
			s.buf.Write(b[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) waitFor(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(15 * time.Second)
	for {
		s.mu.Lock()
		all := s.buf.String()
		s.mu.Unlock()
		if strings.Contains(all, text) {
			return
		}
		select {
		case <-end:
			t.Fatalf("%q is not shown in %q", text, all)
		case <-tick.C:
		}
	}
}

func terminal(t *testing.T, c *Client, argv ...string) (*Proc, *screen) {
	t.Helper()
	p, err := c.Spawn(deadline(t), Agent, Spec{Argv: argv, Env: []string{"PATH=/usr/bin:/bin", "TERM=dumb", "PS1=prompt-", envProbe + "=tty"}, TTY: true, Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Master.Close() })
	return p, watch(p.Master)
}

func send(t *testing.T, p *Proc, text string) {
	t.Helper()
	if _, err := io.WriteString(p.Master, text); err != nil {
		t.Fatal(err)
	}
}

func TestTerminal(t *testing.T) {
	c := inside(t)
	p, s := terminal(t, c, view.BinDir+"/outcall")
	s.waitFor(t, "foreground=true leader=false size=33x77 sti=EPERM")
	// Ctrl-Z stops the command although it was started without a shell.
	send(t, p, "\x1a")
	select {
	case sig := <-p.Stops():
		if sig != unix.SIGTSTP {
			t.Errorf("stopped by %v", sig)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Ctrl-Z does not stop the command")
	}
	if err := c.Signal(deadline(t), p, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	send(t, p, "\n")
	s.waitFor(t, "went on")
	wait(t, p.Done(), "the end")
	if p.Status().ExitStatus() != 0 {
		t.Errorf("status %v", p.Status())
	}
}

func TestTerminalInterrupt(t *testing.T) {
	c := inside(t)
	p, s := terminal(t, c, "/bin/sh", "-c", "echo ready; exec sleep 1000")
	s.waitFor(t, "ready")
	send(t, p, "\x03")
	wait(t, p.Done(), "the end by Ctrl-C")
	if !p.Status().Signaled() || p.Status().Signal() != unix.SIGINT {
		t.Errorf("status %v, want SIGINT", p.Status())
	}
}

func TestTerminalShellHasJobControl(t *testing.T) {
	c := inside(t)
	p, s := terminal(t, c, "bash", "--norc", "--noprofile", "-i")
	s.waitFor(t, "prompt-")
	send(t, p, "sleep 1000\n")
	time.AfterFunc(300*time.Millisecond, func() { _, _ = io.WriteString(p.Master, "\x1a") })
	s.waitFor(t, "Stopped")
	send(t, p, "kill -9 %1; wait; echo job=done; exec sh -c 'exit 5'\n")
	s.waitFor(t, "job=done\r\n")
	wait(t, p.Done(), "the shell's end")
	if p.Status().ExitStatus() != 5 {
		t.Errorf("status %v", p.Status())
	}
}

func TestTerminalIsHungUp(t *testing.T) {
	c := inside(t)
	p, s := terminal(t, c, "/bin/sh", "-c", "echo ready; sleep 1000")
	s.waitFor(t, "ready")
	p.Master.Close()
	wait(t, p.Done(), "the end by SIGHUP")
}

func TestTerminalExecErrors(t *testing.T) {
	c := inside(t)
	_, err := c.Spawn(deadline(t), Agent, Spec{Argv: []string{"no-such-program"}, TTY: true})
	var se *StageError
	if !errors.As(err, &se) || se.Stage != StageExec || se.Errno != unix.ENOENT {
		t.Errorf("%v", err)
	}
}
