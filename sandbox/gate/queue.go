package gate

import (
	"fmt"
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
		return &StageError{Stage: StageCommand, Detail: fmt.Sprintf("it did not start within %v; another process inside may have stopped it", limit), Errno: unix.ETIMEDOUT}
	}
	return err
}
