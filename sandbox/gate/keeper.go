package gate

import (
	"errors"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/view"
)

// A keeper is the gatekeeper process: set up once, serving from when the links
// stand until the supervisor or init is gone.
type keeper struct {
	c     *conn
	o     Options
	exe   int // the program, for stages outside of the view
	inner int // the view's own copy of it, for stages that the agent may see
	agent *nsThread
	nets  *nsThread // in the agent's network namespace alone

	init     *child
	initNS   int // the namespaces that init was given, CLONE_NEW…
	initConn *conn
	tap      int          // the tap device until it is sent, -1 without one
	packet   atomic.Int32 // the packet socket until it is asked for, -1 without one
	proc     int          // the inner /proc, or the outer one with WeakProc; -1 before the view stands
	outer    int          // the host's /proc
	info     Info
	forward4 bool // by rtnetlink, see sysctls
	linked   bool // the links stand

	spawning sync.RWMutex // read-held while a process is started, held while orphans are reaped

	mu    sync.Mutex
	spare *spare // nil once it is taken
	procs map[uint64]*child
	next  uint64

	lastPID int // where who looks first; owned by the goroutine that serves who
}

// holdMain waits until newuidmap has been run on this process, and then
// starts the keeper anew: only an execve as a mapped uid 0 gives it the
// capabilities in its namespace.
func holdMain(c *conn) int {
	m, _, err := c.recv()
	if err != nil || m.Op != opMapped {
		return 1
	}
	err = unix.Exec(exePath(stageExe), stageArgs(stageKeeper), nil)
	_ = c.send(&message{Op: opStarted, Err: stageErr(StageHelper, "start again with mapped ids", err)})
	return 1
}

func keeperMain(c *conn) int {
	unix.CloseOnExec(stageSock)
	unix.CloseOnExec(stageExe)
	endInOrder(c)
	k := &keeper{c: c, exe: stageExe, inner: -1, proc: -1, tap: -1, procs: map[uint64]*child{}}
	k.packet.Store(-1)
	var cfg config
	if err := c.recvDoc(opConfig, &cfg); err != nil {
		return 1 // the supervisor is gone, or no supervisor
	}
	k.o = cfg.Options
	if err := k.begin(); err != nil {
		_ = c.send(&message{Op: opStarted, Err: stageErr(StageInit, "", err)})
		k.stop()
		return 1
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		k.finish()
	}()
	k.serve()
	k.init.kill() // finish may wait for it, or be about to start a stage that stop is to end
	<-finished
	k.stop()
	return 0
}

// endInOrder makes the loss of the supervisor, which is told by a signal as
// well as by the end of the socket, an end in order; one that takes too long
// is an end all the same, and init's with it.
func endInOrder(c *conn) {
	lost := make(chan os.Signal, 1)
	signal.Notify(lost, unix.SIGTERM)
	go func() {
		<-lost
		c.shutdown()
		time.Sleep(stopGrace)
		os.Exit(1)
	}()
}

// serve handles requests in order until the supervisor or init is gone.
// Questions about processes and starts take long and have goroutines of their
// own.
func (k *keeper) serve() {
	who := make(chan *message, maxWho)
	defer close(who)
	go func() {
		for m := range who {
			_ = k.c.send(&message{Op: opReply, ID: m.ID, Process: k.who(m.Inode)})
		}
	}()
	starts := k.starters()
	defer close(starts[Agent])
	defer close(starts[Gateway])
	for {
		m, fds, err := k.c.recv()
		if err != nil {
			return
		}
		if m.Op == opWho {
			closeAll(fds)
			select {
			case who <- m:
			default: // too many wait: hidden, which denies where it matters
				_ = k.c.send(&message{Op: opReply, ID: m.ID})
			}
			continue
		}
		if m.Op == opSpawn {
			k.enqueue(starts, m, fds)
			continue
		}
		k.handle(m, fds)
	}
}

func (k *keeper) handle(m *message, fds []int) {
	r := &message{Op: opReply, ID: m.ID}
	var out []int
	var made *child
	switch m.Op {
	case opSocket:
		fd, err := k.socket(m)
		if r.Err = stageErr(StageSocket, "", err); err == nil {
			out = []int{fd}
		}
	case opSpawn:
		k.spawning.RLock()
		p, master, err := k.spawn(m, fds)
		k.spawning.RUnlock()
		if r.Err = stageErr(StageExec, "", err); err == nil {
			r.Proc = p.id
			if master >= 0 {
				out = []int{master}
			}
			made = p
		}
	case opSignal:
		r.Err = stageErr("signal", "", k.signal(m.Proc, syscall.Signal(m.Signal)))
	default:
		r.Err = &StageError{Stage: "protocol", Detail: "unknown request " + m.Op}
	}
	closeAll(fds)
	err := k.c.send(r, out...)
	closeAll(out)
	if err != nil && !errors.Is(err, unix.EPIPE) {
		// A descriptor could not travel (its budget is shared with the agent,
		// by uid): the request has failed, and the supervisor must hear so.
		r.Err, r.Proc = stageErr("protocol", "answer "+m.Op, err), 0
		if made != nil {
			made.kill()
		}
		_ = k.c.send(r)
	}
	if made != nil {
		made.release()
	}
}

func (k *keeper) socket(m *message) (fd int, err error) {
	if m.Where == Gateway && m.Domain == unix.AF_PACKET && m.Type|unix.SOCK_CLOEXEC == packetType && m.Proto == 0 {
		if fd := int(k.packet.Swap(-1)); fd >= 0 {
			return fd, nil
		}
	}
	make := func() error {
		fd, err = unix.Socket(m.Domain, m.Type|unix.SOCK_CLOEXEC, m.Proto)
		return err
	}
	if m.Where == Agent {
		err = k.nets.do(make)
	} else {
		err = make()
	}
	return fd, err
}

// stopGrace is how long processes get to be gone after they were killed.
const stopGrace = 5 * time.Second

// stop kills all that was started and waits for it.
func (k *keeper) stop() {
	var all []*child
	k.mu.Lock()
	for _, p := range k.procs {
		all = append(all, p)
	}
	k.mu.Unlock()
	if s := k.takeSpare(); s != nil && s.err == nil {
		all = append(all, s.p)
	}
	if k.init != nil {
		all = append(all, k.init)
	}
	for _, p := range all {
		p.kill()
	}
	if k.o.View.WeakProc {
		killDescendants()
	}
	late := time.After(stopGrace)
	for _, p := range all {
		select {
		case <-p.done:
		case <-late:
			return
		}
	}
	// Here and not only in the supervisor: it may be dead, and files of
	// subordinate ids can be removed only from U1. What stays for want of a
	// right is the supervisor's, or the next run's.
	if k.o.View.Scratch != "" {
		_ = view.RemoveScratch(k.o.View.Scratch)
	}
}

func exePath(fd int) string {
	return "/proc/self/fd/" + strings.TrimSpace(itoa(fd))
}
