package gate

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"outcall/policy"
	"outcall/sandbox/view"
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
	// master comes back in Proc.Master. At least one of Stdio must be nil.
	TTY        bool
	Rows, Cols uint16
	// Stdio are descriptors 0-2; nil means the pty, and without TTY /dev/null.
	// They are not closed.
	Stdio [3]*os.File
}

// A Proc is one process that the gatekeeper started.
type Proc struct {
	ID     uint64
	Master *os.File // the pty's master, nil without TTY; owned by the caller
	done   chan struct{}
	status syscall.WaitStatus
	stops  chan syscall.Signal
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Stops tells that the command was stopped, as by Ctrl-Z, and by which signal.
// Only a process with a TTY is watched for it; a stop that nobody takes is
// replaced by the next. SIGCONT by Client.Signal goes on.
func (p *Proc) Stops() <-chan syscall.Signal { return p.stops }

// Status is the wait status after Done.
func (p *Proc) Status() syscall.WaitStatus { return p.status }

// A StageError says which stage of the set-up failed: one of this package's or
// of package view's. Not-found and not-executable commands are Stage "exec"
// with ENOENT and EACCES (or ENOEXEC).
type StageError = view.Error

// A Client speaks with one gatekeeper. Its methods are safe for concurrent
// use; each waits for the answer or ctx.
type Client struct {
	c        *conn
	route    *os.File // rtnetlink in the gateway netns, opened before the agent runs
	listener *os.File
	readme   *os.File
	tap      *os.File // nil with a packet socket
	info     Info
	keeper   *keeperProcess
	network  Network

	routeMu sync.Mutex
	closing sync.Once

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan reply
	procs   map[uint64]*Proc
	ended   bool

	standing chan struct{} // closed when the gatekeeper has said that all stands, or not
	failure  error         // set before standing is closed
	goneCh   chan struct{}
}

// A reply's descriptors belong to who waits for it.
type reply struct {
	m    *message
	fds  []int
	proc *Proc // of a spawn
}

// errGone is what waits in vain: the gatekeeper or init is dead.
var errGone = &StageError{Stage: "gatekeeper", Detail: "it has ended, and the session with it"}

// Info tells what was made; before Await, of the links alone.
func (c *Client) Info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info
}

// AgentListener is the listening socket behind the agent's
// /run/outcall/agent.sock. The first call owns it; later ones get nil.
func (c *Client) AgentListener() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.listener
	c.listener = nil
	return l
}

// Readme is the agent's /run/outcall/README.md, open for writing, which nobody
// inside can. The first call owns it; later ones get nil.
func (c *Client) Readme() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.readme
	c.readme = nil
	return f
}

// Tap is the netstack's end of the tap device where Info.Tap says so: one frame
// a read and a write, non-blocking. The first call owns it; later ones get nil.
func (c *Client) Tap() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.tap
	c.tap = nil
	return f
}

// Socket opens a socket in a network namespace. It is close-on-exec and
// non-blocking and owned by the caller.
func (c *Client) Socket(ctx context.Context, w Where, domain, typ, proto int) (*os.File, error) {
	return c.socket(ctx, w, domain, typ|unix.SOCK_NONBLOCK, proto)
}

// PacketSocket opens an AF_PACKET SOCK_RAW socket for a link in the gateway's
// network namespace. It is close-on-exec and blocking, so that the runtime's
// poller does not know it, and owned by the caller.
func (c *Client) PacketSocket(ctx context.Context) (*os.File, error) {
	return c.socket(ctx, Gateway, unix.AF_PACKET, unix.SOCK_RAW, 0)
}

func (c *Client) socket(ctx context.Context, w Where, domain, typ, proto int) (*os.File, error) {
	r, err := c.ask(ctx, &message{Op: opSocket, Where: w, Domain: domain, Type: typ, Proto: proto})
	if err != nil {
		return nil, fmt.Errorf("open a socket in the %s's network namespace: %w", w, err)
	}
	if len(r.fds) != 1 {
		closeAll(r.fds)
		return nil, fmt.Errorf("open a socket in the %s's network namespace: no descriptor came", w)
	}
	return os.NewFile(uintptr(r.fds[0]), string(w)+" socket"), nil
}

// Spawn starts a process. It returns when the command runs, or with the
// *StageError of the stage that failed; then nothing runs.
func (c *Client) Spawn(ctx context.Context, w Where, s Spec) (*Proc, error) {
	return c.spawn(ctx, w, s, commandDoc{Argv: s.Argv, Env: s.Env, Dir: s.Dir})
}

func (c *Client) spawn(ctx context.Context, w Where, s Spec, doc commandDoc) (*Proc, error) {
	m := &message{Op: opSpawn, Where: w, TTY: s.TTY, Rows: s.Rows, Cols: s.Cols}
	var fds []int
	for i, f := range s.Stdio {
		if f != nil {
			// Fd gives a pipe of this program its blocking mode back, which
			// the command expects; others' descriptors it leaves alone.
			m.Has[i], fds = true, append(fds, int(f.Fd()))
		}
	}
	r, err := c.askDoc(ctx, m, &doc, fds)
	runtime.KeepAlive(s.Stdio)
	if err != nil {
		return nil, err
	}
	p := r.proc
	if len(r.fds) == 1 {
		if err := unix.SetNonblock(r.fds[0], true); err == nil {
			p.Master = os.NewFile(uintptr(r.fds[0]), "pty master")
			return p, nil
		}
	}
	closeAll(r.fds)
	if s.TTY {
		_ = c.Signal(ctx, p, unix.SIGKILL)
		return nil, &StageError{Stage: StageTerminal, Detail: "its descriptor did not arrive"}
	}
	return p, nil
}

// Signal sends a signal to a process made by Spawn. Those that a terminal
// sends (INT, QUIT, TSTP, CONT, HUP, WINCH) go to its process group.
func (c *Client) Signal(ctx context.Context, p *Proc, sig syscall.Signal) error {
	_, err := c.ask(ctx, &message{Op: opSignal, Proc: p.ID, Signal: int(sig)})
	if err != nil {
		return fmt.Errorf("send %s: %w", sig, err)
	}
	return nil
}

// Who tells which process inside holds a socket; nil is hidden. The pid is
// the one inside.
func (c *Client) Who(ctx context.Context, inode uint64) (*policy.Process, error) {
	r, err := c.ask(ctx, &message{Op: opWho, Inode: inode})
	if err != nil {
		return nil, fmt.Errorf("find the process of socket %d: %w", inode, err)
	}
	return r.m.Process, nil
}

// Close ends the gatekeeper and with it the agent, and waits for both.
func (c *Client) Close() error {
	c.closing.Do(c.c.shutdown)
	err := c.keeper.waitOrKill(closeGrace)
	<-c.goneCh
	c.c.close()
	c.routeMu.Lock()
	defer c.routeMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range []*os.File{c.route, c.listener, c.readme, c.tap} {
		if f != nil {
			f.Close()
		}
	}
	c.route, c.listener, c.readme, c.tap = nil, nil, nil, nil
	return err
}

// Gone is closed when the gatekeeper or the agent's init is dead.
func (c *Client) Gone() <-chan struct{} { return c.goneCh }
