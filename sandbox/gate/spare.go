package gate

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// A spare is the stage of the first command, started before there is one, or
// why it could not be.
type spare struct {
	p   *child
	err error
}

// makeSpare makes the first command's namespaces and starts this program there:
// that takes as long as what the supervisor still has to do until it knows that
// the command may run. It is the same stage as any other, made after all
// mounts, and becomes the command only when it is briefed. A failure is told by
// the command's own start.
func (k *keeper) makeSpare() {
	if k.o.FailStage == StageCommand {
		return
	}
	p, err := k.makeU2(stageCommand, [3]int{-1, -1, -1}, agentAttr())
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spare = &spare{p, err}
}

// takeSpare returns the stage that waits; nil says that there is none any more.
func (k *keeper) takeSpare() *spare {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.spare
	k.spare = nil
	return s
}

// brief tells the stage what it becomes. Its descriptors come with the
// document, and it takes the terminal by itself. Nothing of this agent's runs
// yet that could have used up what they travel by.
func (s *spare) brief(stdio [3]int, doc commandDoc) (*child, error) {
	if s.err != nil {
		return nil, s.err
	}
	m := &message{Op: opConfig}
	var fds []int
	for i, fd := range stdio {
		if fd >= 0 {
			m.Has[i], fds = true, append(fds, fd)
		}
	}
	doc.TakeTTY = doc.Lead
	if err := s.p.conn.sendDoc(m, doc, fds...); err != nil {
		s.p.discard()
		return nil, stageErr(StageCommand, "brief", err)
	}
	s.p.briefed = true
	return s.p, nil
}

// discard ends a stage that is not to become anything.
func (c *child) discard() {
	c.kill()
	c.conn.shutdown()
	<-c.done
	c.conn.close()
}

// agentAttr is how a process of the agent is cloned.
func agentAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Setsid: true}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		// They are over U2 only. The stage needs CAP_SETPCAP to empty its own
		// bounding set; with root inside the command keeps them.
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil && has == 1 {
			attr.AmbientCaps = append(attr.AmbientCaps, c)
		}
	}
	return attr
}
