package hostapi

import (
	"net"
	"sync"
)

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

// Accept waits for a free slot, then for a client.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptUnix()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &conn{UnixConn: c, peer: CheckPeer(c), release: func() { <-l.slots }}, nil
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
