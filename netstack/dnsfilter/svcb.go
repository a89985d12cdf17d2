package dnsfilter

import (
	"net"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// cleanService returns an HTTPS or SVCB record (RFC 9460) without what would
// lead around the judged path, or nil if nothing useful is left. owner is the
// name at the end of the CNAME chain, shown the name that the client asked
// for.
//
//   - AliasMode, and a TargetName other than the name itself, name a host that
//     nobody judged: gone.
//   - ech would hide the name in the ClientHello, port another port than the
//     one that rules speak of: removed, also from the mandatory list.
//   - hints are addresses: kept only where they are pinned to the name.
//   - what we do not know is removed, and a record that says it is mandatory
//     is of no use then.
func cleanService(rr dns.RR, owner, shown string, pinned func(netip.Addr) bool) dns.RR {
	rr = dns.Copy(rr)
	var s *dns.SVCB
	switch x := rr.(type) {
	case *dns.HTTPS:
		s = &x.SVCB
	case *dns.SVCB:
		s = x
	default:
		return nil
	}
	if s.Priority == 0 || s.Target != "." && !sameName(s.Target, owner) && !sameName(s.Target, shown) {
		return nil
	}
	s.Target = "."
	var kept []dns.SVCBKeyValue
	for _, kv := range s.Value {
		if kv = cleanParam(kv, pinned); kv != nil {
			kept = append(kept, kv)
		}
	}
	has := func(k dns.SVCBKey) bool {
		return slices.ContainsFunc(kept, func(kv dns.SVCBKeyValue) bool { return kv.Key() == k })
	}
	if !has(dns.SVCB_ALPN) {
		kept = slices.DeleteFunc(kept, func(kv dns.SVCBKeyValue) bool { return kv.Key() == dns.SVCB_NO_DEFAULT_ALPN })
	}
	if !cleanMandatory(&kept, has) {
		return nil
	}
	s.Value = kept
	return rr
}

// cleanParam returns what is kept of one parameter, or nil.
func cleanParam(kv dns.SVCBKeyValue, pinned func(netip.Addr) bool) dns.SVCBKeyValue {
	switch p := kv.(type) {
	case *dns.SVCBMandatory, *dns.SVCBAlpn, *dns.SVCBNoDefaultAlpn:
		return kv
	case *dns.SVCBIPv4Hint:
		p.Hint = slices.DeleteFunc(p.Hint, func(ip net.IP) bool { return !ipPinned(ip, pinned) })
		if len(p.Hint) == 0 {
			return nil
		}
		return p
	case *dns.SVCBIPv6Hint:
		p.Hint = slices.DeleteFunc(p.Hint, func(ip net.IP) bool { return !ipPinned(ip, pinned) })
		if len(p.Hint) == 0 {
			return nil
		}
		return p
	}
	return nil
}

func ipPinned(ip net.IP, pinned func(netip.Addr) bool) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && pinned(a.Unmap())
}

// cleanMandatory takes what we removed from the mandatory list. It returns
// false where the list names a key that the record needs and no longer has.
func cleanMandatory(kept *[]dns.SVCBKeyValue, has func(dns.SVCBKey) bool) bool {
	for i, kv := range *kept {
		m, ok := kv.(*dns.SVCBMandatory)
		if !ok {
			continue
		}
		var code []dns.SVCBKey
		for _, k := range m.Code {
			switch k {
			case dns.SVCB_ECHCONFIG, dns.SVCB_PORT, dns.SVCB_IPV4HINT, dns.SVCB_IPV6HINT:
				if has(k) {
					code = append(code, k)
				}
			default:
				if !has(k) || k == dns.SVCB_MANDATORY {
					return false
				}
				code = append(code, k)
			}
		}
		if m.Code = code; len(code) == 0 {
			*kept = slices.Delete(*kept, i, i+1)
		}
		return true
	}
	return true
}
