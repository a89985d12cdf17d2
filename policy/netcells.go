package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// NetCells derives the cells of the interval maps: every literal address and
// CIDR in a rule, and all addresses where a rule can be a true allow with
// neither. The result is disjoint: the first rule in order owns a cell.
//
// The address space is cut at every literal of the rules and every special
// range, so that one address stands for the rest of its region.
func (s *Snapshot) NetCells(who Who, h *Host) []Cell {
	if s == nil || len(s.rules) == 0 {
		return nil
	}
	p := newProbe(who, "", nil)
	var out []Cell
	for _, reg := range regions(s.rules, h) {
		addr, ok := firstOutside(reg.prefix, reg.holes)
		if !ok || classRange(addr, h).class == Never {
			continue
		}
		p.at(addr)
		if cells := p.cells(s, addr, h); len(cells) > 0 { // most regions have none
			out = append(out, spread(cells, subtract(reg.prefix, reg.holes))...)
		}
	}
	return out
}

// A region is a prefix without those cut out of it.
type region struct {
	prefix netip.Prefix
	holes  []netip.Prefix // direct children
}

// regions cuts both address families at all prefixes that matter. Prefixes
// are nested or disjoint, so they form a tree.
func regions(rules []*Rule, h *Host) []*region {
	cuts := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	for _, r := range rules {
		cuts = append(cuts, r.c.ip.lits...)
	}
	special := specialPrefixes(h)
	for _, p := range special {
		cuts = append(cuts, p)
		if p.Addr().Is4() {
			for _, t := range h.translations() {
				cuts = append(cuts, t.within(p))
			}
		}
	}
	slices.SortFunc(cuts, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return cmp.Compare(a.Bits(), b.Bits())
	})
	cuts = slices.Compact(cuts)
	var out, stack []*region
	for _, p := range cuts {
		for len(stack) > 0 && !inside(p, stack[len(stack)-1].prefix) {
			stack = stack[:len(stack)-1]
		}
		g := &region{prefix: p}
		if n := len(stack); n > 0 {
			stack[n-1].holes = append(stack[n-1].holes, p)
		}
		stack = append(stack, g)
		out = append(out, g)
	}
	return out
}

// specialPrefixes lists every block that changes the class of an address.
func specialPrefixes(h *Host) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range h.translations() {
		out = append(out, t.prefix)
	}
	for _, r := range classes {
		out = append(out, r.prefix)
	}
	for a := range exempt {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	if h == nil {
		return out
	}
	for _, a := range h.Addrs {
		a = a.Unmap().WithZone("")
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	for _, list := range [][]netip.Prefix{h.OnLink, h.Session, h.Synthetic} {
		for _, p := range list {
			out = append(out, p.Masked())
		}
	}
	return out
}

// subtract returns p without the holes (which lie inside p, disjoint), as
// prefixes in order.
func subtract(p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	if len(holes) == 0 {
		return []netip.Prefix{p}
	}
	if holes[0] == p {
		return nil
	}
	low, high, n := halves(p, holes)
	return append(subtract(low, holes[:n]), subtract(high, holes[n:])...)
}

// firstOutside returns the first address of subtract(p, holes).
func firstOutside(p netip.Prefix, holes []netip.Prefix) (addr netip.Addr, ok bool) {
	if len(holes) == 0 {
		return p.Addr(), true
	}
	if holes[0] == p {
		return netip.Addr{}, false
	}
	low, high, n := halves(p, holes)
	if addr, ok = firstOutside(low, holes[:n]); ok {
		return addr, true
	}
	return firstOutside(high, holes[n:])
}

// halves cuts a prefix in two; the first n holes, which are in order, lie in
// the lower half.
func halves(p netip.Prefix, holes []netip.Prefix) (low, high netip.Prefix, n int) {
	low = netip.PrefixFrom(p.Addr(), p.Bits()+1)
	high = netip.PrefixFrom(upperHalf(p), p.Bits()+1)
	for n < len(holes) && low.Contains(holes[n].Addr()) {
		n++
	}
	return low, high, n
}

// upperHalf returns the first address of the upper half of a prefix.
func upperHalf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(b)
	return a
}
