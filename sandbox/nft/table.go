package nft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"outcall/policy"
)

const (
	// batchBytes bounds one batch. The kernel takes no more than the socket's
	// send buffer, which an unprivileged process cannot enlarge, and an element
	// list is one attribute of at most 64 KiB.
	batchBytes = 60 << 10
	// MaxCells bounds the cells that a Table takes, pins and networks apart.
	// More are refused with ErrFull.
	MaxCells = 1 << 17
)

// ErrFull says that a Table holds MaxCells cells already.
var ErrFull = errors.New("nft: too many cells")

// ErrNoTable says that Base has not been called, or Drop has.
var ErrNoTable = errors.New("nft: no table")

// A Conn gives the socket that a Table works on.
type Conn interface {
	// Socket opens a NETLINK_NETFILTER socket in the gateway network namespace,
	// non-blocking and close-on-exec, and gives it to the caller.
	Socket() (*os.File, error)
}

// A Table is table inet outcall of one gateway namespace. Its methods are
// safe for concurrent use; each returns after the kernel has answered. No one
// else changes the table; if an operator does by hand, a call that runs into
// it reads the kernel's elements anew and tries once more.
type Table struct {
	mu   sync.Mutex
	sock *socket
	up   bool
	want wanted

	// What the kernel has, by its own acknowledgements.
	held    map[spot]map[element]string
	heldNet map[element]string
	refs    map[string]int // rule → elements that jump to its chain

	retired map[string]Count // counts of rules whose chain is gone
}

// Open opens the socket. The table itself is made by Base.
func Open(c Conn) (*Table, error) {
	f, err := c.Socket()
	if err != nil {
		return nil, fmt.Errorf("nft: open a netfilter socket: %w", err)
	}
	s, err := newSocket(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("nft: %w", err)
	}
	t := &Table{sock: s, want: newWanted(), retired: map[string]Count{}}
	t.forget()
	return t, nil
}

// Close closes the socket. The table stays as long as its namespace.
func (t *Table) Close() error { return t.sock.f.Close() }

func (t *Table) forget() {
	t.held = map[spot]map[element]string{}
	t.heldNet = map[element]string{}
	t.refs = map[string]int{}
}

// AddPins makes the kernel pass cells of single addresses. The cells form a
// set: adding one that is there changes nothing. Where two cells overlap, the
// rule that came first counts the packets. On an error none of the cells is
// passed that was not before.
func (t *Table) AddPins(ctx context.Context, cells []policy.Cell) error {
	pins, err := pinsOf(cells)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.up {
		return ErrNoTable
	}
	if t.want.n+len(pins) > MaxCells {
		return ErrFull
	}
	fresh := slices.DeleteFunc(slices.Clone(pins), func(p pin) bool { return slices.Contains(t.want.pins[p.at], p.span) })
	changed := t.want.add(fresh)
	if err := t.reconcile(ctx, changed); err != nil {
		t.want.del(fresh)
		undo := t.reconcile(context.WithoutCancel(ctx), changed)
		return errors.Join(fmt.Errorf("nft: add %d pins: %w", len(cells), err), undo)
	}
	return nil
}

// DelPins takes cells out of the set again; absent ones are no error. A cell
// that two names share is one cell: the caller knows who still needs it. On
// an error the kernel may still pass some of them.
func (t *Table) DelPins(ctx context.Context, cells []policy.Cell) error {
	pins, err := pinsOf(cells)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := t.want.del(pins)
	if !t.up {
		return nil // no table, no pins
	}
	if err := t.reconcile(ctx, changed); err != nil {
		return fmt.Errorf("nft: remove %d pins: %w", len(cells), err)
	}
	return nil
}

// SetNets replaces the cells of the interval maps, which must be disjoint,
// by removing and adding what differs. What is removed is gone before
// anything is added; up to a few hundred changes are one atomic batch. On an
// error what was to be removed may still be passed; what was to be added, in
// part.
func (t *Table) SetNets(ctx context.Context, cells []policy.Cell) error {
	if len(cells) > MaxCells {
		return ErrFull
	}
	nets, err := netsOf(cells)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.up {
		return ErrNoTable
	}
	t.want.nets = nets
	if err := t.reconcile(ctx, nil); err != nil {
		return fmt.Errorf("nft: set %d networks: %w", len(cells), err)
	}
	return nil
}

// reconcile makes the kernel's elements at some spots, and those of the
// network maps, what is wanted. If the kernel does not have what it last
// acknowledged, its elements are read and it is tried once more.
func (t *Table) reconcile(ctx context.Context, spots []spot) error {
	err := t.apply(ctx, t.plan(spots))
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EBUSY) {
		return err
	}
	if again := t.readHeld(ctx); again != nil {
		return errors.Join(err, again)
	}
	return t.apply(ctx, t.plan(slices.Collect(maps.Keys(t.held)), t.want.all()...))
}

// A change is one element to delete, to add, or both: to give to another
// rule.
type change struct {
	e        element
	del, add string // rules; "" is none
}

// plan compares what is wanted at some spots with what the kernel has.
func (t *Table) plan(spots []spot, more ...spot) []change {
	var out []change
	for _, s := range uniq(append(slices.Clone(spots), more...)) {
		out = diff(out, t.held[s], t.want.layout(s))
	}
	out = diff(out, t.heldNet, t.want.nets)
	// Deletions come first: an element that is added may overlap one that goes.
	slices.SortFunc(out, func(a, b change) int {
		if (a.del == "") != (b.del == "") {
			if a.del != "" {
				return -1
			}
			return 1
		}
		return compareElements(a.e, b.e)
	})
	return out
}

func diff(out []change, have, want map[element]string) []change {
	for e, rule := range have {
		if want[e] != rule {
			out = append(out, change{e, rule, want[e]})
		}
	}
	for e, rule := range want {
		if have[e] == "" {
			out = append(out, change{e, "", rule})
		}
	}
	return out
}

// apply sends a plan in batches, each of which is recorded when the kernel
// has acknowledged it, and then removes the chains that nothing jumps to.
func (t *Table) apply(ctx context.Context, plan []change) error {
	touched := map[string]bool{}
	for len(plan) > 0 {
		n, size, fresh := 0, 0, map[string]bool{}
		for n < len(plan) && size < batchBytes {
			c := plan[n]
			size += c.e.weight(c.add)
			if c.del != "" && c.add != "" {
				size += c.e.weight("")
			}
			if c.add != "" && t.refs[c.add] == 0 && !fresh[c.add] {
				fresh[c.add] = true
				size += chainWeight(c.add)
			}
			if c.del != "" {
				touched[c.del] = true
			}
			n++
		}
		// A last batch takes the removal of chains with it where there is room.
		var gone []string
		if n == len(plan) && size+len(touched)*chainWeight("") < batchBytes {
			gone = t.unused(touched, plan)
		}
		if err := t.send(ctx, plan[:n], fresh, gone); err != nil {
			return err
		}
		for _, r := range gone {
			delete(touched, r)
		}
		if err := t.retire(ctx, gone); err != nil {
			return err
		}
		plan = plan[n:]
	}
	return t.dropChains(ctx, t.unused(touched, nil))
}

// chainWeight is what making a rule's counter, chain and rule costs in bytes.
func chainWeight(rule string) int { return 480 + 5*len(rule) }

// unused returns the rules among some that no element will jump to once the
// plan is done.
func (t *Table) unused(rules map[string]bool, plan []change) []string {
	delta := map[string]int{}
	for _, c := range plan {
		delta[c.del]--
		delta[c.add]++
	}
	var out []string
	for r := range rules {
		if r != foreign && t.refs[r]+delta[r] == 0 {
			out = append(out, r)
		}
	}
	slices.Sort(out)
	return out
}

// dropChains removes chains in batches of their own.
func (t *Table) dropChains(ctx context.Context, rules []string) error {
	for part := range slices.Chunk(rules, batchBytes/(chainWeight("")+5*maxRuleID)) {
		if err := t.send(ctx, nil, nil, part); err != nil {
			return err
		}
		if err := t.retire(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// send makes one batch: the chains of fresh rules before the elements that
// jump to them, and the chains of gone rules after those that did.
func (t *Table) send(ctx context.Context, part []change, fresh map[string]bool, gone []string) error {
	c, err := t.sock.conn(ctx)
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	for _, r := range slices.Sorted(maps.Keys(fresh)) {
		addRuleChain(c, table, r)
	}
	var del, add [len(mapNames)][]nftables.SetElement
	for _, ch := range part {
		if ch.del != "" {
			del[ch.e.m] = append(del[ch.e.m], ch.e.set(""))
		}
		if ch.add != "" {
			add[ch.e.m] = append(add[ch.e.m], ch.e.set(chainOf(ch.add)))
		}
	}
	for _, m := range allMaps {
		if len(del[m]) > 0 {
			err = errors.Join(err, c.SetDeleteElements(m.set(table), del[m]))
		}
	}
	for _, m := range allMaps {
		if len(add[m]) > 0 {
			err = errors.Join(err, c.SetAddElements(m.set(table), add[m]))
		}
	}
	for _, r := range gone {
		ch := &nftables.Chain{Table: table, Name: chainOf(r)}
		c.FlushChain(ch)
		c.DelChain(ch)
	}
	if err := errors.Join(err, t.sock.flush(c)); err != nil {
		return err
	}
	t.record(part)
	return nil
}

func addRuleChain(c *nftables.Conn, table *nftables.Table, rule string) {
	name := chainOf(rule)
	c.AddObj(&nftables.NamedObj{Table: table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	ch := c.AddChain(&nftables.Chain{Table: table, Name: name})
	c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: append(count(name), verdict(expr.VerdictAccept, "")...)})
}

// record notes a batch that the kernel has acknowledged.
func (t *Table) record(part []change) {
	for _, ch := range part {
		have := t.heldNet
		s := spot{ch.e.lo, ch.e.proto}
		if !ch.e.m.nets() {
			if t.held[s] == nil {
				t.held[s] = map[element]string{}
			}
			have = t.held[s]
		}
		if ch.del != "" {
			delete(have, ch.e)
			if t.refs[ch.del]--; t.refs[ch.del] <= 0 {
				delete(t.refs, ch.del)
			}
		}
		if ch.add != "" {
			have[ch.e] = ch.add
			t.refs[ch.add]++
		}
		if !ch.e.m.nets() && len(have) == 0 {
			delete(t.held, s)
		}
	}
}

// readHeld reads the kernel's elements in place of what was recorded.
func (t *Table) readHeld(ctx context.Context) error {
	t.forget()
	for _, m := range allMaps {
		elems, err := t.elements(ctx, m)
		if err != nil {
			return err
		}
		var part []change
		for e, verdict := range elems {
			part = append(part, change{e: e, add: ruleOf(strings.TrimPrefix(verdict, "jump "))})
		}
		t.record(part)
	}
	return nil
}
