package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"outcall/policy"
)

// A flow alone has the full buffer, and all that the table holds have less
// than a gigabyte each way between them.
func TestBuffersOfAllFlowsAreBounded(t *testing.T) {
	if got := bufferOf(1); got != fullBuffer {
		t.Errorf("one flow has %d", got)
	}
	sum := int64(0)
	for n := range MaxFlows {
		sum += bufferOf(n)
	}
	if bufferOf(MaxFlows) != leastBuffer || sum > 1<<30 {
		t.Errorf("%d flows have %d MiB", MaxFlows, sum>>20)
	}
}

// heldNames answers no question before it may.
type heldNames struct {
	*fakeNames
	hold chan struct{}
}

func (n *heldNames) ServeUDP(ctx context.Context, _, _ netip.AddrPort, _ []byte) []byte {
	select {
	case <-n.hold:
	case <-ctx.Done():
	}
	return nil
}

func (n *heldNames) ServeTCP(_ context.Context, c net.Conn, _, _ netip.AddrPort) { _ = c.Close() }

// D14: questions that nobody answers take their slots and no more: those
// beyond are lost and told of, and other flows go on.
func TestD14QuestionSlots(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	b.serve(echo, ap(shared, 22))
	old := b.connect(ap(shared, 22))
	hold := make(chan struct{})
	defer close(hold)
	b.cfg.DNS = &heldNames{b.names, hold}
	const beyond = 100
	for i := range maxQuestions + beyond {
		raw := udpPacket(ap(agent4, uint16(1024+i)), ap(gw4, dnsPort), []byte("question"))
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(raw)})
		b.cfg.Link.Endpoint().DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
		pkt.DecRef()
	}
	if n := len(b.questions); n != maxQuestions {
		t.Errorf("%d questions in work", n)
	}
	if n := b.Stats().Lost; n != beyond {
		t.Errorf("%d lost", n)
	}
	_, told, _ := b.log.find(func(e policy.Event) bool { return e.Event == "limit" })
	if told != beyond {
		t.Errorf("%d limit events", told)
	}
	roundTrip(t, old, "still here\n")
	roundTrip(t, b.connect(ap(shared, 22)), "and new ones\n")
}

// One socket that asks without end leaves slots to every other.
func TestD14OneSocket(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	hold := make(chan struct{})
	b.cfg.DNS = &heldNames{b.names, hold}
	ask := func(from uint16) {
		raw := udpPacket(ap(agent4, from), ap(gw4, dnsPort), []byte("question"))
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(raw)})
		b.cfg.Link.Endpoint().DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
		pkt.DecRef()
	}
	const beyond = 100
	for range maxOfSocket + beyond {
		ask(1024)
	}
	if n, lost := len(b.questions), b.Stats().Lost; n != maxOfSocket || lost != beyond {
		t.Errorf("%d questions of one socket in work, %d lost", n, lost)
	}
	b.log.wait(t, "limit", func(e policy.Event) bool { return e.Event == "limit" && strings.Contains(e.Reason, "of one socket") })
	ask(1025)
	if n := len(b.questions); n != maxOfSocket+1 {
		t.Errorf("%d questions in work, with another socket's", n)
	}
	close(hold)
	for end := time.Now().Add(patience); len(b.questions) > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	b.askers.mu.Lock()
	defer b.askers.mu.Unlock()
	if n := len(b.askers.m); n != 0 {
		t.Errorf("%d sockets are still counted", n)
	}
}

// One SYN to an address that has had many names resolves some of them again.
func TestRenewedNamesAreBounded(t *testing.T) {
	b := newBed(t, rule("all", "allow", "true"))
	for i := range 2 * maxRenewed {
		b.pins.expired[shared] = append(b.pins.expired[shared], fmt.Sprintf("n%d.test", i))
	}
	b.serve(echo, ap(shared, 22))
	if c, err := b.try(ap(shared, 22)); err == nil {
		_ = c.Close()
	}
	b.names.mu.Lock()
	asked := len(b.names.asked)
	b.names.mu.Unlock()
	if asked != maxRenewed {
		t.Errorf("%d names were asked for", asked)
	}
	b.log.wait(t, "limit", func(e policy.Event) bool { return e.Event == "limit" })
}

// SYNs that are remembered for an answer's sake are no more than requests.
func TestRememberedSYNsAreBounded(t *testing.T) {
	var table synTable
	syn := segment(ap(agent4, 1), ap(shared, 443), header.TCPFlagSyn, 1, 0, 0)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(syn)})
	defer pkt.DecRef()
	pkt.NetworkHeader().Consume(header.IPv4MinimumSize)
	pkt.TransportHeader().Consume(header.TCPMinimumSize)
	for i := range maxSYNs + 10 {
		table.note(stack.TransportEndpointID{RemotePort: uint16(i), LocalPort: uint16(i >> 16), LocalAddress: toAddr(shared)}, pkt)
	}
	if n := len(table.m); n != maxSYNs {
		t.Errorf("%d SYNs remembered, at most %d", n, maxSYNs)
	}
	if table.take(stack.TransportEndpointID{LocalAddress: toAddr(shared)}) == nil {
		t.Error("the first is not there")
	}
}
