package policy

import "net/netip"

// A rangeClass is one block of addresses that is not simply public.
type rangeClass struct {
	prefix netip.Prefix
	class  Class
	why    string
}

// classes lists the blocks of the IANA special-purpose registries (RFC 6890
// and its updates) and the clouds' metadata services. The strictest class of
// all that hold an address counts.
var classes = func() []rangeClass {
	var out []rangeClass
	add := func(c Class, why string, prefixes ...string) {
		for _, p := range prefixes {
			out = append(out, rangeClass{netip.MustParsePrefix(p), c, why})
		}
	}
	add(Never, "the unspecified address or this network (RFC 791)", "0.0.0.0/8", "::/128")
	add(Never, "a multicast address", "224.0.0.0/4", "ff00::/8")
	add(Never, "a reserved or broadcast address (RFC 1112)", "240.0.0.0/4")
	add(Never, "an IPv4-compatible address (RFC 4291)", "::/96")
	add(Restricted, "a loopback address", "127.0.0.0/8", "::1/128")
	add(Restricted, "a link-local address", "169.254.0.0/16", "fe80::/10")
	add(Restricted, "a cloud's metadata service", "169.254.169.254/32", "100.100.100.200/32",
		"168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd20:ce::254/128")
	add(Private, "a private address (RFC 1918)", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
	add(Private, "a shared address of a provider's NAT (RFC 6598)", "100.64.0.0/10")
	add(Private, "a unique local address (RFC 4193)", "fc00::/7")
	add(Private, "a site-local address (RFC 3879)", "fec0::/10")
	add(Private, "an address of IETF protocols (RFC 6890)", "192.0.0.0/24", "2001::/32", "2001:10::/28", "192.88.99.0/24")
	add(Private, "an address for documentation", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",
		"2001:db8::/32", "3fff::/20")
	add(Private, "an address for benchmarks (RFC 2544)", "198.18.0.0/15", "2001:2::/48")
	add(Private, "a discard-only, local NAT64 or segment-routing address", "100::/64", "64:ff9b:1::/48", "5f00::/16")
	return out
}()

// exempt are single addresses that the block around them does not describe:
// anycast addresses (RFC 7723, 8155), and IPv6 loopback in the old
// IPv4-compatible block.
var exempt = map[netip.Addr]string{
	netip.MustParseAddr("192.0.0.9"):  "192.0.0.0/24",
	netip.MustParseAddr("192.0.0.10"): "192.0.0.0/24",
	netip.IPv6Loopback():              "::/96",
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: the IPv4 address is in the last 32 bits
	sixto4 = netip.MustParsePrefix("2002::/16")    // RFC 3056: the IPv4 address is in bits 16 to 47
)

// Classify says who may be let to an address (see Class), and why. An invalid
// address is Never. h may be nil.
func Classify(a netip.Addr, h *Host) (Class, string) {
	r := classRange(a, h)
	return r.class, r.why
}

// classRange returns the block that gives an address its class: the strictest
// one, the smallest of those.
func classRange(a netip.Addr, h *Host) rangeClass {
	if !a.IsValid() {
		return rangeClass{class: Never, why: "no address"}
	}
	best := rangeClass{class: Global}
	eachRange(a, h, func(r rangeClass) {
		if r.class > best.class || r.class == best.class && r.prefix.Bits() > best.prefix.Bits() {
			best = r
		}
	})
	return best
}

// eachRange calls take for every special block that holds the address.
func eachRange(a netip.Addr, h *Host, take func(rangeClass)) {
	a = a.Unmap().WithZone("")
	if h != nil {
		for _, p := range h.Synthetic {
			if p.Contains(a) {
				return
			}
		}
		h.ranges(a, take)
	}
	for _, r := range classes {
		if r.prefix.Contains(a) && exempt[a] != r.prefix.String() {
			take(r)
		}
	}
	if v4, within := embedded(a); v4.IsValid() {
		eachRange(v4, h, func(r rangeClass) {
			take(rangeClass{within(r.prefix), r.class, r.why + ", embedded in an IPv6 address"})
		})
	}
}

// ranges offers the host's own blocks.
func (h *Host) ranges(a netip.Addr, take func(rangeClass)) {
	for _, p := range h.Session {
		if p.Contains(a) {
			take(rangeClass{p.Masked(), Never, "an address of the session itself"})
		}
	}
	for _, own := range h.Addrs {
		own = own.Unmap().WithZone("")
		if own == a {
			take(rangeClass{netip.PrefixFrom(own, own.BitLen()), Restricted, "an address of this machine"})
		}
	}
	for _, p := range h.OnLink {
		if p.Contains(a) {
			take(rangeClass{p.Masked(), Private, "an address of a network that this machine stands in"})
		}
	}
}

// embedded returns the IPv4 address that a NAT64 or 6to4 address leads to,
// and how a block of such addresses looks in IPv6.
func embedded(a netip.Addr) (netip.Addr, func(netip.Prefix) netip.Prefix) {
	if !a.Is6() {
		return netip.Addr{}, nil
	}
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), func(p netip.Prefix) netip.Prefix {
			out, v4 := nat64.Addr().As16(), p.Addr().As4()
			copy(out[12:], v4[:])
			return netip.PrefixFrom(netip.AddrFrom16(out), 96+p.Bits())
		}
	case sixto4.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), func(p netip.Prefix) netip.Prefix {
			out, v4 := sixto4.Addr().As16(), p.Addr().As4()
			copy(out[2:], v4[:])
			return netip.PrefixFrom(netip.AddrFrom16(out), 16+p.Bits())
		}
	}
	return netip.Addr{}, nil
}

// inside reports whether p lies wholly inside q.
func inside(p, q netip.Prefix) bool {
	return q.IsValid() && p.Bits() >= q.Bits() && q.Contains(p.Addr())
}
