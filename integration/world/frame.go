package world

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// parseFrame reads one Ethernet frame. Frames that the cable itself needs
// (ARP, neighbour and router discovery, multicast reports) are not ok.
func parseFrame(b []byte) (f Frame, ok bool) {
	if len(b) < 14 {
		return f, false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		return parseIPv4(b[14:])
	case 0x86dd:
		return parseIPv6(b[14:])
	case 0x0806, 0x88cc:
		return f, false
	}
	return Frame{Proto: fmt.Sprintf("ether-%x", b[12:14]), Payload: b[14:]}, true
}

func parseIPv4(b []byte) (f Frame, ok bool) {
	if len(b) < 20 {
		return f, false
	}
	head := int(b[0]&15) * 4
	if head < 20 || len(b) < head {
		return f, false
	}
	src, _ := netip.AddrFromSlice(b[12:16])
	dst, _ := netip.AddrFromSlice(b[16:20])
	body := b[head:]
	if total := int(binary.BigEndian.Uint16(b[2:])); total >= head && total-head < len(body) {
		body = body[:total-head] // Ethernet padding
	}
	return parseTransport(b[9], src, dst, body), true
}

func parseIPv6(b []byte) (f Frame, ok bool) {
	if len(b) < 40 {
		return f, false
	}
	src, _ := netip.AddrFromSlice(b[8:24])
	dst, _ := netip.AddrFromSlice(b[24:40])
	next, body := b[6], b[40:]
	for (next == 0 || next == 43 || next == 60) && len(body) >= 8 {
		n := int(body[1])*8 + 8
		if n > len(body) {
			break
		}
		next, body = body[0], body[n:]
	}
	if next == 58 && len(body) > 0 && (body[0] >= 130 && body[0] <= 137 || body[0] == 143) {
		return f, false
	}
	return parseTransport(next, src, dst, body), true
}

func parseTransport(proto byte, src, dst netip.Addr, b []byte) Frame {
	f := Frame{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), Payload: b}
	ports := func() {
		f.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
		f.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	}
	switch {
	case proto == 6 && len(b) >= 20:
		ports()
		f.Proto, f.Flags = "tcp", b[13]
		if head := int(b[12]>>4) * 4; head <= len(b) {
			f.Payload = b[head:]
		}
	case proto == 17 && len(b) >= 8:
		ports()
		f.Proto, f.Payload = "udp", b[8:]
	case proto == 1:
		f.Proto = "icmp"
	case proto == 58:
		f.Proto = "icmp6"
	default:
		f.Proto = fmt.Sprintf("ip-%d", proto)
	}
	return f
}
