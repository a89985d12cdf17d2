package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"outcall/netstack/egress"
)

const (
	// Max is how many published connections a session has at a time; more wait
	// to be accepted.
	Max = 128
	// dialTime bounds a connect inside, where the only thing that answers late
	// is a listener whose queue is full.
	dialTime = 10 * time.Second
	// closeTime is how long a connection's last bytes may take to be read
	// inside, before its socket is taken back.
	closeTime = 10 * time.Second
)

// An Inside opens connections to the agent's own ports. It is safe for
// concurrent use, by at most Max connections at a time.
type Inside struct {
	agent4, agent6 netip.Addr
	free4, free6   chan *os.File // free6 is nil where there is no IPv6
	files          []*os.File
}

// NewInside opens the sockets, by open in the agent's network namespace:
// non-blocking and close-on-exec. agent6 may be invalid.
func NewInside(open func(family int) (*os.File, error), n int, agent4, agent6 netip.Addr) (*Inside, error) {
	in := &Inside{agent4: agent4, agent6: agent6, free4: make(chan *os.File, n)}
	if err := in.fill(in.free4, open, unix.AF_INET); err != nil {
		in.Close()
		return nil, err
	}
	free6 := make(chan *os.File, n)
	switch err := in.fill(free6, open, unix.AF_INET6); {
	case err == nil:
		in.free6 = free6
	case !errors.Is(err, unix.EAFNOSUPPORT): // a kernel without IPv6
		in.Close()
		return nil, err
	}
	return in, nil
}

func (in *Inside) fill(free chan *os.File, open func(int) (*os.File, error), family int) error {
	for range cap(free) {
		f, err := open(family)
		if err != nil {
			return err
		}
		in.files = append(in.files, f)
		free <- f
	}
	return nil
}

// Close closes the sockets. No connection may be left.
func (in *Inside) Close() {
	for _, f := range in.files {
		_ = f.Close()
	}
}

// A Conn is one connection to a port inside.
type Conn struct {
	*egress.Conn
	socket *os.File
	free   chan *os.File
}

// Dial connects to a port inside: on 127.0.0.1, ::1, then at the agent's own
// addresses. The error is the first one's, which is the one a developer would
// expect of localhost. Release must be called after a nil error.
func (in *Inside) Dial(ctx context.Context, port uint16) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var first error
	for _, a := range []netip.Addr{loopback, netip.IPv6Loopback(), in.agent4, in.agent6} {
		free := in.free4
		if a.Is6() {
			free = in.free6
		}
		if !a.IsValid() || free == nil {
			continue
		}
		c, err := dial(ctx, free, netip.AddrPortFrom(a, port))
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func dial(ctx context.Context, free chan *os.File, to netip.AddrPort) (*Conn, error) {
	var f *os.File
	select {
	case f = <-free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c, err := connect(ctx, f, to)
	if err != nil {
		_ = disconnect(f) // of no use to the next one otherwise, who will see
		free <- f
		return nil, fmt.Errorf("connect to %s inside: %w", to, err)
	}
	return &Conn{Conn: egress.Wrap(c), socket: f, free: free}, nil
}

// connect begins a connect and waits for its end on a duplicate, which the
// connection is from then on.
func connect(ctx context.Context, f *os.File, to netip.AddrPort) (*net.TCPConn, error) {
	if err := onSocket(f, func(fd int) error { return unix.Connect(fd, sockaddr(to)) }); err != nil && err != unix.EINPROGRESS {
		return nil, err
	}
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	c, ok := nc.(*net.TCPConn)
	if !ok {
		_ = nc.Close()
		return nil, fmt.Errorf("not a TCP socket: %T", nc)
	}
	if err := connected(ctx, c, to); err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = c.SetKeepAlive(false) // both ends are this machine: none dies in silence
	return c, nil
}

func connected(ctx context.Context, c *net.TCPConn, to netip.AddrPort) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var answer error
	err = raw.Write(func(fd uintptr) bool {
		answer = state(int(fd), to)
		return answer != unix.EINPROGRESS
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case answer == nil && !stop(): // the deadline is set, or about to be
		return ctx.Err()
	}
	return answer
}

// state tells how a connect stands. Where nobody listens, a connect on
// loopback can meet itself (RFC 9293, simultaneous open): nobody is there.
func state(fd int, to netip.AddrPort) error {
	if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
		return err
	} else if errno != 0 {
		return syscall.Errno(errno)
	}
	peer, err := unix.Getpeername(fd)
	if err == unix.ENOTCONN {
		return unix.EINPROGRESS
	}
	if err != nil {
		return err
	}
	if own, err := unix.Getsockname(fd); err != nil || port(own) == port(peer) && port(own) == to.Port() {
		return unix.ECONNREFUSED
	}
	return nil
}

// Release gives the connection's socket back when all that was written has
// arrived inside, or after closeTime or at ctx's end by a reset. Nothing may
// use the connection any more.
func (c *Conn) Release(ctx context.Context) {
	_ = c.Close() // it is closed already where the relay ended by an error
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	for pause := time.Millisecond; ending(c.socket) && ctx.Err() == nil; pause = min(2*pause, 200*time.Millisecond) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	_ = disconnect(c.socket) // of no use to the next one otherwise, who will see
	c.free <- c.socket
}

// ending tells whether both ends are done and the kernel still has octets or
// an end to deliver: a disconnect would lose them.
func ending(f *os.File) (yes bool) {
	err := onSocket(f, func(fd int) error {
		i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		yes = err == nil && (i.State == tcpLastACK || i.State == tcpClosing)
		return err
	})
	return err == nil && yes
}

// States of a TCP socket of which both ends are done (tcp_states.h).
const (
	tcpLastACK = 9
	tcpClosing = 11
)

// disconnect takes a TCP socket back to its beginning, with a reset to its
// peer where it still has one. The error that the kernel leaves behind would
// be taken for the next connect's.
func disconnect(f *os.File) error {
	return onSocket(f, func(fd int) error {
		to := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
		if errno != 0 {
			return errno
		}
		_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		return err
	})
}

func onSocket(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var answer error
	if err := raw.Control(func(fd uintptr) { answer = do(int(fd)) }); err != nil {
		return err
	}
	return answer
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func port(sa unix.Sockaddr) uint16 {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port)
	case *unix.SockaddrInet6:
		return uint16(sa.Port)
	}
	return 0
}
