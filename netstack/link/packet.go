package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
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
	file   *os.File
	failed chan error
	once   sync.Once
}

// Packet returns the packet-socket link over f, an AF_PACKET SOCK_RAW socket
// made in the gateway network namespace. With o.Ifindex it is bound here. The
// link keeps f open until Run has returned; closing it is the caller's.
func Packet(f *os.File, o Options) (Link, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	fd, err := fdOf(f)
	if err != nil {
		return nil, err
	}
	if err := preparePacket(fd, o.Ifindex); err != nil {
		return nil, err
	}
	if o.MTU == 0 {
		o.MTU = PacketMTU
	}
	l := &packetLink{file: f, failed: make(chan error, 1)}
	child, err := fdbased.New(&fdbased.Options{
		FDs:                []int{fd},
		MTU:                o.MTU,
		EthernetHeader:     true,
		Address:            linkAddr(MAC[:]),
		ClosedFunc:         l.fail,
		GSOMaxSize:         gsoMax,
		PacketDispatchMode: fdbased.RecvMMsg,
		// With vnet headers the kernel hands over checksums still to do: to
		// verify them would drop every segment made on this machine.
		RXChecksumOffload: true,
		// One reader, one socket: no fanout group is needed.
		PreConfigured:  true,
		IsPacketSocket: []bool{true},
	})
	if err != nil {
		return nil, fmt.Errorf("link: packet endpoint: %w", err)
	}
	l.ep = newFixedPeer(child, o.Peer)
	return l, nil
}

// preparePacket turns on vnet headers, hides our own frames, and binds last:
// nothing is received in between in another form.
func preparePacket(fd, ifindex int) error {
	for _, o := range []struct {
		name string
		opt  int
	}{{"PACKET_VNET_HDR", unix.PACKET_VNET_HDR}, {"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING}} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o.opt, 1); err != nil {
			return fmt.Errorf("link: packet socket: %s: %w", o.name, err)
		}
	}
	for _, opt := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, socketBuffer); err != nil {
			return fmt.Errorf("link: packet socket: buffer size: %w", err)
		}
	}
	if ifindex == 0 {
		return nil
	}
	sa := &unix.SockaddrLinklayer{Protocol: AllFrames, Ifindex: ifindex}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("link: packet socket: bind to interface %d: %w", ifindex, err)
	}
	return nil
}

// AllFrames is ETH_P_ALL in network byte order, as packet(7) wants a protocol.
const AllFrames uint16 = unix.ETH_P_ALL << 8

func (l *packetLink) Endpoint() Endpoint { return l.ep }

// fail is called by gVisor's reader when the socket ends, at most once a reader.
func (l *packetLink) fail(e tcpip.Error) {
	err := errors.New("the reader stopped")
	if e != nil {
		err = errors.New(e.String())
	}
	l.once.Do(func() { l.failed <- fmt.Errorf("link: packet socket: %w", err) })
}

// Run waits: gVisor's reader starts with the endpoint's Attach, and ends when
// the stack removes its NIC.
func (l *packetLink) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-l.failed:
		return err
	}
}
