package dnsfilter

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// localTTL is the TTL of answers that are our own.
const localTTL = 60 * time.Second

// fixedName answers the names that no rule is asked about: they lead nowhere
// but to the sandbox itself. A reason without data is a structural denial:
// names that must never be asked of an upstream resolver.
func (f *Filter) fixedName(a *ask) (d *data, why string) {
	loop4, loop6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	switch {
	case below(a.name, "localhost"): // RFC 6761, 6.3
		return f.ownAddrs(a.qtype, loop4, loop6), "localhost"
	case a.name == GatewayName:
		return f.ownAddrs(a.qtype, f.cfg.Gateway4, f.cfg.Gateway6), "the session's gateway"
	case a.name == HostName:
		return nil, ""
	case below(a.name, ownZone):
		return nil, "no such name of the session"
	case below(a.name, "local"):
		return nil, "multicast DNS names are not forwarded"
	case below(a.name, "onion"): // RFC 7686
		return nil, "onion names are not forwarded"
	}
	if a.qtype != dns.TypePTR {
		return nil, ""
	}
	switch addr, ok := reverse(a.name); {
	case !ok:
	case addr == loop4 || addr == loop6:
		return f.own(ptr(a, "localhost")), "localhost"
	case addr == f.cfg.Gateway4 || addr == f.cfg.Gateway6:
		return f.own(ptr(a, GatewayName)), "the session's gateway"
	}
	return nil, ""
}

// pinnedPTR answers PTR of an address that has a live pin.
func (f *Filter) pinnedPTR(a *ask) *data {
	if a.qtype != dns.TypePTR {
		return nil
	}
	addr, ok := reverse(a.name)
	if !ok {
		return nil
	}
	var rrs []dns.RR
	for _, c := range f.cfg.Pins.Candidates(addr) {
		if len(rrs) == MaxChain {
			break
		}
		rrs = append(rrs, ptr(a, c.Name))
	}
	if len(rrs) == 0 {
		return nil
	}
	return f.own(rrs...)
}

// hostEntry answers what the host itself knows: its loopback services and its
// hosts file. Such a name is not asked upstream for any type.
func (f *Filter) hostEntry(a *ask) *data {
	if a.name == HostName {
		return f.ownAddrs(a.qtype, f.cfg.Host4, f.cfg.Host6)
	}
	if addrs := f.cfg.Hosts(a.name); len(addrs) > 0 {
		return f.ownAddrs(a.qtype, addrs...)
	}
	return nil
}

// own wraps records of ours; none is NODATA.
func (f *Filter) own(rrs ...dns.RR) *data {
	return &data{rrs: rrs, ttl: localTTL, born: f.clock()}
}

func (f *Filter) ownAddrs(qtype uint16, addrs ...netip.Addr) *data {
	var rrs []dns.RR
	for _, addr := range addrs {
		switch addr = addr.Unmap(); {
		case qtype == typeA && addr.Is4():
			rrs = append(rrs, &dns.A{Hdr: header(qtype), A: net.IP(addr.AsSlice())})
		case qtype == typeAAAA && addr.Is6():
			rrs = append(rrs, &dns.AAAA{Hdr: header(qtype), AAAA: net.IP(addr.AsSlice())})
		}
	}
	return f.own(rrs...)
}

func ptr(a *ask, name string) dns.RR {
	return &dns.PTR{Hdr: header(a.qtype), Ptr: dns.Fqdn(name)}
}

// header has no name yet; answers get the one that was asked.
func header(t uint16) dns.RR_Header {
	return dns.RR_Header{Rrtype: t, Class: dns.ClassINET}
}

// reverse reads the address of an in-addr.arpa or ip6.arpa name in its exact
// form (RFC 1035, 3.5; RFC 3596, 2.5).
func reverse(name string) (netip.Addr, bool) {
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		return reverse4(strings.Split(s, "."))
	}
	if s, ok := strings.CutSuffix(name, ".ip6.arpa"); ok {
		return reverse6(strings.Split(s, "."))
	}
	return netip.Addr{}, false
}

func reverse4(labels []string) (netip.Addr, bool) {
	var b [4]byte
	if len(labels) != len(b) {
		return netip.Addr{}, false
	}
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 10, 8)
		if err != nil || strconv.FormatUint(n, 10) != l {
			return netip.Addr{}, false
		}
		b[3-i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}

func reverse6(labels []string) (netip.Addr, bool) {
	var b [16]byte
	if len(labels) != 2*len(b) {
		return netip.Addr{}, false
	}
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 16, 4)
		if err != nil || len(l) != 1 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b).Unmap(), true
}
