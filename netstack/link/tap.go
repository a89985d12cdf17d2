package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

type tapLink struct {
	ep   Endpoint
	sw   *tap.Switch
	file *os.File
	peer net.HardwareAddr
}

// Tap returns the link over f, a tap device (IFF_TAP|IFF_NO_PI) opened
// non-blocking, one frame a read and a write. It stands where packet sockets
// are refused. Closing f is the caller's, after Run has returned.
func Tap(f *os.File, o Options) (Link, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("link: tap: %w", errNoFile)
	}
	if o.MTU == 0 {
		o.MTU = TapMTU
	}
	mac := net.HardwareAddr(MAC[:]).String()
	child, err := tap.NewLinkEndpoint(false, o.MTU, mac, "", nil)
	if err != nil {
		return nil, fmt.Errorf("link: tap endpoint: %w", err)
	}
	l := &tapLink{sw: tap.NewSwitch(false), file: f, peer: o.Peer}
	// The switch delivers frames to the endpoint, and the endpoint's frames to
	// the switch, which sends them to the one connection where it saw the peer.
	child.Connect(l.sw)
	l.sw.Connect(child)
	l.ep = newFixedPeer(child, o.Peer)
	return l, nil
}

func (l *tapLink) Endpoint() Endpoint { return l.ep }

// Run moves frames until ctx ends or the device fails.
func (l *tapLink) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &tapConn{file: l.file, peer: l.peer, cancel: cancel}
	c.hello = c.helloFrame()
	stop := context.AfterFunc(ctx, func() { _ = l.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// Bess framing is one frame a read, without a length before it.
	if err := l.sw.Accept(ctx, c, types.BessProtocol); err != nil {
		return fmt.Errorf("link: tap: %w", err)
	}
	return c.failure()
}

// tapConn is what the switch reads and writes. The switch writes each failure
// to a logger of its own on standard error, which belongs to the command that
// is run here: so no error reaches it; the first one is kept and ends Run.
type tapConn struct {
	file   *os.File
	peer   net.HardwareAddr
	cancel context.CancelFunc
	hello  []byte // given first, and whenever the switch shall look at its context

	mu     sync.Mutex
	primed bool
	err    error
}

// helloFrame is an empty frame of an experimental type (IEEE 802, 0x88b5) from
// the peer: the switch learns from it where the peer is, before the first real
// frame, and the endpoint drops it.
func (c *tapConn) helloFrame() []byte {
	b := make([]byte, header.EthernetMinimumSize)
	copy(b, MAC[:])
	copy(b[6:], c.peer)
	b[12], b[13] = 0x88, 0xb5
	return b
}

func (c *tapConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	primed := c.primed
	c.primed = true
	c.mu.Unlock()
	if !primed {
		return copy(b, c.hello), nil
	}
	for {
		n, err := c.file.Read(b)
		if err != nil {
			c.fail("read", err)
			return copy(b, c.hello), nil
		}
		// Only the peer's frames: the switch learns from what it is shown, and
		// reads the header without looking at the length.
		if n >= header.EthernetMinimumSize && bytes.Equal(b[6:12], c.peer) {
			return n, nil
		}
	}
}

func (c *tapConn) Write(b []byte) (int, error) {
	// A device that is down refuses a frame: that frame is lost, as on a wire.
	if _, err := c.file.Write(b); errors.Is(err, os.ErrClosed) {
		c.fail("write", err)
	}
	return len(b), nil
}

// fail keeps the first error and ends the link; a read that the end of ctx
// interrupted is none.
func (c *tapConn) fail(op string, err error) {
	c.mu.Lock()
	if c.err == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.err = fmt.Errorf("link: tap: %s: %w", op, err)
	}
	c.mu.Unlock()
	c.cancel()
}

func (c *tapConn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close is the switch's end of the connection; the file is the caller's.
func (c *tapConn) Close() error { return nil }

type tapAddr struct{}

func (tapAddr) Network() string { return "tap" }
func (tapAddr) String() string  { return "tap" }

func (c *tapConn) LocalAddr() net.Addr              { return tapAddr{} }
func (c *tapConn) RemoteAddr() net.Addr             { return tapAddr{} }
func (c *tapConn) SetDeadline(time.Time) error      { return nil }
func (c *tapConn) SetReadDeadline(time.Time) error  { return nil }
func (c *tapConn) SetWriteDeadline(time.Time) error { return nil }
