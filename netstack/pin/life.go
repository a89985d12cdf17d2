package pin

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"outcall/policy"
)

// Candidates returns the names that are pinned at addr and live, the one
// resolved last first. The grants are shared and must not be changed.
func (t *Table) Candidates(addr netip.Addr) []policy.Candidate {
	t.mu.RLock()
	defer t.mu.RUnlock()
	now := t.clock()
	var at []*entry
	for _, e := range t.byAddr[addr.Unmap().WithZone("")] {
		if e.live(now) {
			at = append(at, e)
		}
	}
	slices.SortFunc(at, latestFirst)
	out := make([]policy.Candidate, 0, len(at))
	for _, e := range at {
		out = append(out, policy.Candidate{Name: e.name, Grants: e.grants})
	}
	return out
}

func latestFirst(a, b *entry) int {
	switch {
	case a.seq > b.seq:
		return -1
	case a.seq < b.seq:
		return 1
	}
	return 0
}

// Live reports whether name is pinned at addr now.
func (t *Table) Live(name string, addr netip.Addr) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.byKey[key{name, addr.Unmap().WithZone("")}]
	return e != nil && e.live(t.clock())
}

// ExpiredNames returns every remembered name of addr that has no live pin
// there, the one that expired last first. A flow to addr is held while they
// are judged and resolved again.
func (t *Table) ExpiredNames(addr netip.Addr) []string {
	addr = addr.Unmap().WithZone("")
	t.mu.RLock()
	defer t.mu.RUnlock()
	now := t.clock()
	var at []*entry
	for _, e := range t.byAddr[addr] {
		if !e.live(now) {
			at = append(at, e)
		}
	}
	slices.SortFunc(at, latestFirst)
	var names []string
	for _, e := range at {
		names = append(names, e.name)
	}
	for _, n := range slices.Backward(t.goneAt[addr]) {
		names = append(names, n)
	}
	return names
}

// Hold keeps the pin of name at addr alive until release is called (once or
// more; later calls do nothing). Where there is no such pin any more release
// does nothing, and the flow's packets stop at the kernel.
func (t *Table) Hold(name string, addr netip.Addr) (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byKey[key{name, addr.Unmap().WithZone("")}]
	if e == nil || e.dying {
		return func() {}
	}
	e.holds++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		e.holds--
		// A client that just lost one connection soon opens another.
		if grace := t.clock().Add(Grace); grace.After(e.expires) {
			e.expires = grace
		}
		if e.holds == 0 && e.expires.Before(t.soon) {
			t.soon = e.expires
		}
	})
}

// Run takes expired pins out of the kernel until ctx ends, and returns its
// error. A kernel that refuses is asked again at the next sweep; the pins
// concerned are no candidates meanwhile.
func (t *Table) Run(ctx context.Context) error {
	tick := time.NewTicker(SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			// The error is the kernel's and is repaired by asking again.
			_ = t.Sweep(ctx)
		}
	}
}

// Sweep takes out the pins that expired more than Linger ago, and repairs
// what an earlier failure left in the kernel.
func (t *Table) Sweep(ctx context.Context) error {
	if err := t.enter(ctx); err != nil {
		return err
	}
	defer t.leave()
	return t.sweep(ctx, Linger)
}

// sweep is called with gate held.
func (t *Table) sweep(ctx context.Context, linger time.Duration) error {
	dead := t.condemn(func(e *entry) bool {
		return e.holds == 0 && !t.clock().Before(e.expires.Add(linger))
	})
	c := t.without(dead)
	if err := t.apply(ctx, c); err != nil {
		t.reprieve(dead)
		return fmt.Errorf("take out %d expired pins: %w", len(dead), err)
	}
	t.bury(dead)
	return nil
}

// condemn marks the entries that match as dying and returns them.
func (t *Table) condemn(match func(*entry) bool) []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var dead []*entry
	var soon time.Time
	for _, e := range t.byKey {
		if match(e) {
			e.dying = true
			dead = append(dead, e)
		}
		if e.holds == 0 && (soon.IsZero() || e.expires.Before(soon)) {
			soon = e.expires
		}
	}
	t.soon = soon
	return dead
}

func (t *Table) reprieve(dead []*entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range dead {
		e.dying = false
	}
}

// without derives the change that takes the kernel share of dead away, and
// repairs all dirty addresses.
func (t *Table) without(dead []*entry) change {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := change{after: map[netip.Addr][]policy.Cell{}}
	visit := func(addr netip.Addr) {
		if _, done := c.after[addr]; done {
			return
		}
		var rest []*entry
		for _, e := range t.byAddr[addr] {
			if !e.dying {
				rest = append(rest, e)
			}
		}
		t.put(&c, addr, want(rest))
	}
	for _, e := range dead {
		visit(e.addr)
	}
	for addr := range t.dirty {
		visit(addr)
	}
	return c
}

// bury removes the dead from the table and remembers their names.
func (t *Table) bury(dead []*entry) {
	slices.SortFunc(dead, func(a, b *entry) int { return -latestFirst(a, b) })
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range dead {
		delete(t.byKey, e.key)
		t.grants.add(e.grants, -1)
		rest := slices.DeleteFunc(t.byAddr[e.addr], func(o *entry) bool { return o == e })
		if len(rest) == 0 {
			delete(t.byAddr, e.addr)
		} else {
			t.byAddr[e.addr] = rest
		}
		t.remember(e.key)
	}
}

// remember and forget are called with mu held.
func (t *Table) remember(k key) {
	t.forget(k)
	t.gone[k] = t.order.PushBack(k)
	t.goneAt[k.addr] = append(t.goneAt[k.addr], k.name)
	if t.order.Len() > Remembered {
		t.forget(t.order.Front().Value.(key))
	}
}

func (t *Table) forget(k key) {
	el, ok := t.gone[k]
	if !ok {
		return
	}
	t.order.Remove(el)
	delete(t.gone, k)
	names := slices.DeleteFunc(t.goneAt[k.addr], func(n string) bool { return n == k.name })
	if len(names) == 0 {
		delete(t.goneAt, k.addr)
	} else {
		t.goneAt[k.addr] = names
	}
}
