package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"outcall/integration/world"
)

// Patience bounds every wait of the harness: a program that is slower hangs.
const Patience = 60 * time.Second

// A Result is how one program ended.
type Result struct {
	Name           string // the session's, where Sandbox made one
	Stdout, Stderr string
	Code           int // 128+n for signal n
	Took           time.Duration
}

// A Proc is a started program. Its output can be read while it runs.
type Proc struct {
	Name string
	Cmd  *exec.Cmd

	t        testing.TB
	out, err buffer
	done     chan struct{}
	result   Result
	started  time.Time
}

// A buffer is written by a program and read by the test.
type buffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	grew chan struct{}
}

// bufferLimit ends a program that fills memory: its pipe then breaks.
const bufferLimit = 64 << 20

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len()+len(p) > bufferLimit {
		return 0, io.ErrShortBuffer
	}
	if b.grew != nil {
		close(b.grew)
		b.grew = nil
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// more returns what there is and a channel that is closed when there is more.
func (b *buffer) more() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.grew == nil {
		b.grew = make(chan struct{})
	}
	return b.b.String(), b.grew
}

// Command returns outcall's command as the bed's user would start it, not
// started. Callers may change its directory, environment and streams.
func (b *Bed) Command(args ...string) *exec.Cmd { return b.Program(Outcall, args...) }

// Program returns any program's command, started outside the sandbox.
func (b *Bed) Program(name string, args ...string) *exec.Cmd {
	cmd := world.Command(name, args...)
	cmd.Dir, cmd.Env = b.Work, b.Env
	return cmd
}

// Start starts a command; it is killed when the test ends before it.
func (b *Bed) Start(cmd *exec.Cmd) *Proc {
	b.t.Helper()
	p := &Proc{Cmd: cmd, t: b.t, done: make(chan struct{}), started: time.Now()}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.err
	}
	// A leftover that holds a pipe must not hang the test: it is reported as one.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("start %v: %v", cmd.Args, err)
	}
	go func() {
		err := cmd.Wait()
		p.result = Result{Stdout: p.out.String(), Stderr: p.err.String(), Code: code(cmd.ProcessState), Took: time.Since(p.started)}
		if errors.Is(err, exec.ErrWaitDelay) {
			p.result.Stderr += "\nharness: a process still holds the command's output\n"
		}
		close(p.done)
	}()
	b.cleanup = append(b.cleanup, func() {
		select {
		case <-p.done:
		default:
			cmd.Process.Kill()
			<-p.done
		}
	})
	return p
}

func code(s *os.ProcessState) int {
	ws, ok := s.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}

// Wait returns the result; a program that runs on beyond Patience is killed
// and fails the test.
func (p *Proc) Wait() Result {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(Patience):
		p.Cmd.Process.Kill()
		<-p.done
		p.t.Errorf("%v: did not end in %v\nstdout: %s\nstderr: %s", p.Cmd.Args, Patience, p.out.String(), p.err.String())
	}
	p.result.Name = p.Name
	return p.result
}

// Output is what has come on standard output so far.
func (p *Proc) Output() string { return p.out.String() }

// Errors returns what the program has written to standard error so far.
func (p *Proc) Errors() string { return p.err.String() }

// Done is closed when the program has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// WaitFor waits until standard output contains text.
func (p *Proc) WaitFor(text string) {
	p.t.Helper()
	deadline := time.After(Patience)
	for {
		got, more := p.out.more()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-more:
		case <-p.done:
			if !strings.Contains(p.out.String(), text) {
				p.t.Fatalf("%v ended without %q: code %d\nstdout: %s\nstderr: %s", p.Cmd.Args, text, p.result.Code, p.out.String(), p.err.String())
			}
			return
		case <-deadline:
			p.t.Fatalf("%v: no %q within %v\nstdout: %s\nstderr: %s", p.Cmd.Args, text, Patience, p.out.String(), p.err.String())
		}
	}
}

// Outcall runs one outcall command to its end.
func (b *Bed) Outcall(args ...string) Result {
	b.t.Helper()
	return b.Start(b.Command(args...)).Wait()
}

// SandboxCommand returns `outcall run --name N flags -- command`, not started,
// and N.
func (b *Bed) SandboxCommand(flags []string, command ...string) (*exec.Cmd, string) {
	name := b.NewName()
	args := append([]string{"run", "--name", name}, flags...)
	return b.Command(append(append(args, "--"), command...)...), name
}

// StartSandbox starts a command in a sandbox.
func (b *Bed) StartSandbox(flags []string, command ...string) *Proc {
	b.t.Helper()
	cmd, name := b.SandboxCommand(flags, command...)
	p := b.Start(cmd)
	p.Name = name
	return p
}

// Sandbox runs a command in a sandbox to its end.
func (b *Bed) Sandbox(flags []string, command ...string) Result {
	b.t.Helper()
	return b.StartSandbox(flags, command...).Wait()
}

// Allow is the usual flags: one --allow for each target, quietly.
func Allow(targets ...string) []string {
	flags := []string{"-q"}
	for _, t := range targets {
		flags = append(flags, "--allow", t)
	}
	return flags
}

// Must fails the test unless the result has this code, and shows the rest.
func (r Result) Must(t testing.TB, code int) Result {
	t.Helper()
	if r.Code != code {
		t.Fatalf("exit code %d, not %d\nstdout: %s\nstderr: %s", r.Code, code, clip(r.Stdout), clip(r.Stderr))
	}
	return r
}

func clip(s string) string {
	if len(s) > 4096 {
		return fmt.Sprintf("%s… (%d bytes)", s[:4096], len(s))
	}
	return s
}
