package pin

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"outcall/policy"
)

// A change is what one operation does to the kernel: for each address the set
// that it will hold afterwards, and the difference.
//
// Additions that overlap an element that goes (the same port, now for another
// rule) have to wait until that one is gone; the others go in first, so that
// packets of live flows are dropped as little as can be.
type change struct {
	after     map[netip.Addr][]policy.Cell
	now, late []policy.Cell // additions
	del       []policy.Cell
}

// change derives what the kernel must hold at the addresses of fresh when
// those replace the entries of the same keys, or join. Called with gate held.
func (t *Table) change(fresh []*entry) change {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := change{after: map[netip.Addr][]policy.Cell{}}
	for _, f := range fresh {
		f.born = t.count + 1
		at := []*entry{f}
		for _, old := range t.byAddr[f.addr] {
			if old.key == f.key {
				f.born = old.born
			} else {
				at = append(at, old)
			}
		}
		t.put(&c, f.addr, want(at))
	}
	return c
}

// put adds one address to a change. Where an earlier change failed, nothing
// is taken for granted: what may be there is removed, what is wanted is added.
func (t *Table) put(c *change, addr netip.Addr, want []policy.Cell) {
	have := t.kern[addr]
	doubtful, isDirty := t.dirty[addr]
	if isDirty {
		have = nil
	}
	keep, del, add := plan(have, want)
	if isDirty {
		del = doubtful
	}
	c.after[addr] = append(keep, add...)
	c.del = append(c.del, del...)
	for _, a := range add {
		if slices.ContainsFunc(del, func(d policy.Cell) bool { return overlap(a, d) }) {
			c.late = append(c.late, a)
		} else {
			c.now = append(c.now, a)
		}
	}
}

// apply brings the kernel to c.after. On an error its addresses are marked,
// so that the next change or sweep puts them right. Called with gate held.
func (t *Table) apply(ctx context.Context, c change) error {
	steps := []struct {
		op    string
		cells []policy.Cell
		do    func(context.Context, []policy.Cell) error
	}{
		{"add cells to", c.now, t.kernel.AddPins},
		{"remove cells from", c.del, t.kernel.DelPins},
		{"add cells to", c.late, t.kernel.AddPins},
	}
	for _, s := range steps {
		if len(s.cells) == 0 {
			continue
		}
		if err := s.do(ctx, s.cells); err != nil {
			t.spoil(c)
			return fmt.Errorf("%s the kernel's maps (%d cells, first %v): %w", s.op, len(s.cells), s.cells[0].Prefix, err)
		}
	}
	t.settle(c)
	return nil
}

// settle notes that the kernel is in the state c.after.
func (t *Table) settle(c change) {
	for a, cells := range c.after {
		delete(t.dirty, a)
		if len(cells) == 0 {
			delete(t.kern, a)
		} else {
			t.kern[a] = cells
		}
	}
}

// spoil notes all elements that may be in the kernel after a failed change.
func (t *Table) spoil(c change) {
	for a, after := range c.after {
		var maybe []policy.Cell
		for _, x := range slices.Concat(t.dirty[a], t.kern[a], after) {
			if !slices.Contains(maybe, x) {
				maybe = append(maybe, x)
			}
		}
		t.dirty[a] = maybe
	}
}
