package netstack

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"outcall/netstack/link"
	"outcall/policy"
)

// readingLink is a link whose reader delivers by itself, without a pause, and
// whose detachment waits for that reader, as the packet link's does.
type readingLink struct {
	fakeLink
	r *reading
}

func (l readingLink) Endpoint() link.Endpoint { return readingEndpoint{l.ep, l.r} }

// A reading is the reader's: many is closed when it has delivered a hundred
// packets, and stop ends it.
type reading struct {
	many, stop chan struct{}
	end        func() // closes stop, once
	running    sync.WaitGroup
}

func newReading() *reading {
	r := &reading{many: make(chan struct{}), stop: make(chan struct{})}
	r.end = sync.OnceFunc(func() { close(r.stop) })
	return r
}

type readingEndpoint struct {
	link.Endpoint
	r *reading
}

func (e readingEndpoint) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		e.r.end()
		e.r.running.Wait()
		e.Endpoint.Attach(nil)
		return
	}
	e.Endpoint.Attach(d)
	e.r.running.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-e.r.stop:
				return
			default:
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(datagramToNowhere())})
			d.DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
			pkt.DecRef()
			if n == 100 {
				close(e.r.many)
			}
		}
	})
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
			r := newReading()
			newBed(t, rule("a", "allow", allowA), func(c *Config, _ *timeouts) { c.Link = readingLink{c.Link.(fakeLink), r} })
			select {
			case <-r.many:
			case <-time.After(patience):
				t.Fatal("no packets were read")
			}
		})
	}
}

// beginningLink is a link with which something begins before the interface is whole.
type beginningLink struct {
	fakeLink
	begin func()
}

func (l *beginningLink) Endpoint() link.Endpoint { l.begin(); return l.ep }

// What began while the interface was made does not hold the end of a stack that
// gets none.
func TestNoInterfaceEndsWhatBegan(t *testing.T) {
	e, _ := pipe.New("\x02\x00\x00\x00\x00\x01", "\x02\x00\x00\x00\x00\x02", 65520)
	l := &beginningLink{fakeLink: newFakeLink(e)}
	s, err := New(Config{Link: l, Snapshot: func() *policy.Snapshot { return nil }, Pins: &fakePins{}, DNS: &fakeNames{}, Egress: &fakeDialer{},
		Auditor: &recorder{more: make(chan struct{})}, Gateway4: gw4, Gateway6: gw6, NoProxy: true})
	if err != nil {
		t.Fatal(err)
	}
	l.begin = sync.OnceFunc(func() {
		if s.enter() {
			go func() { defer s.wg.Done(); <-s.ctx.Done() }()
		}
	})
	if err := s.net.CreateNIC(nic, loopback.New()); err != nil { // its number is taken
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a stack without an interface ran")
		}
	case <-time.After(patience):
		t.Error("Run did not end")
	}
}
