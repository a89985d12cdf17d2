package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// gsoMax is the largest segment that the kernel cuts for us; IPv4's own
	// length field ends at 65,535 octets, header included.
	gsoMax = 65535 - 20
	// socketBuffer is asked for in each direction; the kernel caps it at
	// net.core.{w,r}mem_max, since force needs a capability that we lack.
	socketBuffer = 4 << 20
)

type packetLink struct {
	ep     Endpoint
	failed chan error
}

// Packet returns the packet-socket link over two AF_PACKET SOCK_RAW sockets
// made in the gateway network namespace, which are bound here. One takes UDP and
// the other all else: the kernel gives a socket room for a few hundred packets,
// so that a flood of questions would lose the segments of every TCP flow. Both
// are blocking sockets, which the runtime's poller does not know (frameSocket
// says why). The link uses them until Run has returned and nothing is attached
// to its endpoint; closing them is the caller's, after that.
func Packet(f, udp *os.File, o Options) (Link, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.MTU == 0 {
		o.MTU = PacketMTU
	}
	l := &packetLink{failed: make(chan error, 2)} // one for each reader
	child := newFrames(o.Peer, o.MTU, l.fail)
	for i, file := range []*os.File{f, udp} {
		s, err := take(file, o.Ifindex, i == 1)
		if err != nil {
			child.close()
			return nil, fmt.Errorf("link: packet socket: %w", err)
		}
		child.socks = append(child.socks, s)
	}
	l.ep = newFixedPeer(child, o.Peer)
	return l, nil
}

// take makes a socket of this link of f.
func take(f *os.File, ifindex int, udp bool) (*frameSocket, error) {
	fd, err := fdOf(f)
	if err != nil {
		return nil, err
	}
	if err := f.SetDeadline(time.Time{}); !errors.Is(err, os.ErrNoDeadline) {
		return nil, errors.New("it is in the runtime's poller: open it as a blocking one")
	}
	if err := preparePacket(fd, ifindex, udp); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return newFrameSocket(fd)
}

// preparePacket turns on vnet headers, hides our own frames, chooses the packets
// of the socket, and binds last: nothing is received in between in another form.
func preparePacket(fd, ifindex int, udp bool) error {
	for _, o := range []struct {
		name string
		opt  int
	}{{"PACKET_VNET_HDR", unix.PACKET_VNET_HDR}, {"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING}} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.opt, 1); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	for _, opt := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, socketBuffer); err != nil {
			return fmt.Errorf("buffer size: %w", err)
		}
	}
	if err := attach(fd, chosen(udp)); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	sa := &unix.SockaddrLinklayer{Protocol: AllFrames, Ifindex: ifindex}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("bind to interface %d: %w", ifindex, err)
	}
	return nil
}

// chosen is the filter of a socket that takes UDP alone, or all else. What hides
// its UDP behind extension headers is with all else.
func chosen(udp bool) []bpf.Instruction {
	const ethType, proto4, next6, accept = 12, 14 + 9, 14 + 6, 1 << 18 // octets: more than any packet has
	isUDP, rest := bpf.RetConstant{Val: accept}, bpf.RetConstant{}
	if !udp {
		isUDP, rest = rest, isUDP
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: ethType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: proto4, Size: 1},
		bpf.Jump{Skip: 1},
		bpf.LoadAbsolute{Off: next6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
		isUDP,
		rest,
	}
}

func attach(fd int, prog []bpf.Instruction) error {
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return err
	}
	var code []unix.SockFilter
	for _, r := range raw {
		code = append(code, unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K})
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

// AllFrames is ETH_P_ALL in network byte order, as packet(7) wants a protocol.
const AllFrames uint16 = unix.ETH_P_ALL << 8

func (l *packetLink) Endpoint() Endpoint { return l.ep }

// fail is called by a reader that ends with an error.
func (l *packetLink) fail(err error) { l.failed <- fmt.Errorf("link: packet socket: %w", err) }

// Run waits: the readers start with the endpoint's Attach, and end when nothing
// is attached any more.
func (l *packetLink) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-l.failed:
		return err
	}
}
