package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"

	"outcall/netstack/egress"
	"outcall/policy"
)

// ping sends one echo request of the agent's and returns what comes back, nil
// where that is an error.
func (b *bed) ping(addr netip.Addr, seq byte, payload string) []byte {
	b.t.Helper()
	a, np := full(ap(addr, 0))
	tp, request := tcpip.TransportProtocolNumber(icmp.ProtocolNumber4), []byte{8, 0, 0, 0, 0, 0, 0, seq}
	if addr.Is6() {
		tp, request = icmp.ProtocolNumber6, []byte{128, 0, 0, 0, 0, 0, 0, seq}
	}
	var wq waiter.Queue
	ep, terr := b.agent.NewEndpoint(tp, np, &wq)
	if terr != nil {
		b.t.Fatal(terr)
	}
	defer ep.Close()
	if terr := ep.Connect(a); terr != nil {
		b.t.Fatal(terr)
	}
	if _, terr := ep.Write(bytes.NewReader(append(request, payload...)), tcpip.WriteOptions{}); terr != nil {
		b.t.Fatal(terr)
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var got bytes.Buffer
		if _, terr := ep.Read(&got, tcpip.ReadOptions{}); terr == nil {
			return got.Bytes()
		}
		select {
		case e := <-b.icmp:
			if e != [2]byte{8, 0} && (e[0] == 3 || e[0] == 1) {
				return nil
			}
		default:
		}
	}
	b.t.Fatalf("ping %s: neither a reply nor an error", addr)
	return nil
}

// TestN7EchoIsMapped: a reply is the outside's, payload and sequence number
// kept, under the agent's own identifier; without a ping socket there is none.
func TestN7EchoIsMapped(t *testing.T) {
	for _, addr := range []netip.Addr{shared, shared6} {
		b := newBed(t, rule("a", "allow", `dns.query == "a.test" || network.hostname == "a.test" && network.protocol == "icmp"`))
		b.pins.pin("a.test", addr)
		b.serveUDP(ap(addr, 0), func(msg []byte) []byte { // the host's kernel has its own identifier
			reply := append([]byte(nil), msg...)
			reply[0] = map[byte]byte{8: 0, 128: 129}[msg[0]]
			binary.BigEndian.PutUint16(reply[4:], 0xbeef)
			return reply
		})
		for seq := range byte(3) {
			got := b.ping(addr, seq, "canary payload")
			if len(got) != 8+14 || got[7] != seq || string(got[8:]) != "canary payload" {
				t.Errorf("%s: %x", addr, got)
			}
		}
		b.log.wait(t, "verdict", func(e policy.Event) bool {
			return e.Verdict == "allow" && e.Protocol == "icmp" && e.Host == "a.test" && e.Port == 0
		})
		b.dial.mu.Lock()
		b.dial.fail[ap(addr, 0)] = egress.Forbidden
		b.dial.mu.Unlock()
		if got := b.ping(addr, 9, "canary"); got != nil {
			t.Errorf("%s: a forged reply %x", addr, got)
		}
		if e := b.log.deny(t, "flow"); !e.Structural || e.Protocol != "icmp" || e.Reason != "icmp cannot go out: as the test wants it" {
			t.Errorf("%+v", e)
		}
	}
}

// An agent's own error message about a datagram is no attempt, and no flow.
func TestUnreachableOfTheAgentIsQuiet(t *testing.T) {
	b := newBed(t, rule("a", "allow", `network.protocol == "tcp"`))
	for _, addr := range []netip.Addr{agent4, agent6} {
		dst, proto, typ := shared, uint8(protoICMP), byte(3)
		if addr.Is6() {
			dst, proto, typ = shared6, protoICMPv6, 1
		}
		all, body := ipHeader(addr, dst, proto, 40)
		body[0], body[1] = typ, 3
		b.Refuse(all)
		body[0] = 13 // a timestamp request, or what nobody knows
		b.Refuse(all)
		b.log.wait(t, "denial", func(e policy.Event) bool { return e.Protocol == "icmp" && e.IP == dst.String() })
	}
	if n := b.log.denials(); n != 2 {
		t.Errorf("%d denials", n)
	}
}

func TestEchoReplyChecksum(t *testing.T) {
	for _, src := range []netip.Addr{shared, shared6} {
		dst, sum := agent4, uint16(0)
		msg := []byte{0, 0, 9, 9, 9, 9, 0, 1, 'x'}
		if src.Is6() {
			dst, msg[0] = agent6, 129
			sum = header.PseudoHeaderChecksum(icmp.ProtocolNumber6, toAddr(src), toAddr(dst), uint16(len(msg)))
		}
		p, err := parsePacket(echoReply(src, dst, 7, msg))
		if err != nil || p.dst.Addr() != dst || checksum.Checksum(p.l4, sum) != 0xffff || binary.BigEndian.Uint16(p.l4[4:]) != 7 {
			t.Errorf("%s: %x, %v", src, p.l4, err)
		}
		for _, bad := range [][]byte{nil, msg[:7], append([]byte{8}, msg[1:]...)} {
			if echoReply(src, dst, 7, bad) != nil {
				t.Errorf("%x became a reply", bad)
			}
		}
	}
}
