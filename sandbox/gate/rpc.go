package gate

import (
	"context"
	"syscall"
)

func (c *Client) ask(ctx context.Context, m *message) (reply, error) {
	return c.askDoc(ctx, m, nil, nil)
}

// askDoc sends one request and waits for its reply. When ctx ends first, what
// still arrives is closed (read does it: nobody waits for it any more).
func (c *Client) askDoc(ctx context.Context, m *message, doc *commandDoc, fds []int) (reply, error) {
	if err := ctx.Err(); err != nil {
		return reply{}, err
	}
	ch := make(chan reply, 1)
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return reply{}, errGone
	}
	c.next++
	m.ID = c.next
	c.waiting[m.ID] = ch
	c.mu.Unlock()
	var err error
	if doc != nil {
		err = c.c.sendDoc(m, *doc, fds...)
	} else {
		err = c.c.send(m, fds...)
	}
	if err != nil {
		c.forget(m.ID)
		return reply{}, err
	}
	select {
	case r := <-ch:
		return take(r)
	case <-c.goneCh:
		select {
		case r := <-ch: // it came just before the end
			return take(r)
		default:
			return reply{}, errGone
		}
	case <-ctx.Done():
		if !c.forget(m.ID) {
			r := <-ch
			closeAll(r.fds)
		}
		return reply{}, ctx.Err()
	}
}

func take(r reply) (reply, error) {
	if r.m.Err != nil {
		closeAll(r.fds)
		return reply{}, r.m.Err
	}
	return r, nil
}

// forget stops waiting for a reply; false means that it is on its way in the
// channel.
func (c *Client) forget(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.waiting[id]
	delete(c.waiting, id)
	return ok
}

// read hands out what the gatekeeper sends until it is gone.
func (c *Client) read() {
	for {
		m, fds, err := c.c.recv()
		if err != nil {
			c.end()
			return
		}
		switch m.Op {
		case opReply:
			c.deliver(m, fds)
			continue
		case opStarted:
			c.stood(m, fds)
			continue
		case opExit:
			c.exited(m)
		case opStop:
			c.stopped(m)
		}
		closeAll(fds)
	}
}

func (c *Client) deliver(m *message, fds []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var p *Proc
	if m.Proc != 0 && m.Err == nil {
		p = &Proc{ID: m.Proc, done: make(chan struct{}), stops: make(chan syscall.Signal, 1)}
		c.procs[m.Proc] = p
	}
	ch, ok := c.waiting[m.ID]
	delete(c.waiting, m.ID)
	if !ok {
		closeAll(fds)
		if p != nil {
			// Nobody waits for this process any more: it must not run on.
			go func() { _ = c.c.send(&message{Op: opSignal, Proc: m.Proc, Signal: int(syscall.SIGKILL)}) }()
		}
		return
	}
	ch <- reply{m, fds, p}
}

func (c *Client) exited(m *message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.procs[m.Proc]; p != nil {
		p.status = syscall.WaitStatus(m.WaitStatus)
		close(p.done)
		delete(c.procs, m.Proc)
	}
}

func (c *Client) stopped(m *message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.procs[m.Proc]
	if p == nil {
		return
	}
	select {
	case <-p.stops:
	default:
	}
	p.stops <- syscall.Signal(m.Signal)
}

// end marks everything as over. A process whose end was not told counts as
// killed: that is what the end of its pid namespace did to it.
func (c *Client) end() {
	c.mu.Lock()
	c.ended = true
	for id, p := range c.procs {
		p.status = syscall.WaitStatus(syscall.SIGKILL)
		close(p.done)
		delete(c.procs, id)
	}
	c.mu.Unlock()
	close(c.goneCh)
}
