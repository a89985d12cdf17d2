package netstack

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"outcall/netstack/link"
)

// readingLink is a link whose reader delivers by itself, without a pause, and
// whose detachment waits for that reader, as the packet link's does.
type readingLink struct {
	fakeLink
	read *atomic.Int64
}

func (l readingLink) Endpoint() link.Endpoint { return readingEndpoint{l.ep, l.read} }

type readingEndpoint struct {
	link.Endpoint
	read *atomic.Int64 // packets; below zero when it is to end, and zero again when it has
}

func (e readingEndpoint) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		if e.read.Swap(-1<<40) > 0 {
			for e.read.Load() < 0 {
				time.Sleep(time.Millisecond)
			}
		}
		e.Endpoint.Attach(nil)
		return
	}
	e.Endpoint.Attach(d)
	go func() {
		for e.read.Add(1) > 0 {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(datagramToNowhere())})
			d.DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
			pkt.DecRef()
		}
		e.read.Store(0)
	}()
}

// datagramToNowhere is an empty UDP datagram to a name's address that no rule knows.
func datagramToNowhere() []byte {
	b := make([]byte, header.IPv4MinimumSize+header.UDPMinimumSize)
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: tcpip.AddrFrom4([4]byte{10, 200, 0, 2}), DstAddr: tcpip.AddrFrom4([4]byte{192, 0, 2, 1})})
	ip.SetChecksum(^ip.CalculateChecksum())
	binary.BigEndian.PutUint16(b[header.IPv4MinimumSize+2:], 9)
	binary.BigEndian.PutUint16(b[header.IPv4MinimumSize+4:], header.UDPMinimumSize)
	return b
}

// Run ends while packets come: the clean-up of the bed holds that.
func TestEndUnderTraffic(t *testing.T) {
	for range 20 {
		t.Run("", func(t *testing.T) {
			read := &atomic.Int64{}
			newBed(t, rule("a", "allow", allowA), func(c *Config, _ *timeouts) { c.Link = readingLink{c.Link.(fakeLink), read} })
			for end := time.Now().Add(patience); read.Load() < 100; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("no packets were read")
				}
			}
		})
	}
}
