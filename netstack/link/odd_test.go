package link

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TestOddSegments: a segment that a virtio_net_hdr has no word for is lost, and
// the link goes on, since the kernel refuses the read of it alone; and when the
// interface goes down, the link ends.
func TestOddSegments(t *testing.T) {
	if os.Getenv(inner) == "" {
		if !tunRefused(t) {
			runInside(t, "TestOddSegments", "odd")
		}
		return
	}
	// What is written to a tap device arrives there as if from a wire.
	wire, dev := tapDevice(t, unix.IFF_VNET_HDR)
	must(t, "up", netlink.LinkSetUp(dev))
	l, err := Packet(packetSocket(t), packetSocket(t), Options{Peer: peerMAC, Ifindex: dev.Attrs().Index})
	must(t, "link", err)
	got := make(received, 1)
	l.Endpoint().Attach(got)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(t.Context()) }()
	send := func(proto byte, gso byte) {
		t.Helper()
		p := make([]byte, 3000)
		h := header.IPv4(p)
		h.Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), TTL: 64, Protocol: proto})
		h.SetChecksum(^h.CalculateChecksum())
		f := frame(MAC[:], peerMAC, 0x0800, p)
		if gso != 0 {
			start := uint16(header.EthernetMinimumSize + header.IPv4MinimumSize)
			f[0], f[1] = vnetNeedsCsum, gso
			for i, v := range []uint16{start + header.UDPMinimumSize, 1400, start, 6} {
				binary.NativeEndian.PutUint16(f[2+2*i:], v)
			}
		}
		_, err := wire.Write(f)
		must(t, "write", err)
	}
	const fragmentation = 3 // VIRTIO_NET_HDR_GSO_UDP, which the kernel does not tell of again
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		for range 3 {
			send(unix.IPPROTO_UDP, fragmentation)
		}
		send(proto, 0)
		select {
		case <-got:
		case err := <-ended:
			t.Fatalf("the link has ended: %v", err)
		case <-time.After(5 * time.Second):
			t.Fatal("what came after it is lost")
		}
	}
	// An interface that is gone is another matter.
	must(t, "down", netlink.LinkSetDown(dev))
	select {
	case err := <-ended:
		if !errors.Is(err, unix.ENETDOWN) {
			t.Errorf("the interface went down: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the link goes on without its interface")
	}
	l.Endpoint().Attach(nil)
}
