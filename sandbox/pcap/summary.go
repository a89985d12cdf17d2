package pcap

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"outcall/policy/escape"
)

// lengths of the fixed parts of headers.
const (
	etherLen = 14
	ipv4Len  = 20
	ipv6Len  = 40
	tcpLen   = 20
	udpLen   = 8
)

// short is what stands for a header that is not all there.
const short = "[cut short]"

// Summary describes a frame in one line, without its newline: time, network
// protocol, source > destination, and what the transport says.
func Summary(f Frame) string {
	return f.Time.Local().Format("15:04:05.000000") + " " + ether(f.Data)
}

func ether(b []byte) string {
	if len(b) < etherLen {
		return "Ethernet " + short
	}
	switch typ := binary.BigEndian.Uint16(b[12:]); typ {
	case unix.ETH_P_IP:
		return ipv4(b[etherLen:])
	case unix.ETH_P_IPV6:
		return ipv6(b[etherLen:])
	case unix.ETH_P_ARP:
		return fmt.Sprintf("ARP, length %d", len(b)-etherLen)
	default:
		return fmt.Sprintf("ethertype 0x%04x, length %d", typ, len(b)-etherLen)
	}
}

func ipv4(b []byte) string {
	if len(b) < ipv4Len || int(b[0]&15)*4 < ipv4Len || int(b[0]&15)*4 > len(b) {
		return "IP " + short
	}
	src, _ := netip.AddrFromSlice(b[12:16])
	dst, _ := netip.AddrFromSlice(b[16:20])
	total, head := int(binary.BigEndian.Uint16(b[2:])), int(b[0]&15)*4
	if offset := binary.BigEndian.Uint16(b[6:]) & 0x1fff; offset != 0 {
		return fmt.Sprintf("IP %s > %s: fragment at %d of protocol %d", src, dst, int(offset)*8, b[9])
	}
	return "IP " + transport(src, dst, b[9], b[head:], total-head)
}

func ipv6(b []byte) string {
	if len(b) < ipv6Len {
		return "IP6 " + short
	}
	src, _ := netip.AddrFromSlice(b[8:24])
	dst, _ := netip.AddrFromSlice(b[24:40])
	return "IP6 " + transport(src, dst, b[6], b[ipv6Len:], int(binary.BigEndian.Uint16(b[4:])))
}

// transport describes the payload b of an IP packet; size is what the IP
// header says of its length.
func transport(src, dst netip.Addr, proto byte, b []byte, size int) string {
	switch {
	case proto == unix.IPPROTO_TCP && len(b) >= tcpLen:
		return endpoints(src, dst, b) + ": " + tcp(b, size)
	case proto == unix.IPPROTO_UDP && len(b) >= udpLen:
		return endpoints(src, dst, b) + ": " + udp(b, size)
	case (proto == unix.IPPROTO_ICMP || proto == unix.IPPROTO_ICMPV6) && len(b) >= 2:
		return fmt.Sprintf("%s > %s: %s, length %d", src, dst, icmp(proto, b[0], b[1]), size)
	case proto == unix.IPPROTO_TCP, proto == unix.IPPROTO_UDP, proto == unix.IPPROTO_ICMP, proto == unix.IPPROTO_ICMPV6:
		return fmt.Sprintf("%s > %s: protocol %d %s", src, dst, proto, short)
	}
	return fmt.Sprintf("%s > %s: protocol %d, length %d", src, dst, proto, size)
}

func endpoints(src, dst netip.Addr, b []byte) string {
	return fmt.Sprintf("%s.%d > %s.%d", src, binary.BigEndian.Uint16(b), dst, binary.BigEndian.Uint16(b[2:]))
}

func tcp(b []byte, size int) string {
	flags := ""
	for i, c := range []byte("FSRP.UEW") {
		if b[13]&(1<<i) != 0 {
			flags += string(c)
		}
	}
	text := "Flags [" + flags + "], seq " + strconv.FormatUint(uint64(binary.BigEndian.Uint32(b[4:])), 10)
	if b[13]&0x10 != 0 {
		text += ", ack " + strconv.FormatUint(uint64(binary.BigEndian.Uint32(b[8:])), 10)
	}
	return text + fmt.Sprintf(", win %d, length %d", binary.BigEndian.Uint16(b[14:]), max(size-int(b[12]>>4)*4, 0))
}

const portDNS = 53

func udp(b []byte, size int) string {
	text := fmt.Sprintf("UDP, length %d", max(size-udpLen, 0))
	if binary.BigEndian.Uint16(b) != portDNS && binary.BigEndian.Uint16(b[2:]) != portDNS {
		return text
	}
	var p dnsmessage.Parser
	h, err := p.Start(b[udpLen:])
	if err != nil {
		return text
	}
	q, err := p.Question()
	if err != nil {
		return text
	}
	// The type prints as TypeA; tcpdump and dig say A.
	ask := strings.TrimPrefix(q.Type.String(), "Type") + "? " + escape.Text(q.Name.String())
	if h.Response {
		rcode := strings.TrimPrefix(h.RCode.String(), "RCode")
		if h.RCode == dnsmessage.RCodeNameError {
			rcode = "NXDomain" // as tcpdump has it
		}
		return text + ", " + ask + " " + rcode
	}
	return text + ", " + ask
}

func icmp(proto, typ, code byte) string {
	type key struct{ proto, typ byte }
	name, ok := map[key]string{
		{unix.IPPROTO_ICMP, 0}: "ICMP echo reply", {unix.IPPROTO_ICMP, 3}: "ICMP unreachable", {unix.IPPROTO_ICMP, 8}: "ICMP echo request",
		{unix.IPPROTO_ICMP, 11}:    "ICMP time exceeded",
		{unix.IPPROTO_ICMPV6, 1}:   "ICMP6 unreachable",
		{unix.IPPROTO_ICMPV6, 2}:   "ICMP6 packet too big",
		{unix.IPPROTO_ICMPV6, 3}:   "ICMP6 time exceeded",
		{unix.IPPROTO_ICMPV6, 128}: "ICMP6 echo request", {unix.IPPROTO_ICMPV6, 129}: "ICMP6 echo reply",
		{unix.IPPROTO_ICMPV6, 135}: "ICMP6 neighbor solicitation", {unix.IPPROTO_ICMPV6, 136}: "ICMP6 neighbor advertisement",
	}[key{proto, typ}]
	if !ok {
		return fmt.Sprintf("ICMP type %d code %d", typ, code)
	}
	if strings.HasSuffix(name, "unreachable") {
		return fmt.Sprintf("%s code %d", name, code)
	}
	return name
}
