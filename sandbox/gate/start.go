package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/idmap"
)

// closeGrace is how long the gatekeeper gets to end the agent in order before
// it is killed, which ends the agent as well.
const closeGrace = 8 * time.Second

// Start makes U1, both network namespaces with their links, and the agent's
// init with its view. It returns when all of it stands; an error is a
// *StageError (or ctx's), and then nothing is left.
func Start(ctx context.Context, o Options) (*Client, error) {
	c, err := Launch(ctx, o.IDs).Begin(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := c.Await(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// A Pending is a gatekeeper that is being started and has no task yet. It is
// given one by Begin, or ended by Discard.
type Pending struct {
	done   chan struct{}
	c      *conn
	keeper *keeperProcess
	err    error
}

// Launch begins to start a gatekeeper and does not wait. What must be known
// first are its ids; all else can be found out meanwhile.
func Launch(ctx context.Context, ids idmap.Plan) *Pending {
	p := &Pending{done: make(chan struct{})}
	go func() { // ends with one clone and at most two helpers
		defer close(p.done)
		p.keeper, p.err = p.launch(ctx, ids)
	}()
	return p
}

func (p *Pending) launch(ctx context.Context, ids idmap.Plan) (*keeperProcess, error) {
	ours, theirs, err := connPair()
	if err != nil {
		return nil, stageErr(StageUserNS, "", err)
	}
	p.c = ours
	kp, err := startKeeper(ids, theirs)
	theirs.close()
	if err == nil && ids.UIDHelper != "" {
		if err = kp.mapByHelpers(ctx, ids); err == nil {
			err = stageErrOrNil(StageHelper, "", ours.send(&message{Op: opMapped}))
		}
	}
	if err == nil {
		return kp, nil
	}
	p.end(kp)
	return nil, err
}

func (p *Pending) end(kp *keeperProcess) {
	p.c.shutdown()
	if kp != nil {
		_ = kp.waitOrKill(closeGrace)
	}
	p.c.close()
}

// Discard ends a gatekeeper that is not needed, and waits for it.
func (p *Pending) Discard() {
	<-p.done
	if p.err == nil {
		p.end(p.keeper)
	}
}

// Begin tells the gatekeeper its task and returns when both network namespaces
// and their links stand. From then on Socket can be used; all else waits for
// Await. An error is a *StageError (or ctx's), and then nothing is left.
func (p *Pending) Begin(ctx context.Context, o Options) (*Client, error) {
	<-p.done
	n, err := o.Network.filled()
	if err != nil {
		err = &StageError{Stage: StageBridge, Detail: err.Error()}
	} else {
		o.Network, err = n, inject(o.FailStage, StageUserNS)
	}
	if err != nil {
		p.Discard()
		return nil, err
	}
	if p.err != nil {
		return nil, p.err
	}
	c := &Client{c: p.c, keeper: p.keeper, network: n, waiting: map[uint64]chan reply{}, procs: map[uint64]*Proc{},
		standing: make(chan struct{}), goneCh: make(chan struct{})}
	if err := c.begin(ctx, o); err != nil {
		p.end(p.keeper)
		return nil, err
	}
	go c.read()
	c.route, err = c.Socket(ctx, Gateway, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		failure := c.Failure(ctx)
		_ = c.Close()
		if failure != nil {
			return nil, failure
		}
		return nil, stageErr(StageSocket, "rtnetlink", err)
	}
	return c, nil
}

// begin configures the gatekeeper and waits until the links stand.
func (c *Client) begin(ctx context.Context, o Options) error {
	stop := context.AfterFunc(ctx, c.c.shutdown)
	defer stop()
	err := c.c.sendDoc(&message{Op: opConfig}, config{o})
	var m *message
	var fds []int
	if err == nil {
		m, fds, err = c.c.recv()
	}
	switch {
	case ctx.Err() != nil:
		closeAll(fds)
		return ctx.Err()
	case err != nil:
		return c.keeper.mourn(err)
	case m.Err != nil:
		closeAll(fds)
		return blame(m.Err)
	case m.Op != opLinked || m.Info == nil || m.Info.Tap != (len(fds) == 1):
		closeAll(fds)
		return &StageError{Stage: "protocol", Detail: "unexpected answer " + m.Op}
	}
	c.info = *m.Info
	if c.info.Tap {
		c.tap = os.NewFile(uintptr(fds[0]), tunDevice)
	}
	return nil
}

// Await waits until the agent's view and its init stand. After an error the
// Client is of use for Close alone.
func (c *Client) Await(ctx context.Context) error {
	select {
	case <-c.standing:
	case <-c.goneCh:
		select {
		case <-c.standing: // it came just before the end
		default:
			return c.keeper.mourn(io.EOF)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.failure
}

// Failure is why a request between Begin and Await was not answered: what kept
// the view or init from standing, which ends the gatekeeper. It is nil where
// those stand, and where ctx has ended.
func (c *Client) Failure(ctx context.Context) error {
	err := c.Await(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// stood takes the gatekeeper's word that all stands, or what failed.
func (c *Client) stood(m *message, fds []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.standing: // it is said once
		closeAll(fds)
		return
	default:
	}
	defer close(c.standing)
	switch {
	case m.Err != nil:
		c.failure = blame(m.Err)
	case m.Info == nil || len(fds) != agentFiles:
		c.failure = &StageError{Stage: "protocol", Detail: "unexpected answer " + m.Op}
	default:
		c.info = *m.Info
		c.listener = os.NewFile(uintptr(fds[0]), "agent.sock")
		c.readme = os.NewFile(uintptr(fds[1]), "README.md")
		return
	}
	closeAll(fds)
}

// NoCapabilities is the Detail of a user namespace that is there and has no
// powers.
const NoCapabilities = "granted without capabilities"

// blame names the true cause where the first use of a capability was refused:
// the user namespace came without its powers.
func blame(e *StageError) error {
	if e.Stage == StageNetNS && (e.Errno == unix.EPERM || e.Errno == unix.EACCES) && !strings.Contains(e.Detail, "for a test") {
		return &StageError{Stage: StageUserNS, Detail: NoCapabilities, Errno: e.Errno, Hint: e.Hint}
	}
	return e
}

// A keeperProcess is the gatekeeper as its parent sees it.
type keeperProcess struct {
	pid  int
	done chan struct{}
	err  error

	tailMu sync.Mutex
	tail   bytes.Buffer // the last words of a gatekeeper that crashed
}

// maxTail bounds what is kept of them.
const maxTail = 8 << 10

// startKeeper clones the gatekeeper from a thread that stays: the kernel
// sends the parent-death signal when the thread ends.
func startKeeper(ids idmap.Plan, theirs *conn) (*keeperProcess, error) {
	exe, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &StageError{Stage: StageUserNS, Detail: "open /proc/self/exe: " + err.Error(), Hint: "/proc must be mounted"}
	}
	defer unix.Close(exe)
	words, w, err := os.Pipe()
	if err != nil {
		return nil, stageErr(StageUserNS, "", err)
	}
	defer w.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		words.Close()
		return nil, stageErr(StageUserNS, "", err)
	}
	defer null.Close()
	name, attr := keeperAttr(ids)
	kp := &keeperProcess{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		pid, _, err := syscall.StartProcess(exePath(exe), stageArgs(name), &syscall.ProcAttr{
			Env: []string{}, Sys: attr,
			Files: []uintptr{null.Fd(), null.Fd(), w.Fd(), uintptr(theirs.fd), uintptr(exe)},
		})
		kp.pid = pid
		started <- err
		if err == nil {
			kp.wait()
		}
	}()
	if err := <-started; err != nil {
		words.Close()
		return nil, stageErr(refusedNamespace(), "", err)
	}
	go kp.listen(words)
	return kp, nil
}

// refusedNamespace tells which of the two namespaces that one clone makes the
// kernel did not give: the network's, if the other one can be had alone.
func refusedNamespace() (stage string) {
	if canClone(unix.CLONE_NEWUSER) && !canClone(unix.CLONE_NEWUSER|unix.CLONE_NEWNET) {
		return StageNetNS
	}
	return StageUserNS
}

// canClone tries a clone. The child has no program to become: where there is
// one, the answer is execve's.
func canClone(flags uintptr) bool {
	const nowhere = "/dev/null/outcall" // below a file
	_, _, err := syscall.StartProcess(nowhere, stageArgs(stageKeeper), &syscall.ProcAttr{
		Env: []string{}, Sys: &syscall.SysProcAttr{Cloneflags: flags}})
	return err == unix.ENOTDIR
}

func keeperAttr(ids idmap.Plan) (stage string, attr *syscall.SysProcAttr) {
	attr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		Setsid:     true, // no signal of the caller's terminal reaches it
		Pdeathsig:  deathSignal(stageKeeper),
	}
	if ids.UIDHelper != "" {
		return stageHold, attr
	}
	attr.UidMappings, attr.GidMappings = sysMap(ids.UIDs), sysMap(ids.GIDs)
	if ids.SetGroups {
		// Root's own groups would reach further than the ids that it gives
		// itself here.
		attr.GidMappingsEnableSetgroups = true
		attr.Credential = &syscall.Credential{Uid: 0, Gid: 0}
	}
	return stageKeeper, attr
}

func sysMap(rs []idmap.Range) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(rs))
	for i, r := range rs {
		out[i] = syscall.SysProcIDMap{ContainerID: r.Inside, HostID: r.Outside, Size: r.Size}
	}
	return out
}

// wait reaps the gatekeeper; it keeps its goroutine's thread for that long.
func (kp *keeperProcess) wait() {
	defer close(kp.done)
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(kp.pid, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		kp.err = err
		break
	}
	if kp.err == nil && ws.Signaled() {
		kp.err = fmt.Errorf("the gatekeeper was ended by signal %d (%s)", ws.Signal(), ws.Signal())
	}
}

func (kp *keeperProcess) listen(words *os.File) {
	defer words.Close()
	buf := make([]byte, 4096)
	for {
		n, err := words.Read(buf)
		kp.tailMu.Lock()
		if room := maxTail - kp.tail.Len(); room > 0 {
			kp.tail.Write(buf[:min(n, room)])
		}
		kp.tailMu.Unlock()
		if err != nil {
			return
		}
	}
}

// waitOrKill waits for the end, and makes one when it takes too long.
func (kp *keeperProcess) waitOrKill(grace time.Duration) error {
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-kp.done:
	case <-t.C:
		_ = syscall.Kill(kp.pid, syscall.SIGKILL)
		<-kp.done
		return errors.New("the gatekeeper did not end in time and was killed")
	}
	return kp.err
}

// mourn explains a gatekeeper that ended without a word on its socket.
func (kp *keeperProcess) mourn(err error) error {
	_ = kp.waitOrKill(time.Second)
	kp.tailMu.Lock()
	defer kp.tailMu.Unlock()
	e := stageErr("gatekeeper", "ended while it started", err)
	if errors.Is(err, io.EOF) {
		e.Detail = "ended while it started"
	}
	if kp.err != nil {
		e.Detail = join(e.Detail, kp.err.Error())
	}
	if t := strings.TrimSpace(kp.tail.String()); t != "" {
		e.Detail = join(e.Detail, t)
	}
	return e
}

// mapByHelpers gives the waiting stage its ids by newuidmap and newgidmap. A
// helper that refuses (it often lacks its set-uid bit in containers) leaves
// the caller's single id.
func (kp *keeperProcess) mapByHelpers(ctx context.Context, ids idmap.Plan) error {
	err := runHelper(ctx, ids.GIDHelper, kp.pid, ids.GIDs)
	if err == nil {
		if err = runHelper(ctx, ids.UIDHelper, kp.pid, ids.UIDs); err == nil {
			return nil
		}
		// The gid map cannot be written twice.
		return &StageError{Stage: StageHelper, Detail: err.Error(), Hint: hint(&StageError{Stage: StageHelper})}
	}
	one := ids.Single()
	return stageErrOrNil(StageHelper, "single id", writeMaps(kp.pid, one.UIDs, one.GIDs, false))
}

// maxHelper bounds the time of one helper.
const maxHelper = 10 * time.Second

func runHelper(ctx context.Context, path string, pid int, rs []idmap.Range) error {
	ctx, cancel := context.WithTimeout(ctx, maxHelper)
	defer cancel()
	args := append([]string{itoa(pid)}, strings.Fields(idmap.Format(rs))...)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	return nil
}
