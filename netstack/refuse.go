package netstack

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"outcall/policy"
)

// Refuse answers a packet that the kernel's table logged and dropped: b is at
// least the first 128 octets of it, from the IP header on, and is copied. The
// process behind it is found, the verdict written, and the client sees a
// reset or ICMP admin-prohibited. Where the rules would let the packet pass
// after all (its pin was renewed just now) a SYN, or what is whole of UDP and
// ICMP, goes on as if it had come over the link, since the client's
// retransmission takes a second. It never blocks; a packet that finds no free
// slot is lost.
func (s *Stack) Refuse(b []byte) { s.refuseLogged(b, "") }

// RefuseUnanswered is Refuse for a packet that no rule lets pass and that has
// no answer, for the reason given: its source is not to be believed, or it has
// many receivers.
func (s *Stack) RefuseUnanswered(b []byte, reason string) { s.refuseLogged(b, reason) }

// refuseLogged refuses a packet; whatever the rules say if there is a reason.
func (s *Stack) refuseLogged(b []byte, reason string) {
	p, err := parsePacket(append([]byte(nil), b...))
	if err != nil {
		s.stats.lost.Add(1)
		s.limited("a packet that cannot be read was dropped: %v", err)
		return
	}
	if p.quiet() {
		return
	}
	p.reason = reason
	s.later(s.packets, func(ctx context.Context) { s.refuse(ctx, p) })
}

// refuse judges and answers one packet of which nothing passes.
func (s *Stack) refuse(ctx context.Context, p packet) {
	if t := p.tcp(); t != nil && t.Flags().Contains(header.TCPFlagRst) {
		return
	}
	k := judging{p.proto, p.src, p.dst}
	if !s.asked.begin(k) {
		return // a retransmission while its first copy is judged
	}
	defer s.asked.done(k)
	t, r := s.judgePacket(ctx, p)
	if r.pass {
		s.readmit(p)
		return
	}
	var name string
	if r.Name != "" {
		name = r.Name
	}
	e := eventOf(newID(), p.dst, t.Proto, name, s.attribute(ctx, t))
	s.verdict(policy.LayerFlow, r, e)
	if p.reason != "" {
		return
	}
	if p.proto == protoTCP && !p.fragment {
		s.inject(tcpReset(p))
		return
	}
	s.inject(icmpError(p.raw, s.cfg.Gateway4, s.cfg.Gateway6, adminProhibited))
}

// readmit hands a logged packet to the stack, where it is judged as any other.
// One of which the log has cut off the end waits for its retransmission.
func (s *Stack) readmit(p packet) {
	if len(p.l4) != p.payload {
		return
	}
	// The table logs a packet before its checksum is made. Of UDP and ICMP
	// nobody here looks at it.
	if t := p.tcp(); t != nil {
		t.SetChecksum(0)
		t.SetChecksum(seal(p.src.Addr(), p.dst.Addr(), protoTCP, p.l4))
	}
	proto := header.IPv4ProtocolNumber
	if p.src.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(p.raw)})
	defer pkt.DecRef()
	s.cfg.Link.Endpoint().DeliverNetworkPacket(proto, pkt)
}

// judgePacket asks for the verdict. Only what begins a flow can pass.
func (s *Stack) judgePacket(ctx context.Context, p packet) (Tuple, ruling) {
	t := Tuple{Src: p.src, Dst: p.dst}
	switch {
	case p.reason != "":
		t.Proto = protoWords[p.proto]
		return t, structural(p.reason)
	case p.part:
		t.Proto = protoWords[p.proto]
		return t, structural("a fragment cannot be judged")
	case p.proto == protoTCP:
		t.Proto = policy.TCP
		f := p.tcp()
		if f == nil {
			return t, structural("a TCP header that is not whole")
		}
		if f.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
			return t, structural("a TCP segment of no connection that is allowed")
		}
	case p.proto == protoUDP:
		t.Proto = policy.UDP
	case p.proto == protoICMP || p.proto == protoICMPv6:
		t.Proto = policy.ICMP
		if !p.echoRequest() {
			return t, structural("an ICMP message that is no echo request")
		}
	default:
		return t, structural(fmt.Sprintf("IP protocol %d cannot be judged", p.proto))
	}
	r, _, _ := s.judgeFlow(ctx, t, s.attribute(ctx, t))
	return t, r
}

var protoWords = map[uint8]policy.Proto{protoTCP: policy.TCP, protoUDP: policy.UDP, protoICMP: policy.ICMP, protoICMPv6: policy.ICMP}

// judging is a packet's attempt while it is judged.
type judging struct {
	proto    uint8
	src, dst netip.AddrPort
}

// A judgingSet tells retransmissions; it has one entry for each slot in work.
type judgingSet struct {
	mu sync.Mutex
	m  map[judging]struct{}
}

func (j *judgingSet) begin(k judging) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.m[k]; ok {
		return false
	}
	if j.m == nil {
		j.m = make(map[judging]struct{})
	}
	j.m[k] = struct{}{}
	return true
}

func (j *judgingSet) done(k judging) {
	j.mu.Lock()
	delete(j.m, k)
	j.mu.Unlock()
}

// inject sends a packet of ours to the agent; nil is none.
func (s *Stack) inject(b []byte) {
	if b == nil {
		return
	}
	proto := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
	if b[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	for _, p := range fragments(b, int(s.cfg.Link.Endpoint().MTU())) {
		// A full link loses the answer, as a wire would; the link knows the peer.
		if err := s.net.WritePacketToRemote(nic, "", proto, buffer.MakeWithData(p)); err != nil {
			s.stats.lost.Add(1)
		}
	}
}

// rawPacket is a copy of a received packet from its IP header on.
func rawPacket(pkt *stack.PacketBuffer) []byte {
	b := append([]byte(nil), pkt.NetworkHeader().Slice()...)
	b = append(b, pkt.TransportHeader().Slice()...)
	return append(b, pkt.Data().AsRange().ToSlice()...)
}

// question hands one DNS datagram to the filter.
func (s *Stack) question(id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	src := netip.AddrPortFrom(fromAddr(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(fromAddr(id.LocalAddress), id.LocalPort)
	msg := pkt.Data().AsRange().ToSlice()
	if !s.askers.enter(src) {
		s.stats.lost.Add(1)
		s.limited("more than %d questions of one socket wait for an answer", maxOfSocket)
		return
	}
	if !s.later(s.questions, func(ctx context.Context) {
		defer s.askers.leave(src)
		if reply := s.cfg.DNS.ServeUDP(ctx, src, dst, msg); reply != nil {
			s.inject(udpPacket(dst, src, reply))
		}
	}) {
		s.askers.leave(src)
	}
}

// askers count the questions in work of each socket, so that one that asks
// without end leaves slots to the others. There are no more of them than slots.
type askers struct {
	mu sync.Mutex
	m  map[netip.AddrPort]int
}

func (a *askers) enter(src netip.AddrPort) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = map[netip.AddrPort]int{}
	}
	if a.m[src] >= maxOfSocket {
		return false
	}
	a.m[src]++
	return true
}

func (a *askers) leave(src netip.AddrPort) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m[src]--; a.m[src] <= 0 {
		delete(a.m, src)
	}
}
