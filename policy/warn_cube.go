package policy

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// holds reports what a comparison says of one value: a text of the field, or
// an address.
func (a atom) holds(v string) bool {
	var ok bool
	switch a.kind {
	case isEqual:
		ok = slices.Contains(a.values, v)
	case isUnder:
		ok = inDomain(v, a.values[0])
	case isEnding:
		ok = strings.HasSuffix(v, a.values[0])
	case isWithin:
		addr, err := netip.ParseAddr(v)
		ok = err == nil && a.net.Contains(addr)
	}
	return ok != a.not
}

// implies reports whether b holds wherever a holds. False means that it is
// not known.
func (a atom) implies(b atom) bool {
	if a.kind == isOther || b.kind == isOther {
		return a.kind == b.kind && a.text == b.text && a.not == b.not
	}
	if a.field != b.field {
		return false
	}
	switch {
	case a.kind == isPorts && b.kind == isPorts:
		return subset(a.ranges(), b.ranges())
	case a.kind == isEqual && !a.not:
		return !slices.ContainsFunc(a.values, func(v string) bool { return !b.holds(v) })
	case a.not || b.not:
		return a.not == b.not && b.without().implies(a.without())
	case a.kind == isWithin && b.kind == isWithin:
		return b.net.Bits() <= a.net.Bits() && b.net.Contains(a.net.Addr())
	case a.kind == isUnder && (b.kind == isUnder || b.kind == isEnding):
		return b.holds(a.values[0]) && b.holds("x."+a.values[0])
	case a.kind == isEnding && b.kind == isEnding:
		return b.holds(a.values[0])
	case a.kind == isEnding && b.kind == isUnder:
		return strings.HasPrefix(a.values[0], ".") && b.holds(a.values[0][1:])
	}
	return false
}

func (a atom) without() atom { a.not = false; return a }

// excludes reports whether a and b can certainly not hold together.
func (a atom) excludes(b atom) bool {
	if a.field != b.field || a.kind == isOther || b.kind == isOther {
		return a.kind == isOther && b.kind == isOther && a.text == b.text && a.not != b.not
	}
	switch {
	case a.kind == isPorts && b.kind == isPorts:
		return len(intersect(a.ranges(), b.ranges())) == 0
	case a.kind == isEqual && !a.not:
		return !slices.ContainsFunc(a.values, b.holds)
	case b.kind == isEqual && !b.not:
		return b.excludes(a)
	case a.not && b.not:
		return false
	case a.not:
		return b.implies(a.without())
	case b.not:
		return a.implies(b.without())
	case a.kind == isWithin && b.kind == isWithin:
		return !a.net.Overlaps(b.net)
	case a.kind == isWithin || b.kind == isWithin:
		return false
	}
	x, y := strings.TrimPrefix(a.values[0], "."), strings.TrimPrefix(b.values[0], ".")
	return !strings.HasSuffix(x, y) && !strings.HasSuffix(y, x)
}

// satisfiable reports whether nothing in the cube contradicts the rest.
func (c cube) satisfiable() bool {
	for i, a := range c {
		if a.kind == isPorts && len(a.ranges()) == 0 {
			return false
		}
		if a.kind == isEqual && !a.not && len(a.values) == 0 {
			return false
		}
		for _, b := range c[:i] {
			if a.excludes(b) {
				return false
			}
		}
	}
	return true
}

// covers reports whether the cube holds wherever c does.
func (b cube) covers(c cube) bool {
	return !slices.ContainsFunc(b, func(need atom) bool {
		return !slices.ContainsFunc(c, func(a atom) bool { return a.implies(need) })
	})
}

// fields are those that the cube compares.
func (c cube) fields() FieldSet {
	var s FieldSet
	for _, a := range c {
		if a.field < NumFields {
			s = s.With(a.field)
		}
	}
	return s
}

// ranges are the ports of an atom, sorted and disjoint, the negation done.
func (a atom) ranges() [][2]int64 {
	in := slices.Clone(a.ports)
	slices.SortFunc(in, func(x, y [2]int64) int { return cmp.Compare(x[0], y[0]) })
	var out [][2]int64
	for _, r := range in {
		r[0], r[1] = max(r[0], 0), min(r[1], math.MaxUint16)
		if n := len(out); n > 0 && r[0] <= out[n-1][1]+1 {
			out[n-1][1] = max(out[n-1][1], r[1])
		} else if r[0] <= r[1] {
			out = append(out, r)
		}
	}
	if !a.not {
		return out
	}
	next, left := int64(0), [][2]int64(nil)
	for _, r := range out {
		if r[0] > next {
			left = append(left, [2]int64{next, r[0] - 1})
		}
		next = r[1] + 1
	}
	if next <= math.MaxUint16 {
		left = append(left, [2]int64{next, math.MaxUint16})
	}
	return left
}

func intersect(a, b [][2]int64) (out [][2]int64) {
	for _, x := range a {
		for _, y := range b {
			if low, high := max(x[0], y[0]), min(x[1], y[1]); low <= high {
				out = append(out, [2]int64{low, high})
			}
		}
	}
	return out
}

// subset reports whether every range of a lies in one of b; both are disjoint
// and not adjacent.
func subset(a, b [][2]int64) bool {
	return !slices.ContainsFunc(a, func(x [2]int64) bool {
		return !slices.ContainsFunc(b, func(y [2]int64) bool { return y[0] <= x[0] && x[1] <= y[1] })
	})
}
