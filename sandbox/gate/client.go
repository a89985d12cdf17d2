package gate

import (
	"context"
	"os"
	"syscall"

	"outcall/policy"
)

// Where names the namespaces that a socket or process is made in.
type Where string

// The two places.
const (
	Gateway Where = "gateway" // the gateway network namespace, as owner of U1
	Agent   Where = "agent"   // the agent's namespaces, in a child user namespace
)

// A Spec says what to start. In the agent the process gets a user namespace
// of its own (a child of U1 made after all mounts), no capabilities,
// no_new_privs and the seccomp filter.
type Spec struct {
	Argv []string
	Env  []string
	Dir  string
	// TTY asks for a pty of the inner devpts as controlling terminal; its
	// master comes back in Proc.Master and Stdio is ignored.
	TTY        bool
	Rows, Cols uint16
	// Stdio are descriptors 0-2 where TTY is false; nil means /dev/null. They
	// are not closed.
	Stdio [3]*os.File
}

// A Proc is one process that the gatekeeper started.
type Proc struct {
	ID     uint64
	Master *os.File // the pty's master, nil without TTY; owned by the caller
	done   chan struct{}
	status syscall.WaitStatus
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Status is the wait status after Done.
func (p *Proc) Status() syscall.WaitStatus { return p.status }

// A StageError says which stage of the set-up failed. Errno is the kernel's
// answer, 0 if there was none. Not-found and not-executable commands are
// Stage "exec" with ENOENT and EACCES (or ENOEXEC).
type StageError struct {
	Stage  string // "user namespace", "bridge", "mount", "proc", "seccomp", "exec", …
	Detail string // on what
	Errno  syscall.Errno
	Hint   string // the mend
}

func (e *StageError) Error() string {
	s := e.Stage
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Errno != 0 {
		s += ": " + e.Errno.Error()
	}
	return s
}

// Unwrap returns the kernel's answer.
func (e *StageError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// A Client speaks with one gatekeeper. Its methods are safe for concurrent
// use; each waits for the answer or ctx.
type Client struct {
	impl clientImpl
}

// Socket opens a socket in a network namespace. It is close-on-exec and
// non-blocking and owned by the caller.
func (c *Client) Socket(ctx context.Context, w Where, domain, typ, proto int) (*os.File, error) {
	return c.impl.socket(ctx, w, domain, typ, proto)
}

// Spawn starts a process.
func (c *Client) Spawn(ctx context.Context, w Where, s Spec) (*Proc, error) {
	return c.impl.spawn(ctx, w, s)
}

// Signal sends a signal to a process made by Spawn.
func (c *Client) Signal(ctx context.Context, p *Proc, sig syscall.Signal) error {
	return c.impl.signal(ctx, p.ID, sig)
}

// Who tells which process inside holds a socket; nil is hidden.
func (c *Client) Who(ctx context.Context, inode uint64) (*policy.Process, error) {
	return c.impl.who(ctx, inode)
}

// Close ends the gatekeeper and with it the agent, and waits for both.
func (c *Client) Close() error { return c.impl.close() }

// Gone is closed when the gatekeeper or the agent's init is dead.
func (c *Client) Gone() <-chan struct{} { return c.impl.gone() }

type clientImpl interface {
	socket(ctx context.Context, w Where, domain, typ, proto int) (*os.File, error)
	spawn(ctx context.Context, w Where, s Spec) (*Proc, error)
	signal(ctx context.Context, id uint64, sig syscall.Signal) error
	who(ctx context.Context, inode uint64) (*policy.Process, error)
	close() error
	gone() <-chan struct{}
}
