package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// The examples of RFC 6052 section 2.4, for 192.0.2.33.
var rfc6052 = map[string]string{
	"2001:db8::/32":             "2001:db8:c000:221::",
	"2001:db8:100::/40":         "2001:db8:1c0:2:21::",
	"2001:db8:122::/48":         "2001:db8:122:c000:2:2100::",
	"2001:db8:122:300::/56":     "2001:db8:122:3c0:0:221::",
	"2001:db8:122:344::/64":     "2001:db8:122:344:c0:2:2100:0",
	"2001:db8:122:344::/96":     "2001:db8:122:344::192.0.2.33",
	"2001:db8:122:344:0:9::/96": "2001:db8:122:344:0:9:192.0.2.33",
}

func TestTranslationLayouts(t *testing.T) {
	want := netip.MustParseAddr("192.0.2.33")
	for prefix, addr := range rfc6052 {
		p, a := netip.MustParsePrefix(prefix), netip.MustParseAddr(addr)
		h := &Host{NAT64: []netip.Prefix{p}}
		n := 0
		embedded(a, h, func(v4 netip.Addr, within func(netip.Prefix) netip.Prefix) {
			n++
			if v4 != want {
				t.Errorf("%s in %s: %s", addr, prefix, v4)
			}
			for bits := range 33 {
				if q := within(netip.PrefixFrom(want, bits).Masked()); !q.Contains(a) || q != q.Masked() || q.Bits() < p.Bits()+bits {
					t.Errorf("/%d in %s: %s does not hold %s", bits, prefix, q, addr)
				}
			}
		})
		if n != 1 {
			t.Errorf("%s: %d addresses in it", addr, n)
		}
	}
}

// Whatever prefix this network's NAT64 has, what lies behind it has the class
// of the IPv4 address; so has what an ISATAP address leads to.
func TestClassifyEmbedded(t *testing.T) {
	h := &Host{
		Addrs: []netip.Addr{netip.MustParseAddr("5.6.7.8")},
		NAT64: []netip.Prefix{netip.MustParsePrefix("2a00:64::/96"), netip.MustParsePrefix("2a00:48:1::/48")},
	}
	for addr, want := range map[string]Class{
		"2a00:64::7f00:1": Restricted, "2a00:64::a9fe:a9fe": Restricted, "2a00:64::a00:1": Private, "2a00:64::506:708": Restricted,
		"2a00:64::808:808": Global, "2a00:64:0:0:0:1:7f00:1": Global,
		"2a00:48:1:7f00:0:100::": Restricted, "2a00:48:1:7f00:ff00:100::": Restricted, // bits 64 to 71 are not the address
		"2a00:48:1:808:8:800::": Global, "2a00:48:2:7f00:0:100::": Global,
		"2a00:1::5efe:7f00:1": Restricted, "2a00:1::200:5efe:a00:1": Private, "2a00:1::5efe:808:808": Global,
		"2a00:1::5eff:7f00:1": Global, "fe80::5efe:808:808": Restricted,
	} {
		if c, why := Classify(netip.MustParseAddr(addr), h); c != want {
			t.Errorf("%s: class %d (%s), want %d", addr, c, why, want)
		}
	}
}

// A rule on a network of IPv6 opens nothing that is restricted behind a NAT64,
// and the kernel's share keeps passing all that Step allows there.
func TestNAT64IsNoWayIn(t *testing.T) {
	h := &Host{NAT64: []netip.Prefix{netip.MustParsePrefix("2a00:64::/96"), netip.MustParsePrefix("2a00:56:1:200::/56")}}
	s := rules(t, `allow cidr("2a00::/16").contains(network.ip) && network.port == 80`,
		`allow network.ip == "2a00:64::7f00:1" && network.port == 90`)
	cells := s.NetCells(Who{}, h)
	passes := func(a netip.Addr, port uint16) bool {
		for _, c := range cells {
			if c.Prefix.Contains(a) && c.Proto == TCP && c.PortLow <= port && port <= c.PortHigh {
				return true
			}
		}
		return false
	}
	word := func(a netip.Addr, port uint16) Word {
		return s.Flow(flowFacts(a.String(), port, TCP), a, nil, h).Word
	}
	loop := netip.MustParseAddr("2a00:64::7f00:1")
	if w := word(loop, 80); w != Deny || passes(loop, 80) {
		t.Errorf("loopback behind NAT64 by a wide rule: %s, passes %v", w, passes(loop, 80))
	}
	if w := word(loop, 90); w != Allow || !passes(loop, 90) {
		t.Errorf("by its literal: %s, passes %v", w, passes(loop, 90))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		v4 := [4]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}
		if r.IntN(2) == 0 {
			v4[0] = []byte{10, 127, 169, 172, 192, 100}[r.IntN(6)]
		}
		for _, tr := range h.translations()[2:] {
			a := tr.within(netip.PrefixFrom(netip.AddrFrom4(v4), 32)).Addr()
			if w := word(a, 80); w != Deny && !passes(a, 80) {
				t.Fatalf("%s is %s and the kernel stops it", a, w)
			}
		}
	}
}
