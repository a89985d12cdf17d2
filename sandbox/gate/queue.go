package gate

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Starting a process waits for stages that the agent may stop: a signal asks
// only for the uid, and theirs is the agent's. So nothing else waits behind a
// start, and a start ends.
const (
	// maxStarts are the starts that wait in each place; the next is EAGAIN.
	maxStarts = 64
	// cloneTime is how long a process may take from clone to execve.
	cloneTime = 5 * time.Second
	// briefTime is how long a stage may take to become the command.
	briefTime = 15 * time.Second
)

// A start is a request to start a process.
type start struct {
	m   *message
	fds []int
}

// starters handle starts in order, each place by itself, so that the gateway
// does not wait for the agent. They end when the returned channels are closed.
func (k *keeper) starters() map[Where]chan start {
	queues := map[Where]chan start{}
	for _, w := range []Where{Agent, Gateway} {
		q := make(chan start, maxStarts)
		queues[w] = q
		go func() {
			for s := range q {
				k.handle(s.m, s.fds)
			}
		}()
	}
	return queues
}

// enqueue hands a start to its place's starter.
func (k *keeper) enqueue(queues map[Where]chan start, m *message, fds []int) {
	q := queues[Gateway]
	if m.Where == Agent {
		q = queues[Agent]
	}
	select {
	case q <- start{m, fds}:
	default:
		closeAll(fds)
		_ = k.c.send(&message{Op: opReply, ID: m.ID, Err: &StageError{
			Stage: StageExec, Detail: fmt.Sprintf("%d processes wait to be started already", maxStarts), Errno: unix.EAGAIN}})
	}
}

// startInTime is start with an end: it starts one process of the agent, and
// whoever calls clone waits for the execve. Until then nobody else knows the
// process, so it is looked for: a child of ours that is stopped and not among
// those that run. What is only slow, on a busy machine, is left alone.
func (k *keeper) startInTime(limit time.Duration, start func() error) error {
	var late atomic.Bool
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		t := time.NewTimer(limit)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				if k.killStopped() {
					late.Store(true)
				}
				t.Reset(killAgain) // what is only slow may be stopped yet
			}
		}
	}()
	err := start()
	close(done)
	<-over
	if late.Load() {
		return tooLate(limit)
	}
	return err
}

const killAgain = 100 * time.Millisecond

func (k *keeper) killStopped() (killed bool) {
	mine := k.known()
	for _, p := range processes() {
		if p.parent != os.Getpid() || !p.stopped() || mine[p.pid] {
			continue
		}
		fd, err := unix.PidfdOpen(p.pid, 0)
		if err != nil {
			continue
		}
		// The descriptor is of whoever has the pid now.
		if now, ok := readProcess(p.pid); ok && now.parent == p.parent && now.stopped() {
			killed = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil || killed
		}
		unix.Close(fd)
	}
	return killed
}

// known are the pids of init, of the stage that waits and of the processes
// that run.
func (k *keeper) known() map[int]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	pids := map[int]bool{}
	if k.init != nil {
		pids[k.init.pid] = true
	}
	if k.spare != nil && k.spare.p != nil {
		pids[k.spare.p.pid] = true
	}
	for _, p := range k.procs {
		pids[p.pid] = true
	}
	return pids
}

func tooLate(limit time.Duration) error {
	return &StageError{Stage: StageCommand, Detail: fmt.Sprintf("it did not start within %v; another process inside may have stopped it", limit), Errno: unix.ETIMEDOUT}
}

// briefInTime is brief with an end: a stage that says nothing is killed,
// stopped or not.
func (k *keeper) briefInTime(p *child, doc commandDoc, limit time.Duration) error {
	var late atomic.Bool
	t := time.AfterFunc(limit, func() {
		late.Store(true)
		p.kill()
		p.conn.shutdown()
	})
	defer t.Stop()
	err := k.brief(p, doc)
	if late.Load() {
		return tooLate(limit)
	}
	return err
}
