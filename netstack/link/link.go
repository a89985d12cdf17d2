// Package link carries the sandbox's packets between the kernel and the
// userspace netstack. A Link hands gVisor one link endpoint; two
// implementations exist, a packet socket with vnet headers (the default) and
// a tap device, behind one interface and one set of tests.
//
//	packet   AF_PACKET, SOCK_RAW on uplink1, one for UDP and one for all else:
//	         64 KiB segments with their checksums still to do, and a
//	         virtio_net_hdr before each frame, which says so; see frames
//	tap      /dev/net/tun, IFF_TAP|IFF_NO_PI: one frame a read, 64 KiB MTU
//
// Either way there is exactly one neighbour, the kernel's own end, and its
// address is given: nothing is learnt. The netstack sends no ARP and no
// neighbour discovery, and what arrives of either is dropped.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// MAC is the netstack's Ethernet address. It belongs to no interface, so the
// kernel itself never accepts a frame sent to it.
var MAC = [6]byte{0x02, 0x6f, 0x75, 0x74, 0x63, 0x01}

// A Link is one attachment of the netstack to the gateway network namespace.
type Link interface {
	// Endpoint returns the link endpoint for stack.CreateNIC.
	Endpoint() Endpoint
	// Run serves the link until ctx ends or the link fails.
	Run(ctx context.Context) error
}

// An Endpoint is a link endpoint that a packet can also be handed to: it goes
// on as if it had come over the link.
type Endpoint interface {
	stack.LinkEndpoint
	stack.NetworkDispatcher
}

// MTUs that the two links are made for. The packet link's is the interface's;
// larger segments travel by GSO.
const (
	PacketMTU = 1500
	TapMTU    = 65520 // with its header below gVisor's receive buffers of 65,664 octets
)

// Options are what a link needs beside its descriptor.
type Options struct {
	// Peer is the Ethernet address of the kernel's end: every frame that is
	// sent goes to it, and only its frames are taken.
	Peer net.HardwareAddr
	// MTU in octets without the Ethernet header; 0 is the link's own default.
	MTU uint32
	// Ifindex is the interface that the packet sockets are bound to.
	Ifindex int
}

func (o *Options) check() error {
	if len(o.Peer) != 6 {
		return fmt.Errorf("link: peer address %q: not an Ethernet address", o.Peer)
	}
	if o.Peer[0]&1 != 0 {
		return fmt.Errorf("link: peer address %s: a group address", o.Peer)
	}
	return nil
}

var errNoFile = errors.New("no descriptor")

func fdOf(f *os.File) (int, error) {
	if f == nil {
		return -1, errNoFile
	}
	// SyscallConn and not Fd: Fd would turn the file back to blocking mode.
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("%s: %w", f.Name(), err)
	}
	fd := -1
	if err := rc.Control(func(p uintptr) { fd = int(p) }); err != nil {
		return -1, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return fd, nil
}

func linkAddr(a []byte) tcpip.LinkAddress { return tcpip.LinkAddress(a) }
