package nft

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"outcall/policy"
)

// A spot is one address with one protocol: the unit in which pins are laid
// out into elements, since only there can port ranges overlap.
type spot struct {
	addr  netip.Addr
	proto uint8
}

// A span is one pinned cell at a spot.
type span struct {
	lo, hi uint16
	rule   string
}

// all says whether the span is every port; port 0 is no one's.
func (p span) all() bool { return p.lo <= 1 && p.hi == 65535 }

// wanted is what the callers asked for, apart from what the kernel has.
type wanted struct {
	pins map[spot][]span    // in the order in which they came: the first owns
	nets map[element]string // disjoint
	n    int                // spans
}

func newWanted() wanted {
	return wanted{pins: map[spot][]span{}, nets: map[element]string{}}
}

// all returns every spot that is wanted.
func (w *wanted) all() []spot {
	out := make([]spot, 0, len(w.pins))
	for s := range w.pins {
		out = append(out, s)
	}
	return out
}

// A pin is a cell of a single address, checked.
type pin struct {
	at spot
	span
}

// pinsOf checks cells of single addresses.
func pinsOf(cells []policy.Cell) ([]pin, error) {
	out := make([]pin, 0, len(cells))
	for _, c := range cells {
		six, ok := sixOf(c.Prefix.Addr())
		if !ok || !c.Prefix.IsSingleIP() {
			return nil, fmt.Errorf("nft: a pin of %s, which is no single address", c.Prefix)
		}
		p, err := portsOf(c, six)
		if err != nil {
			return nil, err
		}
		if err := checkRule(c.Rule); err != nil {
			return nil, err
		}
		out = append(out, pin{spot{c.Prefix.Addr(), p.proto}, span{p.lo, p.hi, c.Rule}})
	}
	return out, nil
}

// netsOf checks cells of networks and returns them as elements.
func netsOf(cells []policy.Cell) (map[element]string, error) {
	out := make(map[element]string, len(cells))
	for _, c := range cells {
		six, ok := sixOf(c.Prefix.Addr())
		if !ok || !c.Prefix.IsValid() {
			return nil, fmt.Errorf("nft: a cell of %s, which is no network", c.Prefix)
		}
		p, err := portsOf(c, six)
		if err != nil {
			return nil, err
		}
		if err := checkRule(c.Rule); err != nil {
			return nil, err
		}
		e := element{m: nets4, lo: c.Prefix.Masked().Addr(), hi: lastAddr(c.Prefix), proto: p.proto, portLo: p.lo, portHi: p.hi}
		if six {
			e.m = nets6
		}
		if _, dup := out[e]; !dup { // the first in order owns it
			out[e] = c.Rule
		}
	}
	return out, nil
}

// add puts pins into the set; pins that are there already stay as they are.
// It returns the spots that changed and an undo.
func (w *wanted) add(pins []pin) []spot {
	var changed []spot
	for _, p := range pins {
		if slices.Contains(w.pins[p.at], p.span) {
			continue
		}
		w.pins[p.at] = append(w.pins[p.at], p.span)
		w.n++
		changed = append(changed, p.at)
	}
	return uniq(changed)
}

// del takes pins out of the set. All their spots are returned, also where
// nothing changed: the kernel is compared again there.
func (w *wanted) del(pins []pin) []spot {
	var changed []spot
	for _, p := range pins {
		changed = append(changed, p.at)
		old := w.pins[p.at]
		i := slices.Index(old, p.span)
		if i < 0 {
			continue
		}
		w.n--
		if left := slices.Delete(slices.Clone(old), i, i+1); len(left) > 0 {
			w.pins[p.at] = left
		} else {
			delete(w.pins, p.at)
		}
	}
	return uniq(changed)
}

func uniq(s []spot) []spot {
	seen := make(map[spot]bool, len(s))
	return slices.DeleteFunc(s, func(x spot) bool {
		dup := seen[x]
		seen[x] = true
		return dup
	})
}

// layout lays a spot's spans out into elements: single ports into the hash
// map, ranges into the interval map, cut where they overlap, each piece to
// the span that came first. A span of all ports, which most rules without a
// port give, is one key of hosts: a change of the interval map costs the
// kernel a copy of all of it.
func (w *wanted) layout(s spot) map[element]string {
	out := map[element]string{}
	single, ranged, whole := pins4, ranges4, hosts4
	if s.addr.Is6() {
		single, ranged, whole = pins6, ranges6, hosts6
	}
	var wide []span
	host := element{m: whole, lo: s.addr, hi: s.addr, proto: s.proto}
	for _, p := range w.pins[s] {
		if p.lo != p.hi {
			switch {
			case out[host] != "": // it covers what comes after
			case p.all():
				out[host] = p.rule
			default:
				wide = append(wide, p)
			}
			continue
		}
		e := element{single, s.addr, s.addr, s.proto, p.lo, p.hi}
		if _, taken := out[e]; !taken {
			out[e] = p.rule
		}
	}
	for _, p := range disjoint(wide) {
		out[element{ranged, s.addr, s.addr, s.proto, p.lo, p.hi}] = p.rule
	}
	return out
}

// disjoint cuts overlapping spans; an earlier span owns what it covers.
// Neighbouring pieces of one rule are joined.
func disjoint(spans []span) []span {
	cuts := make([]int, 0, 2*len(spans))
	for _, p := range spans {
		cuts = append(cuts, int(p.lo), int(p.hi)+1)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var out []span
	for i := 0; i+1 < len(cuts); i++ {
		lo, hi := uint16(cuts[i]), uint16(cuts[i+1]-1)
		j := slices.IndexFunc(spans, func(p span) bool { return p.lo <= lo && hi <= p.hi })
		if j < 0 {
			continue
		}
		if n := len(out); n > 0 && out[n-1].rule == spans[j].rule && int(out[n-1].hi)+1 == int(lo) {
			out[n-1].hi = hi
			continue
		}
		out = append(out, span{lo, hi, spans[j].rule})
	}
	return out
}

// compareElements orders elements for batches and listings.
func compareElements(a, b element) int {
	return cmp.Or(cmp.Compare(a.m, b.m), a.lo.Compare(b.lo), a.hi.Compare(b.hi),
		cmp.Compare(a.proto, b.proto), cmp.Compare(a.portLo, b.portLo), cmp.Compare(a.portHi, b.portHi))
}
