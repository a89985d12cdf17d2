package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

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

// A translation is a block of IPv6 addresses in each of which an IPv4 address
// stands, and is where packets end.
type translation struct {
	prefix netip.Prefix
	at     int // the bit at which the IPv4 address begins
}

// translations are the blocks that mean the same everywhere.
var translations = []translation{
	{netip.MustParsePrefix("64:ff9b::/96"), 96}, // RFC 6052
	{netip.MustParsePrefix("2002::/16"), 16},    // 6to4, RFC 3056
}

// translations are those, and the NAT64 prefixes of this network.
func (h *Host) translations() []translation {
	if h == nil || len(h.NAT64) == 0 {
		return translations
	}
	out := slices.Clone(translations)
	for _, p := range h.NAT64 {
		out = append(out, translation{p.Masked(), p.Bits()})
	}
	return out
}

// isatap is how the last 64 bits of an ISATAP address begin, the bit that says
// whether the IPv4 address is unique left out (RFC 5214 section 6.1).
const isatap = 0x00005efe

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
	embedded(a, h, func(v4 netip.Addr, within func(netip.Prefix) netip.Prefix) {
		eachRange(v4, h, func(r rangeClass) {
			take(rangeClass{within(r.prefix), r.class, r.why + ", embedded in an IPv6 address"})
		})
	})
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

// embedded calls take with each IPv4 address that an IPv6 address leads to, and
// with how a block of such addresses looks in IPv6.
func embedded(a netip.Addr, h *Host, take func(v4 netip.Addr, within func(netip.Prefix) netip.Prefix)) {
	if !a.Is6() {
		return
	}
	b := a.As16()
	for _, t := range h.translations() {
		if t.prefix.Contains(a) {
			take(t.extract(b), t.within)
		}
	}
	if id := binary.BigEndian.Uint32(b[8:]); id&^0x02000000 == isatap {
		take(netip.AddrFrom4([4]byte(b[12:])), func(p netip.Prefix) netip.Prefix {
			out, v4 := b, p.Addr().As4()
			copy(out[12:], v4[:])
			return netip.PrefixFrom(netip.AddrFrom16(out), 96+p.Bits())
		})
	}
}

// bit is where bit i of the IPv4 address stands: bits 64 to 71 of a NAT64
// address are left out (RFC 6052 section 2.2).
func (t translation) bit(i int) int {
	if n := t.at + i; n < 64 || t.at == 96 {
		return n
	}
	return t.at + i + 8
}

func (t translation) extract(b [16]byte) netip.Addr {
	var v4 [4]byte
	for i := range 4 {
		v4[i] = b[t.bit(8*i)/8] // prefixes end at whole octets
	}
	return netip.AddrFrom4(v4)
}

func (t translation) within(p netip.Prefix) netip.Prefix {
	out, v4 := t.prefix.Addr().As16(), p.Addr().As4()
	for i, o := range v4 {
		out[t.bit(8*i)/8] = o
	}
	bits := t.at
	if p.Bits() > 0 {
		bits = t.bit(p.Bits()-1) + 1
	}
	return netip.PrefixFrom(netip.AddrFrom16(out), bits)
}

// inside reports whether p lies wholly inside q.
func inside(p, q netip.Prefix) bool {
	return q.IsValid() && p.Bits() >= q.Bits() && q.Contains(p.Addr())
}
