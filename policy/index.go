package policy

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// # The index
//
// The index chooses which rules a walk asks; it never answers. The walk over
// what it chooses is the same loop, in the same order, with the same functions
// as the linear walk over all rules, which a Snapshot without an index does
// and which the tests hold the index against. So the index is exact if each
// rule that it leaves out would either not match, or answer just what an
// earlier rule that is asked answers (two rules that wait for the same fields:
// only the first of them is ever named).
//
// What a step knows of its fields (their states, not their values) is its
// situation, and there are few: one or two per layer. For each one a plan is
// made, by evaluating every condition with what the situation says: absent,
// later and hidden fields, and what CEL makes of them alone, are constants by
// now, so that most of a condition is gone, and a rule that cannot matter here
// is not in the plan. What is left compares known fields with constants:
//
//   - A comparison that few rules have is made a key: ==, in, domain(),
//     endsWith, network.port and other numbers, networks. The facts' values
//     are looked up, once each, and give the rules that have a true key. Of a
//     rule's keys the plan takes so many that with all of them false the rest
//     of the condition is a constant; the rarest, where there is a choice.
//   - A comparison that many rules share (egress.ports, network.protocol, one
//     host with many paths) is a gate, evaluated once for all of them.
//   - Rules with the same gates and the same constant answer are a group of
//     which the first is asked. If that answer is "no", there is no group.
//   - A rule of which neither makes a constant (its condition is a pattern and
//     nothing else) is asked whenever its gates are open.
//
// A verdict then costs the look-ups, the gates, the rules with a true key and
// those that cannot be indexed, but not the number of rules.
//
// Limits: maxPlans situations are planned; a further one, which only a message
// made for it can have, is walked over all rules. Everything else is sized by
// the rules.

// maxPlans bounds the plans of one index. Beyond it a walk asks all rules.
const maxPlans = 64

// An index belongs to one list of rules, in their order.
type index struct {
	rules  []*Rule
	used   FieldSet // fields whose state matters to some rule
	ports  []*term  // by place in rules: egress.ports, nil for any
	direct map[string][]uint32
	// directPorts are all ports of direct_ip rules, in order.
	directPorts []uint16
	keys        keyTable
	ids         map[*term]uint32 // of comparisons: their place in atoms
	atoms       []atomUse
	common      int // a comparison with more uses is a gate

	mu    sync.Mutex // held while a plan is made
	plans atomic.Pointer[map[situation]*plan]
}

// An atomUse is one comparison, however many rules have it.
type atomUse struct {
	t       *term // with neg off
	uses    int
	keys    []uint32
	indexed bool
}

// newIndex indexes rules in their order.
func newIndex(rules []*Rule) *index {
	return indexWith(rules, max(8, int(math.Sqrt(float64(len(rules))))))
}

func indexWith(rules []*Rule, common int) *index {
	ix := &index{rules: rules, ports: make([]*term, len(rules)), direct: map[string][]uint32{}, ids: map[*term]uint32{},
		used: FieldSet(0).With(NetworkPort).With(NetworkIP), common: common}
	seen := map[string]uint32{}
	for i, r := range rules {
		ix.used |= r.c.fields
		for _, t := range r.c.parts {
			ix.note(t, seen)
		}
		if r.Block {
			continue
		}
		if ports := r.boundPorts(); ports != nil {
			ix.ports[i] = portTerm(ports)
			ix.note(ix.ports[i], seen)
		}
		if r.Mode == ModeDirectIP {
			ix.direct[r.ID] = append(ix.direct[r.ID], uint32(i))
		}
	}
	ix.directPorts = directPorts(rules)
	for i := range ix.atoms {
		a := &ix.atoms[i]
		a.keys, a.indexed = ix.keys.add(a.t)
		for _, k := range a.keys {
			ix.keys.uses[k] += a.uses
		}
	}
	ix.keys.sort()
	ix.plans.Store(&map[situation]*plan{})
	return ix
}

func portTerm(ports []uint16) *term {
	t := &term{op: opNum, field: NetworkPort}
	for _, p := range ports {
		t.nums = append(t.nums, int64(p))
	}
	slices.Sort(t.nums)
	return t
}

// note counts the comparisons of a term.
func (ix *index) note(t *term, seen map[string]uint32) {
	for _, k := range t.kids {
		ix.note(k, seen)
	}
	if !t.isAtom() {
		return
	}
	if id, ok := ix.ids[t]; ok {
		ix.atoms[id].uses++
		return
	}
	var buf [96]byte
	name := t.identity(buf[:0])
	id, ok := seen[string(name)]
	if !ok {
		id = uint32(len(ix.atoms))
		seen[string(name)] = id
		bare := *t
		bare.neg = false
		ix.atoms = append(ix.atoms, atomUse{t: &bare})
	}
	ix.ids[t] = id
	ix.atoms[id].uses++
}

// identity appends what tells a comparison from every other.
func (t *term) identity(out []byte) []byte {
	out = append(out, byte(t.op), byte(t.field))
	for _, s := range t.texts {
		out = append(binary.AppendUvarint(out, uint64(len(s))), s...)
	}
	for _, n := range t.nums {
		out = binary.AppendVarint(out, n)
	}
	if t.op == opNet {
		b := t.net.Addr().As16()
		out = append(append(out, b[:]...), byte(t.net.Addr().BitLen()), byte(t.net.Bits()))
	}
	return out
}

// A situation is what a step knows, without the values.
type situation struct {
	layer  Layer
	door   doorKind
	usual  bool // a question of a type that every allow rule may answer
	probe  bool // for the kernel's share: rules with opaque fields are always asked
	known  FieldSet
	later  FieldSet
	hidden FieldSet
}

func (ix *index) situation(f *Facts, door doorKind, probe bool) situation {
	return situation{layer: f.layer, door: door, probe: probe,
		usual: f.layer == LayerDNS && typeIsUsual(f.text(DNSRecordType)),
		known: f.sets[Known] & ix.used, later: f.sets[Later] & ix.used, hidden: f.sets[Hidden] & ix.used}
}

// plan returns the plan for a situation, or nil if there are too many.
func (ix *index) plan(at situation) *plan {
	if p := (*ix.plans.Load())[at]; p != nil {
		return p
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	old := *ix.plans.Load()
	if p := old[at]; p != nil || len(old) >= maxPlans {
		return p
	}
	plans := make(map[situation]*plan, len(old)+1)
	for k, p := range old {
		plans[k] = p
	}
	plans[at] = newPlan(ix, at)
	ix.plans.Store(&plans)
	return plans[at]
}

// prepare makes the plans that every session needs, so that the first verdict
// of a layer does not wait for one.
func (ix *index) prepare() {
	for l := LayerDNS; l <= LayerRaw; l++ {
		ix.plan(ix.situation(usualFacts(l), openDoor, false))
	}
}

// usualFacts are facts of a layer as most messages give them.
func usualFacts(l Layer) *Facts {
	f := NewFacts(l, Who{Agent: "a", Session: "a"})
	f.SetProcess(&Process{Exe: "/a", Args: []string{"a"}})
	switch l {
	case LayerDNS:
		f.SetQuestion("a", "A")
		return f
	case LayerHello:
		f.SetHello(TLS{SNI: "a", ALPN: []string{"h2"}, Version: "1.3"})
	case LayerConnect:
		f.SetConnect("a", false)
	case LayerRequest:
		f.SetRequest(HTTP{Host: "a"}, false)
	default:
		f.SetName("a")
	}
	f.SetAddr(netip.AddrFrom4([4]byte{8, 8, 8, 8}), 443, TCP)
	return f
}
