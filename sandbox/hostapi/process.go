package hostapi

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"outcall/sandbox/gate"
)

// A Process is a command that the backend started for an exec.
type Process struct {
	Stdin  io.WriteCloser // closing it is the end of input
	Stdout io.ReadCloser  // with a tty: its master, and closing it hangs up
	Stderr io.ReadCloser  // nil with a tty
	Resize func(rows, cols uint16) error
	Signal func(sig syscall.Signal) error
	Done   <-chan struct{}           // closed when the command has ended
	Status func() syscall.WaitStatus // after Done
}

// close releases the streams; it may be called more than once.
func (p *Process) close() {
	p.Stdout.Close()
	if p.Stderr != nil { // no tty: its input would only type a Ctrl-D
		p.Stdin.Close()
		p.Stderr.Close()
	}
}

// A Spawner starts processes in the session's namespaces; *gate.Client is
// one.
type Spawner interface {
	Spawn(ctx context.Context, w gate.Where, s gate.Spec) (*gate.Proc, error)
	Signal(ctx context.Context, p *gate.Proc, sig syscall.Signal) error
}

// Spawn starts spec for an exec and returns the process with its streams.
// Without spec.TTY three pipes are made; spec.Stdio is not used. A
// *gate.StageError in the chain of the error says which stage refused.
func Spawn(ctx context.Context, g Spawner, w gate.Where, spec gate.Spec) (*Process, error) {
	if spec.TTY {
		return spawnTTY(ctx, g, w, spec)
	}
	var inner, outer [3]*os.File
	closeAll := func(fs [3]*os.File) {
		for _, f := range fs {
			if f != nil {
				f.Close()
			}
		}
	}
	for i := range inner {
		var err error
		if inner[i], outer[i], err = pipe(i == 0); err != nil {
			closeAll(inner)
			closeAll(outer)
			return nil, fmt.Errorf("make the pipes of an exec: %w", err)
		}
	}
	spec.Stdio = inner
	proc, err := g.Spawn(ctx, w, spec)
	closeAll(inner)
	if err != nil {
		closeAll(outer)
		return nil, err
	}
	p := processOf(g, proc)
	p.Stdin, p.Stdout, p.Stderr = outer[0], outer[1], outer[2]
	p.Resize = func(uint16, uint16) error { return nil }
	return p, nil
}

func spawnTTY(ctx context.Context, g Spawner, w gate.Where, spec gate.Spec) (*Process, error) {
	proc, err := g.Spawn(ctx, w, spec)
	if err != nil {
		return nil, err
	}
	p := processOf(g, proc)
	f, err := pollable(proc.Master)
	if err != nil {
		p.Signal(syscall.SIGKILL)
		return nil, fmt.Errorf("take the terminal of an exec: %w", err)
	}
	m := &master{f: f}
	p.Stdin, p.Stdout = ttyInput{m}, m
	p.Resize = m.resize
	return p, nil
}

// pollable replaces f by a descriptor that the runtime's poller serves, so
// that closing it ends a read that waits.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	cerr := raw.Control(func(old uintptr) {
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	if cerr != nil {
		return nil, cerr
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// pipe returns the end for the command, which blocks as programs expect of
// their descriptors 0-2, and ours, which the runtime's poller serves. With
// input the command has the reading end.
func pipe(input bool) (inner, outer *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	in, out := fds[1], fds[0]
	if input {
		in, out = out, in
	}
	if err := unix.SetNonblock(out, true); err != nil {
		unix.Close(in)
		unix.Close(out)
		return nil, nil, err
	}
	return os.NewFile(uintptr(in), "command"), os.NewFile(uintptr(out), "exec"), nil
}

func processOf(g Spawner, proc *gate.Proc) *Process {
	return &Process{
		// The signal must reach the command also when the client's request has
		// just been cancelled: that is why it is sent.
		Signal: func(sig syscall.Signal) error { return g.Signal(context.Background(), proc, sig) },
		Done:   proc.Done(),
		Status: proc.Status,
	}
}

// A master is a pty's master as stream; closing it hangs the terminal up.
type master struct {
	f    *os.File
	once sync.Once
	err  error
}

// ttyInput is the typing side of a master. A terminal has no half-close, so
// the end of input is typed as Ctrl-D (VEOF).
type ttyInput struct{ m *master }

func (t ttyInput) Write(p []byte) (int, error) { return t.m.f.Write(p) }

func (t ttyInput) Close() error {
	_, err := t.m.f.Write([]byte{4})
	return err
}

// Read reports the EIO of a pty whose last user has gone as the end of file.
func (m *master) Read(p []byte) (int, error) {
	n, err := m.f.Read(p)
	if err != nil && isEIO(err) {
		err = io.EOF
	}
	return n, err
}

func (m *master) Close() error {
	m.once.Do(func() { m.err = m.f.Close() })
	return m.err
}

func (m *master) resize(rows, cols uint16) error {
	c, err := m.f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := c.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if cerr != nil {
		return cerr
	}
	return err
}
