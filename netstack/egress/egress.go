package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/sys/unix"
)

// A Config is what a Dialer is made of.
type Config struct {
	// Proxy is the upstream proxy, http:// or socks5:// with optional user
	// information; nil dials directly.
	Proxy *url.URL
	// NoProxy lists what is dialled directly nevertheless, in the form of the
	// NO_PROXY variable.
	NoProxy string
	// Session are the session's own networks, never dialled.
	Session []netip.Prefix
	// Services maps service addresses to the host's addresses that they stand
	// for, in the order in which they are tried; it is looked at before Session.
	Services map[netip.Addr][]netip.Addr
}

// A Dialer opens the supervisor's outward connections. It is safe for
// concurrent use.
type Dialer struct {
	cfg    Config
	direct func(*url.URL) (*url.URL, error)
	byName atomic.Bool // the proxy has refused an address and taken its name
	net    net.Dialer
}

// New checks cfg and returns a Dialer.
func New(cfg Config) (*Dialer, error) {
	d := &Dialer{cfg: cfg, net: net.Dialer{KeepAliveConfig: KeepAlive, Control: inline}}
	if cfg.Proxy == nil {
		return d, nil
	}
	switch cfg.Proxy.Scheme {
	case "http", "socks5", "socks5h":
	default:
		return nil, fmt.Errorf("upstream proxy: scheme %q: only http:// and socks5:// are known", cfg.Proxy.Scheme)
	}
	if cfg.Proxy.Hostname() == "" {
		return nil, fmt.Errorf("upstream proxy %q: no host", cfg.Proxy.Redacted())
	}
	hp := httpproxy.Config{HTTPSProxy: "http://proxy.invalid", NoProxy: cfg.NoProxy}
	d.direct = hp.ProxyFunc()
	return d, nil
}

// inline keeps urgent data of the outside at its place in the stream: the kernel
// would take it out, and a byte would be missing inside.
func inline(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("SO_OOBINLINE", err)
}

// A Conn is one connection to the outside.
type Conn struct {
	*net.TCPConn
	// Via is Direct, Proxied or ByProxy.
	Via string

	raw   syscall.RawConn
	peek  [1]byte
	early []byte // what the proxy sent behind its answer

	writing sync.Mutex
	reset   error // that a Write was told of
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.TCPConn.Read(b)
}

// Wrap returns the connection over a connected socket.
func Wrap(c *net.TCPConn) *Conn {
	raw, _ := c.SyscallConn() // only a nil connection has none
	return &Conn{TCPConn: c, raw: raw}
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.TCPConn.Write(b)
	if errno := syscall.Errno(0); errors.As(err, &errno) && errno != syscall.EPIPE { // EPIPE: a FIN came first
		c.reset = err
	}
	return n, err
}

// Wait waits until Read gives something at once, and returns how many octets.
// An error is what Read would have returned, and is reported once.
func (c *Conn) Wait() (n int, err error) {
	if len(c.early) > 0 {
		return len(c.early), nil
	}
	rerr := c.raw.Read(func(fd uintptr) bool {
		if n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ); err != nil || n > 0 {
			return true
		}
		// Nothing, an end or an error, which this takes from the socket.
		n, _, err = unix.Recvfrom(int(fd), c.peek[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN
	})
	switch {
	case rerr != nil: // closed, or the deadline is over
		return 0, rerr
	case err != nil:
		return 0, fmt.Errorf("read from %s: %w", c.RemoteAddr(), err)
	case n == 0:
		return 0, c.ended()
	}
	return n, nil
}

// tcpClose is TCP_CLOSE of the kernel's states: both directions are over.
const tcpClose = 7

// ended is io.EOF, or the reset that ended the connection. The socket tells of
// one only once, a Write as well as a read, and then reads as if all had come.
func (c *Conn) ended() error {
	over := false
	err := c.raw.Control(func(fd uintptr) {
		i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		over = err == nil && i.State == tcpClose
	})
	switch {
	case err != nil:
		return err // closed, and not by the peer's end
	case !over:
		return io.EOF
	}
	c.writing.Lock() // a Write to such a connection does not wait
	defer c.writing.Unlock()
	if c.reset != nil {
		return fmt.Errorf("read from %s: %w", c.RemoteAddr(), c.reset)
	}
	return io.EOF
}

// Ready returns how many octets Read gives at once.
func (c *Conn) Ready() (n int) {
	if len(c.early) > 0 {
		return len(c.early)
	}
	err := c.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }) // 0 where it fails
	if err != nil {
		return 0 // closed
	}
	return n
}

// Take reads octets that Wait has announced. A deadline does not stop it, so
// that they are not lost half-way.
func (c *Conn) Take(b []byte) (n int, err error) {
	if len(c.early) > 0 {
		return c.Read(b)
	}
	cerr := c.raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), b) })
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return 0, fmt.Errorf("read from %s: %w", c.RemoteAddr(), err)
	}
	return n, nil
}

// Abort closes the connection with a reset.
func (c *Conn) Abort() {
	_ = c.SetLinger(0) // a failure means that it is closed already
	_ = c.Close()
}

// synthetic are addresses that stand for a name that only the proxy can
// resolve (RFC 1112 class E); they never leave.
var synthetic = netip.MustParsePrefix("240.0.0.0/4")

var errForbidden = errors.New("the address is never dialled")

// Dial connects to dst, the judged address; name is the flow's bound name, ""
// where it has none. It waits for the answer or ctx. The error is an *Error.
func (d *Dialer) Dial(ctx context.Context, name string, dst netip.AddrPort) (*Conn, error) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if hosts := d.Service(dst); hosts != nil {
		return d.service(ctx, dst, hosts)
	}
	if !d.mayDial(dst) {
		return nil, &Error{Kind: Forbidden, Addr: dst, Err: errForbidden}
	}
	if d.useProxy(name, dst) {
		return d.viaProxy(ctx, name, dst)
	}
	if synthetic.Contains(dst.Addr()) {
		return nil, &Error{Kind: Forbidden, Addr: dst, Err: errForbidden}
	}
	return d.connect(ctx, dst, dst)
}

// Service tells what a service address stands for, of whatever protocol: the
// host's own addresses, in the order in which they are tried. It is nil for
// every other address, and for port 0.
func (d *Dialer) Service(dst netip.AddrPort) (hosts []netip.AddrPort) {
	if dst.Port() == 0 {
		return nil
	}
	for _, a := range d.cfg.Services[dst.Addr().Unmap()] {
		hosts = append(hosts, netip.AddrPortFrom(a, dst.Port()))
	}
	return hosts
}

// service connects to the first of a service's addresses that answers. That
// the others do not exist is no news: the first one's answer is the client's.
func (d *Dialer) service(ctx context.Context, dst netip.AddrPort, hosts []netip.AddrPort) (*Conn, error) {
	var first error
	for _, host := range hosts {
		c, err := d.connect(ctx, dst, host)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// mayDial is the last line behind the policy's address classes: connect(2) to
// the unspecified address reaches the host itself.
func (d *Dialer) mayDial(dst netip.AddrPort) bool {
	a := dst.Addr()
	if !dst.IsValid() || dst.Port() == 0 || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
		return false
	}
	for _, p := range d.cfg.Session {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// useProxy asks NO_PROXY for the name and for the address.
func (d *Dialer) useProxy(name string, dst netip.AddrPort) bool {
	if d.cfg.Proxy == nil {
		return false
	}
	hosts := []string{dst.String()}
	if name != "" {
		hosts = append(hosts, net.JoinHostPort(name, fmt.Sprint(dst.Port())))
	}
	for _, h := range hosts {
		p, err := d.direct(&url.URL{Scheme: "https", Host: h})
		if err != nil || p == nil {
			return false
		}
	}
	return true
}

// connect dials one address; asked is what an error names.
func (d *Dialer) connect(ctx context.Context, asked, dst netip.AddrPort) (*Conn, error) {
	c, err := d.net.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, classify(asked, err)
	}
	return Wrap(c.(*net.TCPConn)), nil
}
