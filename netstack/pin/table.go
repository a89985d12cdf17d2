package pin

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"outcall/netstack/internal/waits"
	"outcall/policy"
)

// Limits. Max and Remembered bound memory that an agent can grow.
const (
	// Max is the number of pins of a session (one name at one address).
	// Beyond it Add refuses with ErrFull, and the
	// caller writes the audit's limit event.
	Max = 4096
	// Remembered is the number of expired pins that are remembered; beyond it
	// the oldest is forgotten.
	Remembered = 4096
	// MinLife is the shortest life of a pin. Programs keep addresses longer
	// than the TTL says, so a short TTL must not cut them off.
	MinLife = waits.PinLife
	// Grace is added to every life, so that a client that still holds the
	// answer for its whole TTL is never late.
	Grace = waits.PinGrace
	// Linger is how long the kernel keeps the cells of an expired pin. It lets
	// a flow that was judged at the last moment still take hold of the pin.
	Linger = waits.PinLinger
	// SweepEvery is the interval at which Run looks for expired pins.
	SweepEvery = waits.PinSweep
)

// Errors that callers tell apart.
var (
	// ErrFull says that the table has no room; nothing was pinned.
	ErrFull = errors.New("the session's pin table is full")
	// ErrStale says that the binding was judged by rules that are no longer
	// in force; judge again and add again.
	ErrStale = errors.New("judged by rules that have been replaced")
)

// Kernel holds the derived cells of single addresses. Both calls return after
// the kernel has answered and are idempotent. netstack.KernelMaps satisfies it.
type Kernel interface {
	AddPins(ctx context.Context, cells []policy.Cell) error
	DelPins(ctx context.Context, cells []policy.Cell) error
}

// Options of a Table. Kernel and Cells are required.
type Options struct {
	Kernel Kernel
	// Cells derives the kernel's share of one name at one address under the
	// rules of Generation. Reload replaces both.
	Cells      func(name string, addr netip.Addr, grants []policy.Grant) []policy.Cell
	Generation uint64
	Max        int              // 0: Max
	Clock      func() time.Time // nil: time.Now
}

// An Addr is one address of a binding with the direct_ip grants that hold
// there.
type Addr struct {
	Addr   netip.Addr
	Grants []policy.Grant
}

// A Binding is one judged answer.
type Binding struct {
	Generation uint64 // of the snapshot that judged it
	Name       string // lower case, without trailing dot
	Addrs      []Addr
	TTL        time.Duration // of the answer; the pin lives max(TTL, MinLife) + Grace
	// Facts are those of the question; a reload judges with them again. The
	// table keeps them and does not change them.
	Facts *policy.Facts
	// Proxy says that the explicit proxy asked, where no dns allow is needed.
	Proxy bool
	// Refused is told the rules that had no room for a grant of this binding,
	// which is pinned without it. Nil is nobody.
	Refused func(rule string)
}

type key struct {
	name string
	addr netip.Addr
}

// entry is one pin. Its fields change only with both Table.gate and Table.mu
// held, save expires, seq and holds, which need mu alone.
type entry struct {
	key
	born    uint64 // order of creation: keeps derived cells stable
	seq     uint64 // order of resolution
	gen     uint64
	grants  []policy.Grant
	facts   *policy.Facts
	proxy   bool
	cells   []policy.Cell
	expires time.Time
	holds   int
	dying   bool // being taken out of the kernel: as good as gone
}

func (e *entry) live(now time.Time) bool {
	return !e.dying && (e.holds > 0 || now.Before(e.expires))
}

// A Table holds the pins of one session. All methods are safe for concurrent
// use; those that ask the kernel wait for each other, the others wait for
// nobody.
type Table struct {
	kernel Kernel
	max    int
	clock  func() time.Time

	// gate (capacity 1) serialises everything that changes the kernel. It is a
	// channel so that a waiter can give up with its context.
	gate  chan struct{}
	kern  map[netip.Addr][]policy.Cell // what the kernel holds, disjoint; by gate
	dirty map[netip.Addr][]policy.Cell // what it may hold where a change failed; by gate
	rules Rules                        // by gate

	mu     sync.RWMutex
	gen    uint64
	soon   time.Time // no pin expires before this
	count  uint64    // source of born and seq
	byKey  map[key]*entry
	byAddr map[netip.Addr][]*entry
	grants tally                 // of all entries
	gone   map[key]*list.Element // expired and remembered
	order  *list.List            // of key, oldest first
	goneAt map[netip.Addr][]string
}

// New returns an empty table.
func New(o Options) *Table {
	if o.Max <= 0 {
		o.Max = Max
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Table{
		kernel: o.Kernel, max: o.Max, clock: o.Clock,
		gate:  make(chan struct{}, 1),
		kern:  map[netip.Addr][]policy.Cell{},
		dirty: map[netip.Addr][]policy.Cell{},
		rules: Rules{Generation: o.Generation, Cells: o.Cells},
		gen:   o.Generation,
		byKey: map[key]*entry{}, byAddr: map[netip.Addr][]*entry{}, grants: tally{},
		gone: map[key]*list.Element{}, order: list.New(), goneAt: map[netip.Addr][]string{},
	}
}

func (t *Table) enter(ctx context.Context) error {
	select {
	case t.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the pin table: %w", ctx.Err())
	}
}

func (t *Table) leave() { <-t.gate }

// Add pins b's addresses to its name. When it returns nil the kernel has
// acknowledged every derived cell and the pins are visible; on an error none
// of the new ones is. The error is or wraps ErrStale, ErrFull, the kernel's
// answer or ctx's.
func (t *Table) Add(ctx context.Context, b Binding) error {
	b.Addrs = distinct(b.Addrs)
	life := max(b.TTL, MinLife) + Grace
	if ok, err := t.renew(b, life); ok || err != nil {
		return err
	}
	if err := t.enter(ctx); err != nil {
		return err
	}
	defer t.leave()
	return t.insert(ctx, b, life)
}

// distinct unmaps the addresses and drops repeated ones.
func distinct(in []Addr) []Addr {
	out := make([]Addr, 0, len(in))
	for _, a := range in {
		a.Addr = a.Addr.Unmap().WithZone("")
		if !slices.ContainsFunc(out, func(o Addr) bool { return o.Addr == a.Addr }) {
			out = append(out, a)
		}
	}
	return out
}

// renew moves the expiry of pins that are all there already: the common case
// of a cached answer, which asks nothing of the kernel. A pin that lacks a
// grant goes the long way: there may be room for it now.
func (t *Table) renew(b Binding, life time.Duration) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.Generation < t.gen {
		return false, ErrStale
	}
	for _, a := range b.Addrs {
		e := t.byKey[key{b.Name, a.Addr}]
		if e == nil || e.dying || e.gen != b.Generation || !slices.Equal(e.grants, a.Grants) {
			return false, nil
		}
	}
	expires := t.clock().Add(life)
	for _, a := range b.Addrs {
		t.touch(t.byKey[key{b.Name, a.Addr}], expires)
	}
	return true, nil
}

// touch is called with mu held.
func (t *Table) touch(e *entry, expires time.Time) {
	t.count++
	e.seq = t.count
	if expires.After(e.expires) {
		e.expires = expires
	}
}

// insert does Add's work behind the gate.
func (t *Table) insert(ctx context.Context, b Binding, life time.Duration) error {
	if b.Generation != t.rules.Generation {
		return ErrStale
	}
	b, refused, err := t.makeRoom(ctx, b)
	if err != nil {
		return fmt.Errorf("pin %s: %w", b.Name, err)
	}
	fresh := make([]*entry, 0, len(b.Addrs))
	for _, a := range b.Addrs {
		fresh = append(fresh, &entry{
			key: key{b.Name, a.Addr}, gen: b.Generation, grants: a.Grants, facts: b.Facts, proxy: b.Proxy,
			cells: t.rules.Cells(b.Name, a.Addr, a.Grants),
		})
	}
	if err := t.apply(ctx, t.change(fresh)); err != nil {
		return fmt.Errorf("pin %s: %w", b.Name, err)
	}
	t.mu.Lock()
	for _, e := range fresh {
		t.publish(e, t.clock().Add(life))
	}
	t.mu.Unlock()
	tell(b.Refused, refused)
	return nil
}

// makeRoom returns b with the grants that there is room for. Expired pins may
// still linger; a refusal must not be for their sake.
func (t *Table) makeRoom(ctx context.Context, b Binding) (_ Binding, refused []string, _ error) {
	fits, refused := t.admitted(b)
	full := t.missing(b) > t.room()
	if !full && len(refused) == 0 {
		return fits, nil, nil
	}
	if t.anyExpired() {
		switch err := t.sweep(ctx, 0); {
		case err == nil:
			fits, refused = t.admitted(b)
			full = t.missing(b) > t.room()
		case full:
			return b, nil, errors.Join(ErrFull, err)
		}
	}
	if full {
		return b, nil, ErrFull
	}
	return fits, refused, nil
}

// publish makes e visible; an older entry of the same key gives it its place.
// It is called with gate and mu held.
func (t *Table) publish(e *entry, expires time.Time) {
	if old := t.byKey[e.key]; old != nil {
		// The same object stays, since flows hold it.
		t.grants.add(old.grants, -1)
		t.grants.add(e.grants, 1)
		old.gen, old.grants, old.facts, old.cells = e.gen, e.grants, e.facts, e.cells
		old.proxy = old.proxy && e.proxy
		t.touch(old, expires)
		return
	}
	t.count++
	e.born = t.count
	t.touch(e, expires)
	if len(t.byKey) == 0 || expires.Before(t.soon) {
		t.soon = expires
	}
	t.grants.add(e.grants, 1)
	t.byKey[e.key] = e
	t.byAddr[e.addr] = append(t.byAddr[e.addr], e)
	t.forget(e.key)
}

func (t *Table) missing(b Binding) (n int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, a := range b.Addrs {
		if t.byKey[key{b.Name, a.Addr}] == nil {
			n++
		}
	}
	return n
}

func (t *Table) room() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.max - len(t.byKey)
}

// anyExpired reports whether a look through the table can find an expired
// pin. It keeps refusals cheap while the table is full of live ones.
func (t *Table) anyExpired() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return !t.clock().Before(t.soon)
}
