package netstack

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A packet is what a refusal needs of an IP packet, of which the end may be
// missing.
type packet struct {
	src, dst netip.AddrPort // port 0 where there is none
	proto    uint8          // transport protocol number
	l4       []byte         // from the transport header on
	payload  int            // octets of transport payload by the IP header's length
	part     bool           // a fragment, the first one included
	fragment bool           // not the first: there is no transport header
	reason   string         // why it is refused whatever the rules say, and without an answer
	raw      []byte
}

// Protocol numbers (IANA).
const (
	protoICMP   = 1
	protoIGMP   = 2
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

var errPacket = errors.New("malformed IP packet")

// parsePacket reads the headers of an IPv4 or IPv6 packet.
func parsePacket(b []byte) (p packet, err error) {
	if len(b) == 0 {
		return p, errPacket
	}
	p.raw = b
	var src, dst netip.Addr
	switch b[0] >> 4 {
	case 4:
		src, dst, err = p.parse4(b)
	case 6:
		src, dst, err = p.parse6(b)
	default:
		err = errPacket
	}
	if err != nil {
		return packet{}, err
	}
	sp, dp := p.ports()
	p.src, p.dst = netip.AddrPortFrom(src, sp), netip.AddrPortFrom(dst, dp)
	return p, nil
}

func (p *packet) parse4(b []byte) (src, dst netip.Addr, err error) {
	if len(b) < header.IPv4MinimumSize {
		return src, dst, errPacket
	}
	ihl := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if ihl < header.IPv4MinimumSize || ihl > len(b) || total < ihl {
		return src, dst, errPacket
	}
	p.proto = b[9]
	flags := binary.BigEndian.Uint16(b[6:])
	p.part, p.fragment = flags&0x3fff != 0, flags&0x1fff != 0
	p.l4 = b[ihl:min(len(b), total)]
	p.payload = total - ihl
	return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), nil
}

// maxExtensions bounds the extension headers that are walked over.
const maxExtensions = 8

func (p *packet) parse6(b []byte) (src, dst netip.Addr, err error) {
	if len(b) < header.IPv6MinimumSize {
		return src, dst, errPacket
	}
	src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	rest := int(binary.BigEndian.Uint16(b[4:]))
	next, body := b[6], b[40:min(len(b), 40+rest)]
	for range maxExtensions {
		size := 0
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options (RFC 8200)
			if len(body) < 8 {
				return src, dst, errPacket
			}
			size = 8 + int(body[1])*8
		case 44: // fragment
			if len(body) < 8 {
				return src, dst, errPacket
			}
			size, p.part = 8, true
			p.fragment = p.fragment || binary.BigEndian.Uint16(body[2:])&^7 != 0
		default:
			p.proto, p.l4, p.payload = next, body, rest
			return src, dst, nil
		}
		if size > len(body) {
			return src, dst, errPacket
		}
		next, body, rest = body[0], body[size:], rest-size
	}
	return src, dst, errPacket
}

// ports returns the ports where the protocol has them and they are there; an
// echo request has its identifier as the source's.
func (p *packet) ports() (src, dst uint16) {
	if p.echoRequest() {
		return binary.BigEndian.Uint16(p.l4[4:]), 0
	}
	if p.fragment || p.proto != protoTCP && p.proto != protoUDP || len(p.l4) < 4 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(p.l4), binary.BigEndian.Uint16(p.l4[2:])
}

// tcp returns the TCP header, nil where it is not whole.
func (p *packet) tcp() header.TCP {
	if p.fragment || p.proto != protoTCP || len(p.l4) < header.TCPMinimumSize {
		return nil
	}
	return header.TCP(p.l4)
}

// udpPayload returns what the UDP header says is the datagram's.
func (p *packet) udpPayload() ([]byte, error) {
	if len(p.l4) < header.UDPMinimumSize {
		return nil, errPacket
	}
	size := int(header.UDP(p.l4).Length())
	if size < header.UDPMinimumSize || size > len(p.l4) {
		return nil, errPacket
	}
	return p.l4[header.UDPMinimumSize:size], nil
}

// quiet packets are no attempt to reach anything, and get no answer: what the
// agent's kernel sends by itself about its neighbours and groups, and of a
// datagram whose socket is gone. Nobody inside can make one (kernel.md: raw
// sockets are the owner's of the network namespace).
func (p *packet) quiet() bool {
	if !p.dst.Addr().IsMulticast() {
		return p.unreachable()
	}
	return p.proto == protoIGMP || p.proto == protoICMPv6 && len(p.l4) > 0 && p.l4[0] >= 130
}

// unreachable is an ICMP message that tells of a packet not delivered.
func (p *packet) unreachable() bool {
	if p.part || len(p.l4) == 0 {
		return false
	}
	return p.proto == protoICMP && p.l4[0] == 3 || p.proto == protoICMPv6 && p.l4[0] == 1
}

// The types of echo messages (RFC 792, RFC 4443).
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	echoHeader               = 8 // type, code, checksum, identifier, sequence number
)

// echoRequest tells whether the packet is a whole one.
func (p *packet) echoRequest() bool {
	if p.part || len(p.l4) < echoHeader || p.l4[1] != 0 {
		return false
	}
	return p.proto == protoICMP && p.l4[0] == echoRequest4 || p.proto == protoICMPv6 && p.l4[0] == echoRequest6
}

// ipHeader writes an IP header for size octets of payload into a new packet.
func ipHeader(src, dst netip.Addr, proto uint8, size int) (all, body []byte) {
	if src.Is4() {
		all = make([]byte, header.IPv4MinimumSize+size)
		h := header.IPv4(all)
		h.Encode(&header.IPv4Fields{TotalLength: uint16(len(all)), TTL: 64, Protocol: proto,
			SrcAddr: toAddr(src), DstAddr: toAddr(dst)})
		h.SetChecksum(^h.CalculateChecksum())
		return all, all[header.IPv4MinimumSize:]
	}
	all = make([]byte, header.IPv6MinimumSize+size)
	header.IPv6(all).Encode(&header.IPv6Fields{PayloadLength: uint16(size), HopLimit: 64,
		TransportProtocol: tcpip.TransportProtocolNumber(proto), SrcAddr: toAddr(src), DstAddr: toAddr(dst)})
	return all, all[header.IPv6MinimumSize:]
}

// seal computes a transport checksum over body, whose own field is zero.
func seal(src, dst netip.Addr, proto uint8, body []byte) uint16 {
	sum := header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(proto), toAddr(src), toAddr(dst), uint16(len(body)))
	return ^checksum.Checksum(body, sum)
}

// tcpReset answers a TCP segment with a reset (RFC 9293 section 3.10.7.1); nil
// where none is due.
func tcpReset(p packet) []byte {
	t := p.tcp()
	if t == nil || t.Flags().Contains(header.TCPFlagRst) {
		return nil
	}
	f := header.TCPFields{SrcPort: p.dst.Port(), DstPort: p.src.Port(), DataOffset: header.TCPMinimumSize,
		Flags: header.TCPFlagRst}
	if t.Flags().Contains(header.TCPFlagAck) {
		f.SeqNum = t.AckNumber()
	} else {
		f.Flags |= header.TCPFlagAck
		f.AckNum = t.SequenceNumber() + uint32(max(0, p.payload-int(t.DataOffset())))
		for _, flag := range []header.TCPFlags{header.TCPFlagSyn, header.TCPFlagFin} {
			if t.Flags().Contains(flag) {
				f.AckNum++
			}
		}
	}
	src, dst := p.dst.Addr(), p.src.Addr()
	all, body := ipHeader(src, dst, protoTCP, header.TCPMinimumSize)
	header.TCP(body).Encode(&f)
	header.TCP(body).SetChecksum(seal(src, dst, protoTCP, body))
	return all
}

// The ICMP answers, each as type and code of ICMPv4 (RFC 1812 section
// 5.2.7.1) and ICMPv6 (RFC 4443 section 3.1). mtu is that of a packet too big.
type icmpCode struct {
	t4, c4, t6, c6 uint8
	mtu            uint32
}

var (
	adminProhibited = icmpCode{3, 13, 1, 1, 0}
	hostUnreachable = icmpCode{3, 1, 1, 3, 0}
	portUnreachable = icmpCode{3, 3, 1, 4, 0}
)

// Quoted octets: RFC 1812 section 4.3.2.3 and RFC 4443 section 2.4.
const (
	maxQuote4 = 576 - header.IPv4MinimumSize - 8
	maxQuote6 = 1280 - header.IPv6MinimumSize - 8
)

// icmpError answers a packet from the gateway, quoting it; nil where RFC 1122
// section 3.2.2 forbids an answer.
func icmpError(raw []byte, gw4, gw6 netip.Addr, code icmpCode) []byte {
	p, err := parsePacket(raw)
	if err != nil || p.fragment || p.dst.Addr().IsMulticast() || p.src.Addr().IsMulticast() || p.src.Addr().IsUnspecified() {
		return nil
	}
	dst := p.src.Addr()
	if dst.Is4() {
		if p.proto == protoICMP && (len(p.l4) == 0 || p.l4[0] != 8) {
			return nil // only an echo request
		}
		quote := raw[:min(len(raw), maxQuote4)]
		all, body := ipHeader(gw4, dst, protoICMP, 8+len(quote))
		body[0], body[1] = code.t4, code.c4
		binary.BigEndian.PutUint32(body[4:], code.mtu) // RFC 1191: its lower half
		copy(body[8:], quote)
		binary.BigEndian.PutUint16(body[2:], ^checksum.Checksum(body, 0))
		return all
	}
	if p.proto == protoICMPv6 && (len(p.l4) == 0 || p.l4[0] < 128) {
		return nil
	}
	quote := raw[:min(len(raw), maxQuote6)]
	all, body := ipHeader(gw6, dst, protoICMPv6, 8+len(quote))
	body[0], body[1] = code.t6, code.c6
	binary.BigEndian.PutUint32(body[4:], code.mtu)
	copy(body[8:], quote)
	binary.BigEndian.PutUint16(body[2:], seal(gw6, dst, protoICMPv6, body))
	return all
}

// echoReply is the reply to the agent's echo requests in an ICMP message of
// the outside, which has an identifier of the host's kernel; nil where it is
// none.
func echoReply(src, dst netip.Addr, identifier uint16, msg []byte) []byte {
	proto, reply := uint8(protoICMP), uint8(echoReply4)
	if dst.Is6() {
		proto, reply = protoICMPv6, echoReply6
	}
	if len(msg) < echoHeader || len(msg) > 0xffff-header.IPv4MinimumSize || msg[0] != reply || msg[1] != 0 {
		return nil
	}
	all, body := ipHeader(src, dst, proto, len(msg))
	copy(body, msg)
	binary.BigEndian.PutUint16(body[2:], 0)
	binary.BigEndian.PutUint16(body[4:], identifier)
	sum := ^checksum.Checksum(body, 0)
	if dst.Is6() {
		sum = seal(src, dst, proto, body)
	}
	binary.BigEndian.PutUint16(body[2:], sum)
	return all
}

// udpPacket is one datagram; nil where it would not fit an IP packet.
func udpPacket(src, dst netip.AddrPort, msg []byte) []byte {
	size := header.UDPMinimumSize + len(msg)
	if size > 0xffff-header.IPv4MinimumSize {
		return nil
	}
	all, body := ipHeader(src.Addr(), dst.Addr(), protoUDP, size)
	u := header.UDP(body)
	u.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(size)})
	copy(body[header.UDPMinimumSize:], msg)
	sum := seal(src.Addr(), dst.Addr(), protoUDP, body)
	if sum == 0 {
		sum = 0xffff // RFC 768: zero would mean none
	}
	u.SetChecksum(sum)
	return all
}
