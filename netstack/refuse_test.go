package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"

	"outcall/netstack/egress"
	"outcall/netstack/link"
	"outcall/policy"
)

// segment is a TCP packet of the agent.
func segment(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32, payload int) []byte {
	all, body := ipHeader(src.Addr(), dst.Addr(), protoTCP, 20+payload)
	header.TCP(body).Encode(&header.TCPFields{SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack, DataOffset: 20, Flags: flags})
	return all
}

// TestRefuseLoggedSYN: the table dropped the agent's SYN and logged it; what
// we inject ends the agent's connect at once.
func TestRefuseLoggedSYN(t *testing.T) {
	for _, addr := range []netip.Addr{shared, shared6} {
		b := newBed(t, rule("a", "allow", allowA), func(c *Config, _ *timeouts) { c.Link = droppingLink{c.Link.(fakeLink), always()} })
		dst := ap(addr, 444)
		a, p := full(dst)
		errs := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, err := gonet.DialContextTCP(ctx, b.agent, a, p)
			errs <- err
		}()
		b.Refuse(<-dropped) // as the kernel's log hands it over
		if err := <-errs; err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", addr, err)
		}
		if e := b.log.deny(t, "flow"); e.Port != 444 || e.Rule != policy.DefaultPolicy {
			t.Errorf("%+v", e)
		}
	}
}

// TestLoggedSYNOfExpiredPinPasses: the table drops the SYN, since the pin has
// run out; once it is renewed that very SYN goes on.
func TestLoggedSYNOfExpiredPinPasses(t *testing.T) {
	for _, addr := range []netip.Addr{shared, shared6} {
		drop := always()
		b := newBed(t, rule("a", "allow", allowA), func(c *Config, _ *timeouts) {
			c.Link = droppingLink{c.Link.(fakeLink), drop}
		})
		b.pins.expired[addr] = []string{"a.test"}
		dst := ap(addr, 22)
		b.serve(echo, dst)
		start := time.Now()
		go func() {
			syn := <-dropped
			drop.Store(false)
			b.Refuse(syn)
		}()
		roundTrip(t, b.connect(dst), "at once\n")
		if took := time.Since(start); took > 800*time.Millisecond {
			t.Errorf("%s: %v, which is the client's retransmission", addr, took)
		}
	}
}

// dropped are the SYNs that a droppingLink did not let through.
var dropped = make(chan []byte, 16)

func always() *atomic.Bool {
	b := &atomic.Bool{}
	b.Store(true)
	return b
}

// droppingLink logs and drops the packets of the agent while drop is set, as
// the table does. What is handed to it, passes.
type droppingLink struct {
	fakeLink
	drop *atomic.Bool
}

func (l droppingLink) Endpoint() link.Endpoint { return dropEndpoint{l.ep, l.drop} }

type dropEndpoint struct {
	link.Endpoint
	drop *atomic.Bool
}

func (e dropEndpoint) Attach(d stack.NetworkDispatcher) {
	if d != nil {
		d = dropDispatcher{d, e.drop}
	}
	e.Endpoint.Attach(d)
}

type dropDispatcher struct {
	stack.NetworkDispatcher
	drop *atomic.Bool
}

func (d dropDispatcher) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	if !d.drop.Load() {
		d.NetworkDispatcher.DeliverNetworkPacket(proto, pkt)
		return
	}
	b := pkt.Data().AsRange().ToSlice()
	select {
	case dropped <- b[:min(len(b), 128)]:
	default:
	}
}

func TestTCPResetNumbers(t *testing.T) {
	src, dst := ap(agent4, 4000), ap(shared, 443)
	for name, c := range map[string]struct {
		flags    header.TCPFlags
		payload  int
		seq, ack uint32
		out      header.TCPFlags
	}{
		"syn":      {header.TCPFlagSyn, 0, 0, 1001, header.TCPFlagRst | header.TCPFlagAck},
		"syn data": {header.TCPFlagSyn, 10, 0, 1011, header.TCPFlagRst | header.TCPFlagAck},
		"ack":      {header.TCPFlagAck, 10, 77, 0, header.TCPFlagRst},
		"fin":      {header.TCPFlagFin, 0, 0, 1001, header.TCPFlagRst | header.TCPFlagAck},
	} {
		raw := segment(src, dst, c.flags, 1000, 77, c.payload)
		p, err := parsePacket(raw[:40]) // the log may cut the payload off
		if err != nil {
			t.Fatal(err)
		}
		out, err := parsePacket(tcpReset(p))
		if err != nil {
			t.Fatal(err)
		}
		h := out.tcp()
		if h.Flags() != c.out || h.SequenceNumber() != c.seq || h.AckNumber() != c.ack || out.src != dst || out.dst != src {
			t.Errorf("%s: %v seq %d ack %d", name, h.Flags(), h.SequenceNumber(), h.AckNumber())
		}
		sum := header.PseudoHeaderChecksum(6, toAddr(dst.Addr()), toAddr(src.Addr()), uint16(len(h)))
		if checksum.Checksum(h, sum) != 0xffff {
			t.Errorf("%s: checksum", name)
		}
	}
	p, _ := parsePacket(segment(src, dst, header.TCPFlagRst, 1, 1, 0))
	if tcpReset(p) != nil {
		t.Error("a reset was answered")
	}
}

func TestUDPRefusedAndDNSAnswered(t *testing.T) {
	b := newBed(t, rule("a", "allow", `network.protocol == "tcp"`))
	for _, addr := range []netip.Addr{netip.MustParseAddr("8.8.8.8"), gw4, gw6, shared6} {
		a, p := full(ap(addr, 53))
		c, err := gonet.DialUDP(b.agent, nil, &a, p)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write([]byte("question"))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if want := "udp " + ap(addr, 53).String() + " question"; err != nil || string(buf[:n]) != want {
			t.Errorf("%s: %q, %v", addr, buf[:n], err)
		}
		c.Close()

		a.Port = 123
		c, err = gonet.DialUDP(b.agent, nil, &a, p)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write([]byte("canary"))
		if e := <-b.icmp; e[0] != 3 && e[0] != 1 || e[0] == 3 && e[1] != 13 || e[0] == 1 && e[1] != 1 {
			t.Errorf("%s: ICMP type %d code %d", addr, e[0], e[1])
		}
		c.Close()
		b.log.wait(t, "UDP denial", func(e policy.Event) bool { return e.Protocol == "udp" && e.Verdict == "deny" && e.IP == addr.String() })
	}
	tcp := b.connect(ap(netip.MustParseAddr("1.1.1.1"), 53))
	buf := make([]byte, 100)
	n, _ := tcp.Read(buf)
	if string(buf[:n]) != "tcp 1.1.1.1:53" {
		t.Errorf("DNS over TCP: %q", buf[:n])
	}
	if b.dial.count() != 0 {
		t.Error("something was dialled")
	}
}

// TestN7NoForgedEcho: a ping has no reply, neither from an address outside nor
// from the gateway, and the attempt is audited.
func TestN7NoForgedEcho(t *testing.T) {
	b := newBed(t, rule("a", "allow", "network.protocol == \"tcp\""))
	for _, addr := range []netip.Addr{shared, shared6, gw4, gw6} {
		_, np := full(ap(addr, 0))
		tp, echo := tcpip.TransportProtocolNumber(icmp.ProtocolNumber4), []byte{8, 0, 0, 0, 0, 1, 0, 1}
		if addr.Is6() {
			tp, echo = icmp.ProtocolNumber6, []byte{128, 0, 0, 0, 0, 1, 0, 1}
		}
		var wq waiter.Queue
		ep, terr := b.agent.NewEndpoint(tp, np, &wq)
		if terr != nil {
			t.Fatal(terr)
		}
		a, _ := full(ap(addr, 0))
		if terr := ep.Connect(a); terr != nil {
			t.Fatal(terr)
		}
		if _, terr := ep.Write(bytes.NewReader(append(echo, "canary"...)), tcpip.WriteOptions{}); terr != nil {
			t.Fatal(terr)
		}
		b.log.wait(t, "ICMP denial", func(e policy.Event) bool { return e.Protocol == "icmp" && e.IP == addr.String() })
		if e := <-b.icmp; e[0] != 3 && e[0] != 1 {
			t.Errorf("%s: ICMP type %d", addr, e[0])
		}
		var got bytes.Buffer
		if _, terr := ep.Read(&got, tcpip.ReadOptions{}); terr == nil {
			t.Errorf("%s: an answer: %x", addr, got.Bytes())
		}
		ep.Close()
	}
}

func TestICMPErrorQuotes(t *testing.T) {
	for _, src := range []netip.Addr{agent4, agent6} {
		dst := shared
		if src.Is6() {
			dst = shared6
		}
		raw := segment(ap(src, 4000), ap(dst, 443), header.TCPFlagSyn, 1000, 0, 2000)
		out := icmpError(raw, gw4, gw6, hostUnreachable)
		p, err := parsePacket(out)
		if err != nil || p.dst.Addr() != src || len(out) > 1280 {
			t.Fatalf("%v, %d octets", err, len(out))
		}
		if !bytes.HasPrefix(raw, p.l4[8:]) || len(p.l4) < 8+48 {
			t.Error("the quote is not the packet's start")
		}
	}
	for _, raw := range [][]byte{
		icmpError(segment(ap(agent4, 1), ap(shared, 2), 2, 1, 1, 0), gw4, gw6, adminProhibited), // an ICMP error itself
		{}, {0x45}, bytes.Repeat([]byte{0x60}, 39),
	} {
		if out := icmpError(raw, gw4, gw6, adminProhibited); out != nil {
			t.Errorf("%x was answered", raw)
		}
	}
}

func TestOddPacketsAreStructural(t *testing.T) {
	b := newBed(t, rule("a", "allow", "true"))
	frag := segment(ap(agent4, 1), ap(shared, 443), header.TCPFlagSyn, 1, 0, 0)
	binary.BigEndian.PutUint16(frag[6:], 100)
	sctp, _ := ipHeader(agent4, shared, 132, 20)
	ack := segment(ap(agent4, 1), ap(shared, 443), header.TCPFlagAck, 1, 0, 0)
	for reason, raw := range map[string][]byte{"fragment": frag, "protocol 132": sctp, "no connection": ack} {
		b.Refuse(raw)
		e := b.log.wait(t, reason, func(e policy.Event) bool { return strings.Contains(e.Reason, reason) })
		if !e.Structural || e.Verdict != "deny" {
			t.Errorf("%+v", e)
		}
	}
	n := b.log.denials()
	b.Refuse(segment(ap(agent4, 1), ap(shared, 443), header.TCPFlagRst, 1, 0, 0))
	mld, body := ipHeader(agent6, netip.MustParseAddr("ff02::16"), protoICMPv6, 8)
	body[0] = 143
	b.Refuse(mld)
	b.Refuse(nil)
	b.Refuse([]byte("not a packet"))
	b.log.wait(t, "limit", func(e policy.Event) bool { return e.Event == "limit" })
	if b.log.denials() != n {
		t.Error("silent packets made a denial")
	}
}

// A SYN to a pinned port that is not to be believed, or not whole, is no
// connection, though the rules allow what it asks for.
func TestN8ForgedSYNIsNotTaken(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	b.pins.pin("a.test", shared6)
	for i, dst := range []netip.AddrPort{ap(shared, 22), ap(shared6, 22)} {
		b.serve(echo, dst)
		src := []netip.AddrPort{ap(agent4, 7), ap(agent6, 7)}[i]
		b.RefuseUnanswered(segment(src, dst, header.TCPFlagSyn, 1, 0, 0), "forged")
	}
	first := segment(ap(agent4, 8), ap(shared, 22), header.TCPFlagSyn, 1, 0, 0)
	binary.BigEndian.PutUint16(first[6:], 0x2000)
	b.Refuse(first)
	whole := segment(ap(agent6, 8), ap(shared6, 22), header.TCPFlagSyn, 1, 0, 0)
	atomic6, body := ipHeader(agent6, shared6, 44, 8+20)
	copy(body, []byte{protoTCP, 0, 0, 0, 0, 0, 0, 9})
	copy(body[8:], whole[40:])
	b.Refuse(atomic6)
	b.log.wait(t, "four denials", func(policy.Event) bool { return b.denialsLocked() == 4 })
	for _, e := range b.log.events {
		if e.Verdict != "deny" || !e.Structural || e.Protocol != "tcp" || e.Port != 22 {
			t.Errorf("%+v", e)
		}
	}
	if n := b.Stats().Total; n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestConnectsInProgress(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 22)
	b.serve(echo, dst)
	b.dial.block = make(chan struct{})
	const n = MaxDialing + 8
	results := make(chan error, n)
	for range n {
		go func() { _, err := b.try(dst); results <- err }()
	}
	b.log.wait(t, "all verdicts", func(policy.Event) bool {
		count := 0
		for _, e := range b.log.events {
			if e.Layer == "flow" && e.Verdict == "allow" {
				count++
			}
		}
		return count == n
	})
	if got := b.dial.count(); got > MaxDialing {
		t.Errorf("%d connects at once", got)
	}
	close(b.dial.block)
	for range n {
		if err := <-results; err != nil {
			t.Errorf("a waiting connect was refused: %v", err)
		}
	}
}

func TestFullTableEvictsTheLongestIdle(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.flows.max = 3
	b.pins.pin("a.test", shared)
	dst := ap(shared, 22)
	b.serve(echo, dst)
	first := b.connect(dst)
	roundTrip(t, first, "oldest\n")
	for range 3 {
		roundTrip(t, b.connect(dst), "newer\n")
	}
	if _, err := first.Read(make([]byte, 1)); err == nil || timedOut(err) {
		t.Errorf("the longest idle flow lives: %v", err)
	}
	b.log.wait(t, "limit", func(e policy.Event) bool { return e.Event == "limit" })
	if n := b.flows.len(); n > 3 {
		t.Errorf("%d flows", n)
	}
}

func TestPacketSlotsAreBounded(t *testing.T) {
	b := newBed(t, rule("a", "allow", "true"))
	hold := make(chan struct{})
	slots := make(chan struct{}, 2)
	for range 5 {
		b.later(slots, func(context.Context) { <-hold })
	}
	if n := b.Stats().Lost; n != 3 {
		t.Errorf("%d lost", n)
	}
	told := 0
	b.log.mu.Lock()
	for _, e := range b.log.events {
		if e.Event == "limit" {
			told++
		}
	}
	b.log.mu.Unlock()
	if told != 3 { // the audit sums them; none is left out before it
		t.Errorf("the audit was told of %d", told)
	}
	close(hold)
}

func TestDialErrorKinds(t *testing.T) {
	if s, _ := failure(&egress.Error{Kind: egress.Timeout}); s != 504 {
		t.Error(s)
	}
	if s, text := failure(&egress.Error{Kind: egress.Unreachable}); s != 502 || !strings.Contains(text, "unreachable") {
		t.Error(s, text)
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(segment(ap(agent4, 1), ap(shared, 443), header.TCPFlagSyn, 1, 0, 0))
	f.Add(segment(ap(agent6, 1), ap(shared6, 443), header.TCPFlagSyn, 1, 0, 9))
	f.Add(udpPacket(ap(agent4, 1), ap(shared, 53), []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePacket(b)
		if err != nil {
			return
		}
		for _, out := range [][]byte{tcpReset(p), icmpError(b, gw4, gw6, adminProhibited)} {
			if out == nil {
				continue
			}
			o, err := parsePacket(out)
			if err != nil || o.dst.Addr() != p.src.Addr() || len(out) > 1280 {
				t.Fatalf("answer %x to %x: %v", out, b, err)
			}
		}
		_ = p.quiet()
	})
}
