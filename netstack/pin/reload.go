package pin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"outcall/policy"
)

// Rules is what a snapshot says of pins. The functions must be safe for
// concurrent use and must not call the table.
type Rules struct {
	Generation uint64
	// Cells derives the kernel's share of one name at one address.
	Cells func(name string, addr netip.Addr, grants []policy.Grant) []policy.Cell
	// Judge says whether these rules would still pin p, and with which grants.
	// Nil keeps every pin with the grants it has.
	Judge func(p Pin) (grants []policy.Grant, keep bool)
	// Refused is told the rules that had no room for a grant at a pin that
	// stays. Nil is nobody.
	Refused func(rule string)
}

// A Pin is a copy of one pin, for listings and for judging again. Facts and
// Grants are shared and must not be changed.
type Pin struct {
	Name       string
	Addr       netip.Addr
	Generation uint64
	Grants     []policy.Grant
	Cells      []policy.Cell // as derived for this name alone
	Facts      *policy.Facts
	Proxy      bool
	Live       bool
	Holds      int           // live flows that use it
	Left       time.Duration // until it expires, if no flow holds it; may be negative
}

func (e *entry) copy(now time.Time) Pin {
	return Pin{
		Name: e.name, Addr: e.addr, Generation: e.gen, Grants: e.grants, Cells: e.cells, Facts: e.facts,
		Proxy: e.proxy, Live: e.live(now), Holds: e.holds, Left: e.expires.Sub(now),
	}
}

// List returns all pins that are in the table, sorted by name and address.
func (t *Table) List() []Pin {
	t.mu.RLock()
	now := t.clock()
	out := make([]Pin, 0, len(t.byKey))
	for _, e := range t.byKey {
		out = append(out, e.copy(now))
	}
	t.mu.RUnlock()
	slices.SortFunc(out, func(a, b Pin) int {
		if a.Name != b.Name {
			if a.Name < b.Name {
				return -1
			}
			return 1
		}
		return a.Addr.Compare(b.Addr)
	})
	return out
}

// Len returns the number of pins that count against Max.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byKey)
}

// Flush takes out every pin that no flow holds, and remembers them as
// expired. It returns their number.
func (t *Table) Flush(ctx context.Context) (int, error) {
	if err := t.enter(ctx); err != nil {
		return 0, err
	}
	defer t.leave()
	dead := t.condemn(func(e *entry) bool { return e.holds == 0 })
	if err := t.apply(ctx, t.without(dead)); err != nil {
		t.reprieve(dead)
		return 0, fmt.Errorf("flush %d pins: %w", len(dead), err)
	}
	t.bury(dead)
	return len(dead), nil
}

// Reload brings the pins under new rules: it takes out of the kernel what
// those deny, calls swap (which puts the new snapshot in force), and adds what
// they allow beyond the old ones. An Add meanwhile renews pins that stay; one
// that must ask the kernel waits for the end of the reload, and is ErrStale
// then if the old rules judged it.
//
// If the kernel refuses the removal, swap is not called and the old rules stay
// in force. An error after swap leaves the kernel passing less than it
// should; Run repairs that.
func (t *Table) Reload(ctx context.Context, r Rules, swap func()) error {
	if err := t.enter(ctx); err != nil {
		return err
	}
	defer t.leave()
	if r.Generation <= t.rules.Generation {
		return fmt.Errorf("reload pins: generation %d is not newer than %d", r.Generation, t.rules.Generation)
	}
	fresh, dead, refused := t.rejudge(r)
	c := t.reloaded(fresh, dead)

	// The part that only takes away comes first; elements that merely change
	// their rule wait, so that their live flows lose no packet meanwhile.
	gone, changed := c.partition()
	if len(gone) > 0 {
		if err := t.kernel.DelPins(ctx, gone); err != nil {
			t.spoil(c)
			t.reprieve(dead)
			// The old rules stay: what the batch took is put back.
			err = fmt.Errorf("reload pins: remove %d cells from the kernel's maps: %w", len(gone), err)
			return errors.Join(err, t.sweep(ctx, Linger))
		}
	}
	swap()
	t.rules = r
	t.adopt(fresh, r.Generation)
	t.bury(dead)
	tell(r.Refused, refused)
	c.del = changed
	if err := t.apply(ctx, c); err != nil {
		return fmt.Errorf("reload pins: %w", err)
	}
	return nil
}

// A successor is what an entry becomes under new rules.
type successor struct {
	*entry
	grants []policy.Grant
	cells  []policy.Cell
}

// rejudge asks the new rules about every pin and marks those that go.
func (t *Table) rejudge(r Rules) (fresh []successor, dead []*entry, refused []string) {
	t.mu.RLock()
	now := t.clock()
	all := slices.SortedFunc(maps.Values(t.byKey), oldestFirst)
	pins := make([]Pin, len(all))
	for i, e := range all {
		pins[i] = e.copy(now)
	}
	t.mu.RUnlock()
	asked, keep := make([]grantee, len(all)), make([]bool, len(all))
	for i, p := range pins {
		asked[i], keep[i] = grantee{p.Grants, p.Grants}, true
		if r.Judge != nil {
			asked[i].want, keep[i] = r.Judge(p)
		}
		if !keep[i] {
			asked[i].want = nil
		}
	}
	granted, refused := t.grants.admit(asked) // with the gate held nobody else changes them
	for i, e := range all {
		if keep[i] {
			fresh = append(fresh, successor{e, granted[i], r.Cells(e.name, e.addr, granted[i])})
		} else {
			dead = append(dead, e)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range dead {
		e.dying = true
	}
	return fresh, dead, refused
}

// reloaded derives the whole change of a reload.
func (t *Table) reloaded(fresh []successor, dead []*entry) change {
	at := map[netip.Addr][]*entry{}
	for _, e := range dead {
		at[e.addr] = nil
	}
	for addr := range t.dirty {
		at[addr] = nil
	}
	for _, s := range fresh {
		at[s.addr] = append(at[s.addr], &entry{key: s.key, born: s.born, cells: s.cells})
	}
	c := change{after: map[netip.Addr][]policy.Cell{}}
	for addr, entries := range at {
		t.put(&c, addr, want(entries))
	}
	return c
}

// partition splits the removals into those that take something away for good
// and those that come back for another rule.
func (c *change) partition() (gone, changed []policy.Cell) {
	for _, d := range c.del {
		if slices.ContainsFunc(c.late, func(a policy.Cell) bool { return sameRange(a, d) }) {
			changed = append(changed, d)
		} else {
			gone = append(gone, d)
		}
	}
	return gone, changed
}

func (t *Table) adopt(fresh []successor, generation uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gen = generation
	for _, s := range fresh {
		t.grants.add(s.entry.grants, -1)
		t.grants.add(s.grants, 1)
		s.entry.gen, s.entry.grants, s.entry.cells = generation, s.grants, s.cells
	}
}
