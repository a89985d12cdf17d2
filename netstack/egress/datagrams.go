package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoEcho means that this user has no ping sockets on this host: the group
// is not in net.ipv4.ping_group_range, which holds for IPv6, too.
var ErrNoEcho = errors.New("the host gives this user no ping sockets (net.ipv4.ping_group_range)")

// Datagrams is one connected datagram socket of the user: what comes in is
// from the judged address alone. It is UDP, or ICMP echo by the host's
// unprivileged ping socket, where a datagram is an ICMP message, and the kernel
// writes its identifier and checksum.
type Datagrams struct {
	*net.UDPConn
	raw syscall.RawConn
	six bool
}

// DialUDP opens the outward side of a UDP flow to a judged address. Nothing is
// sent. The error is an *Error; of kind Forbidden or Proxy it tells that no
// datagram of the flow may go out at all.
func (d *Dialer) DialUDP(name string, dst netip.AddrPort) (*Datagrams, error) {
	to, err := d.outward(name, dst)
	if err != nil {
		return nil, err
	}
	nd := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = tellErrors(int(fd), to.Addr().Is6()) }); cerr != nil {
			return cerr
		}
		return err
	}}
	c, err := nd.DialContext(context.Background(), "udp", to.String()) // does not wait
	if err != nil {
		return nil, classify(dst, err)
	}
	return newDatagrams(c.(*net.UDPConn), to.Addr().Is6())
}

// DialEcho opens the outward side of ICMP echo to a judged address, like
// DialUDP.
func (d *Dialer) DialEcho(name string, dst netip.Addr) (*Datagrams, error) {
	at := netip.AddrPortFrom(dst, 0)
	to, err := d.outward(name, netip.AddrPortFrom(dst, 1)) // a port that stands for none
	if err != nil {
		return nil, err
	}
	c, err := pingSocket(to.Addr())
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPROTONOSUPPORT):
		return nil, &Error{Kind: Forbidden, Addr: at, Err: ErrNoEcho}
	case err != nil:
		return nil, classify(at, err)
	}
	return newDatagrams(c, to.Addr().Is6())
}

// HasEcho tries whether this user has ping sockets here.
func HasEcho() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return fmt.Errorf("ping socket: %w", err)
	}
	return unix.Close(fd)
}

// outward is where a datagram flow goes: nowhere by a proxy.
func (d *Dialer) outward(name string, dst netip.AddrPort) (netip.AddrPort, error) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if hosts := d.Service(dst); len(hosts) > 0 {
		return hosts[0], nil // that of its own family: a datagram tells of no other one
	}
	switch {
	case d.useProxy(name, dst):
		return dst, &Error{Kind: Proxy, Addr: dst, Err: fmt.Errorf("the upstream proxy %s carries TCP only", d.cfg.Proxy.Redacted())}
	case !d.mayDial(dst), synthetic.Contains(dst.Addr()):
		return dst, &Error{Kind: Forbidden, Addr: dst, Err: errForbidden}
	}
	return dst, nil
}

// tellErrors makes the kernel keep the ICMP errors that datagrams meet.
func tellErrors(fd int, six bool) error {
	if six {
		return os.NewSyscallError("IPV6_RECVERR", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1))
	}
	return os.NewSyscallError("IP_RECVERR", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1))
}

func pingSocket(to netip.Addr) (*net.UDPConn, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	var sa unix.Sockaddr = &unix.SockaddrInet4{}
	if to.Is6() {
		family, proto, sa = unix.AF_INET6, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{Addr: to.As16()}
	} else {
		sa = &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "ping socket")
	defer f.Close() // FileConn has a descriptor of its own
	if err := tellErrors(fd, to.Is6()); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("a ping socket became a %T", c)
	}
	return u, nil
}

func newDatagrams(c *net.UDPConn, six bool) (*Datagrams, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	return &Datagrams{UDPConn: c, raw: raw, six: six}, nil
}

// maxDatagram is beyond the longest payload that UDP has.
const maxDatagram = 64 << 10

var rooms = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// Receive waits for a datagram and shows it to use, which must not keep it. A
// silent flow holds no buffer.
func (c *Datagrams) Receive(use func([]byte)) error {
	var err error
	cerr := c.raw.Read(func(fd uintptr) bool {
		room := rooms.Get().(*[maxDatagram]byte)
		defer rooms.Put(room)
		var n int
		if n, _, err = unix.Recvfrom(int(fd), room[:], unix.MSG_DONTWAIT); err == nil {
			use(room[:n])
		}
		return err != unix.EAGAIN
	})
	return errors.Join(cerr, err)
}

// DontFragment makes the kernel refuse what is too large for the path, as far
// as it knows it, and not cut it up.
func (c *Datagrams) DontFragment() error {
	var err error
	cerr := c.raw.Control(func(fd uintptr) {
		if c.six {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
			return
		}
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	})
	return errors.Join(cerr, err)
}

// A Complaint is the ICMP error that answered a datagram: type and code as
// they came. MTU is that of a datagram too big, which this host's own kernel
// can be the first to tell.
type Complaint struct {
	Type, Code uint8
	MTU        uint32
}

// maxComplaints bounds what one call takes.
const maxComplaints = 16

// Complaints takes the ICMP errors that have come since the last call.
func (c *Datagrams) Complaints() (out []Complaint) {
	_ = c.raw.Control(func(fd uintptr) { // an error means that the socket is closed
		var oob [512]byte
		for len(out) < maxComplaints {
			_, n, _, _, err := unix.Recvmsg(int(fd), nil, oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			if x, ok := c.complaint(oob[:n]); ok {
				out = append(out, x)
			}
		}
	})
	return out
}

// ICMP types that tell of a datagram that did not arrive (RFC 792, RFC 4443).
var undelivered = map[bool]map[uint8]bool{
	false: {3: true, 11: true, 12: true},
	true:  {1: true, 2: true, 3: true, 4: true},
}

// complaint reads struct sock_extended_err (linux/errqueue.h).
func (c *Datagrams) complaint(oob []byte) (Complaint, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return Complaint{}, false
	}
	for _, m := range msgs {
		is4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		is6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !is4 && !is6 || len(m.Data) < 16 {
			continue
		}
		errno, info := unix.Errno(binary.NativeEndian.Uint32(m.Data)), binary.NativeEndian.Uint32(m.Data[8:])
		origin, typ, code := m.Data[4], m.Data[5], m.Data[6]
		switch {
		case errno == unix.EMSGSIZE && is6:
			return Complaint{2, 0, info}, true
		case errno == unix.EMSGSIZE:
			return Complaint{3, 4, info}, true
		case (origin == unix.SO_EE_ORIGIN_ICMP || origin == unix.SO_EE_ORIGIN_ICMP6) && undelivered[is6][typ]:
			return Complaint{Type: typ, Code: code}, true
		}
	}
	return Complaint{}, false
}
