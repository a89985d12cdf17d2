package hostapi

import (
	"errors"
	"net"
	"sync"
	"time"
)

// acceptPause is the wait after a client could not be taken.
const acceptPause = 50 * time.Millisecond

// A listener accepts at most MaxConns connections at a time and looks at each
// peer as it comes.
type listener struct {
	*net.UnixListener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func newListener(l *net.UnixListener) *listener {
	return &listener{UnixListener: l, slots: make(chan struct{}, MaxConns), done: make(chan struct{})}
}

// Accept waits for a free slot, then for a client. Only Close ends it: a client
// that could not be taken (the agent can use up what the kernel counts by uid,
// such as epoll watches) must not end the operator's way in for good.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.AcceptUnix()
		if err == nil {
			return &conn{UnixConn: c, peer: CheckPeer(c), release: func() { <-l.slots }}, nil
		}
		closed := errors.Is(err, net.ErrClosed)
		if !closed {
			select {
			case <-time.After(acceptPause):
			case <-l.done:
				closed = true
			}
		}
		if closed {
			<-l.slots
			return nil, net.ErrClosed
		}
	}
}

// Close stops accepting and removes the socket.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.UnixListener.Close()
}

// A conn is one client; peer is nil if it may be served.
type conn struct {
	*net.UnixConn
	peer    error
	once    sync.Once
	release func()
}

// Close gives the slot back.
func (c *conn) Close() error {
	c.once.Do(c.release)
	return c.UnixConn.Close()
}
