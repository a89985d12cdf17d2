package gate

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"outcall/sandbox/idmap"
)

// maxProcs bounds the processes of one session that outcall itself started.
const maxProcs = 1024

// A commandDoc is what a stage that becomes a command is told.
type commandDoc struct {
	Argv, Env []string
	Dir       string
	Lead      bool // stay above the command as the leader of its terminal's session
	TakeTTY   bool // the terminal is not the stage's own yet
	Root      bool // keep the capabilities of U2
	UID       int  // the caller's, by U1's map
	AsRoot    bool // for tools: the agent has kernel uid 0
	BridgeUp  bool // for the gateway stage: make the bridge again, and run no tool
	Network   Network
	FailStage string
}

// spawn starts one process and waits until it runs the command, or has told
// which of its stages failed. The first descriptor is the document.
func (k *keeper) spawn(m *message, fds []int) (p *child, master int, err error) {
	var doc commandDoc
	if len(fds) == 0 {
		return nil, -1, &StageError{Stage: "protocol", Detail: "a process without a document"}
	}
	docFD := fds[0]
	fds[0] = -1
	if err := readDoc(docFD, &doc); err != nil {
		return nil, -1, err
	}
	stdio, err := pick(m.Has, fds[1:])
	if err != nil {
		return nil, -1, err
	}
	k.mu.Lock()
	full := len(k.procs) >= maxProcs
	k.mu.Unlock()
	if full {
		return nil, -1, &StageError{Stage: StageExec, Detail: fmt.Sprintf("%d processes are running already", maxProcs), Errno: unix.EAGAIN}
	}
	doc.Root, doc.AsRoot, doc.FailStage, doc.Network = k.o.IDs.Root, k.o.IDs.AsRoot, k.o.FailStage, k.o.Network
	doc.Lead = m.TTY && m.Where == Agent
	master = -1
	if m.Where == Agent {
		p, master, err = k.startAgent(m, stdio, doc)
	} else {
		p, err = k.startGateway(m, stdio)
	}
	if err != nil {
		return nil, -1, err
	}
	p.where = m.Where
	if err := k.briefInTime(p, doc, briefTime); err != nil {
		p.discard()
		closeAll([]int{master})
		return nil, -1, err
	}
	k.adopt(p)
	return p, master, nil
}

func pick(has [3]bool, fds []int) (stdio [3]int, err error) {
	for i := range stdio {
		stdio[i] = -1
		if has[i] {
			if len(fds) == 0 {
				return stdio, &StageError{Stage: "protocol", Detail: "a descriptor is missing"}
			}
			stdio[i], fds = fds[0], fds[1:]
		}
	}
	return stdio, nil
}

// startAgent makes U2, a child of U1 made after all mounts, with a mount
// namespace of its own, so that the kernel locks all of the view.
func (k *keeper) startAgent(m *message, stdio [3]int, doc commandDoc) (p *child, master int, err error) {
	if err := inject(k.o.FailStage, StageCommand); err != nil {
		return nil, -1, err
	}
	attr := agentAttr()
	name := stageCommand
	master = -1
	if m.TTY {
		slave := -1
		err := k.agent.do(func() (err error) { master, slave, err = openPTY(m.Rows, m.Cols); return err })
		if err != nil {
			return nil, -1, stageErr(StageTerminal, "", err)
		}
		defer unix.Close(slave)
		attr.Setctty, attr.Ctty, name = true, slices.Index(stdio[:], -1), stageSession
		if attr.Ctty < 0 {
			closeAll([]int{master})
			return nil, -1, &StageError{Stage: StageTerminal, Detail: "no descriptor is left for it"}
		}
		for i := range stdio {
			if stdio[i] < 0 {
				stdio[i] = slave
			}
		}
	}
	if s := k.takeSpare(); s != nil {
		p, err = s.brief(stdio, doc)
	} else {
		p, err = k.makeU2(name, stdio, attr)
	}
	if err != nil {
		closeAll([]int{master})
		return nil, -1, err
	}
	p.led = m.TTY
	return p, master, nil
}

// makeU2 starts a stage in the agent's namespaces and maps its ids.
func (k *keeper) makeU2(name string, stdio [3]int, attr *syscall.SysProcAttr) (p *child, err error) {
	err = k.startInTime(cloneTime, func() error {
		return k.agent.do(func() error {
			p, err = startStage(name, k.inner, stdio, attr)
			return stageErrOrNil(StageCommand, "start", err)
		})
	})
	if err == nil {
		// Not on the agent's thread: its /proc counts other pids.
		err = stageErrOrNil(StageCommand, "map its ids", k.mapU2(p.pid))
	}
	if err != nil && p != nil {
		p.kill()
		<-p.done
		p.conn.close()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

func stageErrOrNil(stage, detail string, err error) error {
	if err == nil {
		return nil
	}
	return stageErr(stage, detail, err)
}

// mapU2 maps the visible id to U1's 0, or hands all of U1's ids on.
func (k *keeper) mapU2(pid int) error {
	if !k.o.IDs.Root {
		return writeMaps(pid, []idmap.Range{{Inside: k.o.IDs.UID, Outside: 0, Size: 1}}, []idmap.Range{{Inside: k.o.IDs.GID, Outside: 0, Size: 1}}, false)
	}
	uids, err := ownMap("uid_map")
	if err != nil {
		return err
	}
	gids, err := ownMap("gid_map")
	if err != nil {
		return err
	}
	many := len(gids) > 1 || gids[0].Size > 1
	return writeMaps(pid, idmap.Identity(uids), idmap.Identity(gids), many)
}

// startGateway makes a pid namespace, too: what the tool leaves behind ends
// with the stage.
func (k *keeper) startGateway(m *message, stdio [3]int) (*child, error) {
	if m.TTY {
		return nil, &StageError{Stage: StageTerminal, Detail: "only commands of the agent get a terminal"}
	}
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Setsid: true}
	p, err := startStage(stageGateway, k.exe, stdio, attr)
	if err != nil {
		return nil, stageErr(StageCommand, "start", err)
	}
	p.led = true
	return p, nil
}

// brief gives a stage its document and waits for its word. A stage that
// becomes the command says ready, and then its socket closes with execve.
func (k *keeper) brief(p *child, doc commandDoc) error {
	if !p.briefed {
		if err := p.conn.sendDoc(&message{Op: opConfig}, doc); err != nil {
			return stageErr(StageCommand, "brief", err)
		}
	}
	ready := false
	for {
		m, fds, err := p.conn.recv()
		closeAll(fds)
		switch {
		case errors.Is(err, io.EOF) && ready && !p.led:
			return nil
		case err != nil:
			return stageErr(StageCommand, "ended before it was the command", err)
		case m.Err != nil:
			return m.Err
		case m.Op == opReady:
			ready = true
			if p.led {
				return nil
			}
		}
	}
}

// adopt enters a running process and sees to it that its end is told, after
// the reply that tells of its start.
func (k *keeper) adopt(p *child) {
	k.mu.Lock()
	k.next++
	p.id = k.next
	k.procs[p.id] = p
	k.mu.Unlock()
	go func() {
		<-p.released
		ws, told := k.follow(p)
		<-p.done
		if !told {
			ws = p.status
		}
		k.mu.Lock()
		delete(k.procs, p.id)
		k.mu.Unlock()
		_ = k.c.send(&message{Op: opExit, Proc: p.id, WaitStatus: uint32(ws)})
	}()
}

// follow passes on what a leading stage tells of its command, until it ends.
func (k *keeper) follow(p *child) (ws syscall.WaitStatus, told bool) {
	defer p.conn.close()
	if !p.led {
		return 0, false
	}
	for {
		m, fds, err := p.conn.recv()
		closeAll(fds)
		if err != nil {
			return ws, told
		}
		switch m.Op {
		case opStop:
			_ = k.c.send(&message{Op: opStop, Proc: p.id, Signal: m.Signal})
		case opExit:
			ws, told = syscall.WaitStatus(m.WaitStatus), true
		}
	}
}

func (k *keeper) signal(id uint64, sig syscall.Signal) error {
	k.mu.Lock()
	p := k.procs[id]
	k.mu.Unlock()
	if p == nil {
		return unix.ESRCH
	}
	return p.signal(sig)
}
