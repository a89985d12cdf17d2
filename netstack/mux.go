package netstack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"outcall/policy"
)

const (
	// maxQueued is the number of a flow's datagrams that wait to be looked at.
	// One beyond is lost, as on a wire.
	maxQueued = 64
	// maxHeldOctets is what all flows together hold of datagrams in which a
	// ClientHello is not whole.
	maxHeldOctets = 32 << 20
)

// A datagram is one UDP datagram or echo request of the agent.
type datagram struct {
	packet
	body []byte // what goes out: the payload of UDP, the ICMP message
}

// A mux leads each datagram to its flow. Flows are bounded by the registry;
// those that it has ended may still be here for a moment.
type mux struct {
	mu  sync.Mutex
	max int
	m   map[Tuple]chan datagram
}

func (x *mux) init(limit int) { x.max, x.m = limit, make(map[Tuple]chan datagram) }

// lead puts a datagram into its flow's queue. fresh is the queue of a flow that
// begins with it; ok is false where the datagram is lost.
func (x *mux) lead(t Tuple, d datagram) (fresh chan datagram, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	q := x.m[t]
	if q == nil {
		if len(x.m) >= x.max {
			return nil, false
		}
		q = make(chan datagram, maxQueued)
		x.m[t], fresh = q, q
	}
	select {
	case q <- d:
		return fresh, true
	default:
		return nil, false
	}
}

// leave takes a flow out. With idle it stays if a datagram has come meanwhile.
func (x *mux) leave(t Tuple, q chan datagram, idle bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if idle && len(q) > 0 {
		return false
	}
	if x.m[t] == q {
		delete(x.m, t)
	}
	return true
}

// receive takes a datagram of the agent. It runs on the link's reader and never
// blocks.
func (s *Stack) receive(p packet) {
	if mtu := int(s.cfg.Link.Endpoint().MTU()); len(p.raw) > mtu {
		s.stats.lost.Add(1)
		s.limited("datagrams that the kernel has not cut up: one packet of more than %d octets", mtu)
		return
	}
	var err error
	d := datagram{packet: p, body: p.l4}
	t := Tuple{Proto: protoWords[p.proto], Src: p.src, Dst: p.dst}
	if t.Proto == policy.UDP {
		if d.body, err = p.udpPayload(); err != nil {
			s.stats.lost.Add(1)
			return
		}
	}
	fresh, ok := s.mux.lead(t, d)
	if !ok {
		s.stats.lost.Add(1)
		s.limited("a datagram found no room: more than %d in one flow, or %d flows", maxQueued, s.mux.max)
		return
	}
	if fresh == nil {
		return
	}
	if !s.enter() {
		s.mux.leave(t, fresh, false)
		return
	}
	go func() {
		defer s.wg.Done()
		closed, left := false, []datagram(nil)
		s.guard("flow", func() { closed, left = s.associate(t, fresh) })
		s.mux.leave(t, fresh, false)
		for closed {
			for _, d := range left {
				s.receive(d.packet)
			}
			left = left[:0]
			select {
			case d := <-fresh:
				left = append(left, d)
			default:
				return
			}
		}
	}()
}

// udp takes every UDP packet: DNS questions to whatever address are answered,
// all else is a flow. It runs on the link's reader and never blocks.
func (s *Stack) udp(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	if id.LocalPort == dnsPort {
		s.question(id, pkt)
		return true
	}
	s.flowOr(rawPacket(pkt), func(p *packet) bool { return p.proto == protoUDP && !p.part })
	return true
}

// icmp takes every ICMP packet that the stack does not handle by itself; so it
// forges no echo reply for an address that is not its own.
func (s *Stack) icmp(_ stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	s.flowOr(rawPacket(pkt), (*packet).echoRequest)
	return true
}

// flowOr takes a packet as one of a flow, or refuses it.
func (s *Stack) flowOr(raw []byte, is func(*packet) bool) {
	p, err := parsePacket(raw)
	if err != nil || !is(&p) {
		s.Refuse(raw)
		return
	}
	s.receive(p)
}
