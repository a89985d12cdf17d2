package pin

import (
	"cmp"
	"net/netip"
	"slices"

	"outcall/policy"
)

// The kernel's maps know one verdict for an (address, protocol, port), and an
// interval map refuses elements that overlap. So the cells of all names of an
// address are merged here into one disjoint set; the name that was pinned
// first owns what several need.

// plan compares what the kernel holds for one address with what its names
// want. Elements that are still wanted whole, by the rule that they count
// for, stay untouched: changing them would drop packets of live flows.
func plan(have, want []policy.Cell) (keep, del, add []policy.Cell) {
	for _, h := range have {
		if len(subtract(h, want)) == 0 && slices.ContainsFunc(want, func(w policy.Cell) bool {
			return w.Rule == h.Rule && overlap(w, h)
		}) {
			keep = append(keep, h)
		} else {
			del = append(del, h)
		}
	}
	for _, w := range want {
		add = append(add, subtract(w, keep, add)...)
	}
	return keep, del, add
}

func overlap(a, b policy.Cell) bool {
	return a.Prefix == b.Prefix && a.Proto == b.Proto && a.PortLow <= b.PortHigh && b.PortLow <= a.PortHigh
}

// subtract returns the parts of c that no cell of the sets covers.
func subtract(c policy.Cell, sets ...[]policy.Cell) []policy.Cell {
	rest := []policy.Cell{c}
	for _, set := range sets {
		for _, s := range set {
			if !overlap(c, s) {
				continue
			}
			var next []policy.Cell
			for _, r := range rest {
				next = cut(next, r, s)
			}
			if rest = next; len(rest) == 0 {
				return nil
			}
		}
	}
	return rest
}

// cut appends what remains of r without s.
func cut(out []policy.Cell, r, s policy.Cell) []policy.Cell {
	if !overlap(r, s) {
		return append(out, r)
	}
	if r.PortLow < s.PortLow {
		left := r
		left.PortHigh = s.PortLow - 1
		out = append(out, left)
	}
	if r.PortHigh > s.PortHigh {
		right := r
		right.PortLow = s.PortHigh + 1
		out = append(out, right)
	}
	return out
}

// sameRange reports whether two cells are one element of the kernel's map,
// whatever rule they count for.
func sameRange(a, b policy.Cell) bool {
	b.Rule = a.Rule
	return a == b
}

// want lists the cells that the entries of one address need, the oldest pin
// first.
func want(entries []*entry) []policy.Cell {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, oldestFirst)
	var cells []policy.Cell
	for _, e := range entries {
		single := netip.PrefixFrom(e.addr, e.addr.BitLen())
		for _, c := range e.cells {
			// A pin opens its own address and nothing else, whatever a rule says.
			c.Prefix = single
			cells = append(cells, c)
		}
	}
	return cells
}

func oldestFirst(a, b *entry) int { return cmp.Compare(a.born, b.born) }
