package gate

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/idmap"
	"outcall/sandbox/view"
)

// A keeper is the gatekeeper process: set up once, then serving until the
// supervisor or init is gone.
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
	tap      int // the tap device until it is sent, -1 without one
	packet   int // the packet socket until it is asked for, -1 without one
	proc     int // the inner /proc, or the outer one with WeakProc; -1 before the view stands
	outer    int // the host's /proc
	info     Info
	forward4 bool // by rtnetlink, see sysctls

	spawning sync.RWMutex // read-held while a process is started, held while orphans are reaped

	mu    sync.Mutex
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
	k := &keeper{c: c, exe: stageExe, inner: -1, proc: -1, tap: -1, packet: -1, procs: map[uint64]*child{}}
	var cfg config
	if err := c.recvDoc(opConfig, &cfg); err != nil {
		return 1 // the supervisor is gone, or no supervisor
	}
	k.o = cfg.Options
	made, err := k.setUp()
	if err != nil {
		_ = c.send(&message{Op: opStarted, Err: stageErr(StageInit, "", err)})
		k.stop()
		return 1
	}
	defer k.stop()
	if k.info.Tap {
		made = append(made, k.tap)
	}
	if err := c.send(&message{Op: opStarted, Info: &k.info}, made...); err != nil {
		return 1
	}
	closeAll(made)
	k.serve()
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

// setUp makes everything, in the order in which each part needs the one
// before it, and returns what view.AgentFiles made.
func (k *keeper) setUp() (files []int, err error) {
	if err := k.limits(); err != nil {
		return nil, err
	}
	if k.outer, err = openAt(unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, stageErr(StageInit, "open /proc", err)
	}
	// The first use of a capability: a security module that grants user
	// namespaces without their powers shows here.
	k.agent = newNSThread()
	if err := k.step(StageNetNS, "the agent's", k.agent.unshare); err != nil {
		return nil, err
	}
	k.nets = newNSThread()
	if err := k.step(StageNetNS, "the agent's", func() error { return k.nets.join(k.agent.netNS) }); err != nil {
		return nil, err
	}
	if err := k.startInit(); err != nil {
		return nil, err
	}
	// Meanwhile init makes the view.
	linked, err := k.networkEarly()
	if err != nil {
		return nil, err
	}
	// The agent API's socket and the README.md come with the word.
	if files, err = k.fromInit(opView, agentFiles); err != nil {
		return nil, err
	}
	if err := k.step(StageEnter, "the agent's namespaces", k.enter); err != nil {
		return files, err
	}
	if !linked {
		err = k.network()
	}
	if err == nil {
		err = k.awaitPid1()
	}
	if err != nil {
		return files, err
	}
	k.noCgroupNamespaces()
	k.info.KeeperPID = os.Getpid()
	k.info.InitPID = k.init.pid
	rs, err := ownMap("uid_map")
	if err != nil {
		return files, stageErr(StageUserNS, "", err)
	}
	k.info.Subordinate = k.o.IDs.Root && (len(rs) > 1 || rs[0].Size > 1)
	return files, nil
}

// step runs one stage under its name.
func (k *keeper) step(stage, detail string, f func() error) error {
	if err := inject(k.o.FailStage, stage); err != nil {
		return err
	}
	if err := f(); err != nil {
		return stageErr(stage, detail, err)
	}
	return nil
}

// limits are inherited by everything inside. Core dumps can be piped to a
// program that the kernel runs as root; a limit of 1, and no other, stops
// that too (core(5)).
func (k *keeper) limits() error {
	return k.step(StageRlimit, "core", func() error {
		return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1})
	})
}

// startInit starts pid 1, which then makes the view.
func (k *keeper) startInit() error {
	if err := inject(k.o.FailStage, StageInit); err != nil {
		return err
	}
	if k.o.View.FailStage == "" {
		k.o.View.FailStage = k.o.FailStage
	}
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if k.o.View.WeakProc {
		// Nothing else would hold the agent's processes together.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return stageErr(StageInit, "become a reaper", err)
		}
	} else {
		flags |= unix.CLONE_NEWPID
	}
	start := func() error {
		return k.agent.do(func() error {
			var err error
			k.init, err = startStage(stageInit, k.exe, [3]int{-1, -1, -1}, &syscall.SysProcAttr{Cloneflags: uintptr(flags), Setsid: true})
			return err
		})
	}
	err := start()
	if errors.Is(err, unix.ENOSPC) {
		// Inside another session: it has a cgroup namespace already, and no
		// other can be made below it (see noCgroupNamespaces).
		flags &^= unix.CLONE_NEWCGROUP
		err = start()
	}
	if err != nil {
		return stageErr(StageInit, "start", err)
	}
	k.initNS = flags
	k.initConn = k.init.conn
	if err := k.initConn.sendDoc(&message{Op: opConfig}, k.o.View); err != nil {
		return stageErr(StageInit, "", err)
	}
	return nil
}

// awaitPid1 waits until init has started anew, without powers.
func (k *keeper) awaitPid1() error {
	_, err := k.fromInit(opReady, 0)
	return err
}

func (k *keeper) fromInit(op string, descriptors int) ([]int, error) {
	m, fds, err := k.initConn.recv()
	switch {
	case err != nil:
		return nil, stageErr(StageInit, "ended before it told of its "+op, err)
	case m.Err != nil:
		closeAll(fds)
		return nil, m.Err
	case m.Op != op || len(fds) != descriptors:
		closeAll(fds)
		return nil, &StageError{Stage: StageInit, Detail: "unexpected answer " + m.Op}
	}
	return fds, nil
}

// enter brings the agent's thread into the finished view and opens there what
// is needed later.
func (k *keeper) enter() (err error) {
	if err := k.agent.enter(k.init.pidfd, k.initNS); err != nil {
		return err
	}
	if k.proc, err = k.agent.open("/proc", unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return err
	}
	// Stages that the agent could look at run from the copy on outcall's own
	// read-only mount: the host's file would be writable through /proc/PID/exe
	// (CVE-2019-5736).
	k.inner, err = k.agent.open(view.BinDir+"/outcall", unix.O_PATH)
	return err
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
	go func() {
		<-k.init.done
		k.c.shutdown()
	}()
	if k.o.View.WeakProc {
		go k.reapOrphans()
	}
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

const socketFlags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK

func (k *keeper) socket(m *message) (fd int, err error) {
	if k.packet >= 0 && m.Where == Gateway && m.Domain == unix.AF_PACKET && m.Type|socketFlags == packetType && m.Proto == 0 {
		fd, k.packet = k.packet, -1
		return fd, nil
	}
	make := func() error {
		fd, err = unix.Socket(m.Domain, m.Type|socketFlags, m.Proto)
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

// noCgroupNamespaces keeps the agent from mounting cgroups of its own. Who can
// make a user and a cgroup namespace can mount a fresh, writable cgroup2, and
// in a cgroup that is delegated to the user (cgroup.kill, cgroup.freeze) reach
// the host's processes beside it. The limit is U1's, so it binds all below.
func (k *keeper) noCgroupNamespaces() {
	if err := k.write("sys/user/max_cgroup_namespaces", "0"); err != nil {
		k.info.Notes = append(k.info.Notes, "cgroup namespaces can be made inside: "+err.Error())
	}
}

func ownMap(name string) ([]idmap.Range, error) {
	f, err := os.Open("/proc/self/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rs, err := idmap.Parse(f)
	if err == nil && len(rs) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return rs, err
}

func exePath(fd int) string {
	return "/proc/self/fd/" + strings.TrimSpace(itoa(fd))
}
