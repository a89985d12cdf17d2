package policy

import "slices"

// dynamic is the answer that depends on values: the rule must be asked.
const dynamic truth = 100

// An answer is what a condition or a rule gives.
type answer struct {
	v      truth
	fields FieldSet
}

// A gateID names a comparison that is a gate: its place among the atoms, and
// in the lowest bit whether it is negated.
type gateID uint32

// A lean is a condition (then a rule) as far as one situation and its keys and
// gates decide it: if no key is true, the answer is open while every gate is
// true, else shut.
type lean struct {
	open, shut answer
	gates      []gateID // in order
	keys       []uint32
}

// lean leans a term.
func (m *planMaker) lean(t *term, block bool) lean {
	switch {
	case t.op == opAll || t.op == opAny:
		return m.leanJoin(t, block)
	case t.op == opFalse,
		t.op == opCEL && t.leaf.fields&m.at.known == 0,
		t.isAtom() && !m.at.known.Has(t.field):
		v, fields := t.eval(m.f, block)
		return lean{open: answer{v, fields}}
	case t.op == opCEL:
		return lean{open: answer{v: dynamic}}
	}
	id := m.ix.ids[t]
	a := &m.ix.atoms[id]
	switch {
	case a.uses > m.ix.common:
		g := gateID(id << 1)
		if t.neg {
			g |= 1
		}
		return lean{open: answer{v: yes}, gates: []gateID{g}}
	case a.indexed:
		return lean{open: answer{v: t.turned(false)}, keys: a.keys}
	}
	return lean{open: answer{v: dynamic}}
}

// leanJoin leans && and ||. One part that decides alone is enough: the one
// whose keys are the rarest. Else all parts together.
func (m *planMaker) leanJoin(t *term, block bool) lean {
	decides := no
	if t.op == opAny {
		decides = yes
	}
	kids := make([]lean, len(t.kids))
	best, cost := -1, 0
	for i, k := range t.kids {
		kids[i] = m.lean(k, block)
		if kids[i].open.v != decides || len(kids[i].gates) > 0 {
			continue
		}
		if c := m.cost(kids[i].keys); best < 0 || c < cost {
			best, cost = i, c
		}
	}
	if best >= 0 {
		return kids[best]
	}
	out := kids[0]
	out.keys = slices.Clone(out.keys)
	for _, k := range kids[1:] {
		out = both2(out, k, decides)
	}
	return out
}

func (m *planMaker) cost(keys []uint32) int {
	n := 0
	for _, k := range keys {
		n += m.ix.keys.uses[k]
	}
	return n
}

// both2 joins two leans; decides is the answer that decides alone.
func both2(a, b lean, decides truth) lean {
	keys := append(a.keys, b.keys...)
	switch {
	case len(a.gates) == 0 && len(b.gates) == 0:
		return lean{open: joined(a.open, b.open, decides), keys: keys}.tidy()
	case len(b.gates) == 0:
		return lean{joined(a.open, b.open, decides), joined(a.shut, b.open, decides), a.gates, keys}.tidy()
	case len(a.gates) == 0:
		return lean{joined(a.open, b.open, decides), joined(a.open, b.shut, decides), b.gates, keys}.tidy()
	case slices.Equal(a.gates, b.gates):
		return lean{joined(a.open, b.open, decides), joined(a.shut, b.shut, decides), a.gates, keys}.tidy()
	case a.shut.v == decides && b.shut.v == decides:
		gates := slices.Concat(a.gates, b.gates)
		slices.Sort(gates)
		return lean{joined(a.open, b.open, decides), a.shut, slices.Compact(gates), keys}.tidy()
	case a.shut.v == decides:
		return lean{answer{v: dynamic}, a.shut, a.gates, keys}
	case b.shut.v == decides:
		return lean{answer{v: dynamic}, b.shut, b.gates, keys}
	}
	return lean{open: answer{v: dynamic}}
}

// tidy drops gates that change nothing and keys that are not needed.
func (l lean) tidy() lean {
	if len(l.gates) > 0 && l.open == l.shut {
		l.gates, l.shut = nil, answer{}
	}
	if len(l.gates) == 0 && l.open.v == dynamic {
		l.keys = nil
	}
	return l
}

// joined is && (decides: no) or || (decides: yes) of two answers, as term.join
// has it.
func joined(a, b answer, decides truth) answer {
	neutral := yes - decides
	switch {
	case a.v == decides, b.v == neutral:
		return a
	case b.v == decides, a.v == neutral:
		return b
	case a.v == dynamic || b.v == dynamic:
		return answer{v: dynamic}
	case a.v == hidden || b.v == hidden:
		return answer{hidden, a.fields | b.fields} // an error has no fields
	}
	return a // both failed
}

// leanRule leans a whole rule: its answers are those of allows or blocks.
func (m *planMaker) leanRule(i int, r *Rule) lean {
	if m.at.probe && (r.c.ip.opaque || r.c.port.opaque) {
		return lean{open: answer{v: dynamic}} // it is asked over other facts
	}
	if r.Block {
		return m.leanBlock(r)
	}
	if m.at.layer == LayerDNS && !m.at.usual && !r.c.fields.Has(DNSRecordType) {
		return lean{}
	}
	if !r.mayPass(m.at.door) {
		return lean{}
	}
	must := m.at.door != openDoor && !(m.at.door == namedDoor && r.AllowPrivate)
	l := m.leanAllow(i, r)
	if must {
		for _, a := range []*answer{&l.open, &l.shut} {
			if a.v != no {
				a.v, a.fields = dynamic, 0 // asked whether it opens the address
			}
		}
		l = l.tidy()
	}
	return l
}

// leanAllow is what Rule.allows gives, without grants: a rule that has one is
// asked.
func (m *planMaker) leanAllow(i int, r *Rule) lean {
	l := m.lean(r.c.parts[0], false)
	port := m.ix.ports[i]
	if m.at.layer == LayerRun && m.f.state[NetworkPort] == Absent && !m.at.known.Has(NetworkPort) {
		port = nil
	}
	waits := false
	if port != nil && !m.at.known.Has(NetworkPort) {
		if !m.at.later.Has(NetworkPort) {
			return lean{}
		}
		waits, port = m.at.layer != LayerDNS, nil
	}
	l.open = m.allowAnswer(r, l.open, waits)
	if len(l.gates) > 0 {
		l.shut = m.allowAnswer(r, l.shut, waits)
	}
	l = l.tidy()
	if port == nil || l.open.v == no && (len(l.gates) == 0 || l.shut.v == no) {
		return l
	}
	p := m.lean(port, false)
	if len(p.gates) == 0 {
		return p // on none of its ports it does not match
	}
	l.keys = slices.Clone(l.keys)
	return both2(p, l, no)
}

// allowAnswer is what a rule makes of what its condition gives.
func (m *planMaker) allowAnswer(r *Rule, a answer, waitsPort bool) answer {
	switch a.v {
	case dynamic:
		return a
	case yes:
		if waitsPort {
			return answer{waiting, FieldSet(0).With(NetworkPort)}
		}
		return a
	case hidden:
		if later := a.fields & m.at.later; later != 0 {
			return answer{waiting, later}
		}
	}
	if r.Mode == ModeDirectIP && m.at.layer >= LayerConnect && m.at.layer <= LayerRequest && m.at.later.Has(NetworkIP) {
		return answer{waiting, FieldSet(0).With(NetworkIP)}
	}
	if a.v == failed {
		return answer{v: dynamic} // asked, so that the failure is told
	}
	return answer{}
}

// leanBlock is what Rule.blocks gives: its parts one after the other, until
// one decides.
func (m *planMaker) leanBlock(r *Rule) lean {
	var out lean
	for _, t := range r.c.parts {
		l := m.lean(t, true)
		l.open = m.blockAnswer(l.open)
		if len(l.gates) > 0 {
			l.shut = m.blockAnswer(l.shut)
		}
		out = inTurn(out, l)
	}
	return out
}

func (m *planMaker) blockAnswer(a answer) answer {
	if a.v != hidden {
		return a
	}
	if later := a.fields & m.at.later; later != 0 {
		return answer{waiting, later}
	}
	return answer{hidden, a.fields & m.at.hidden}
}

// inTurn joins two parts of a block.
func inTurn(a, b lean) lean {
	keys := slices.Concat(a.keys, b.keys)
	switch {
	case len(a.gates) == 0 && len(b.gates) == 0:
		return lean{open: either(a.open, b.open), keys: keys}.tidy()
	case len(b.gates) == 0:
		return lean{either(a.open, b.open), either(a.shut, b.open), a.gates, keys}.tidy()
	case len(a.gates) == 0:
		return lean{either(a.open, b.open), either(a.open, b.shut), b.gates, keys}.tidy()
	case slices.Equal(a.gates, b.gates):
		return lean{either(a.open, b.open), either(a.shut, b.shut), a.gates, keys}.tidy()
	}
	return lean{open: answer{v: dynamic}}
}

// either is the answer of two parts of a block.
func either(a, b answer) answer {
	switch {
	case a.v == no:
		return b
	case b.v == no:
		return a
	case a.v == dynamic || b.v == dynamic && a.v == waiting:
		return answer{v: dynamic}
	case a.v == waiting && b.v == waiting:
		return answer{waiting, a.fields | b.fields}
	case a.v == waiting:
		return b
	}
	return a
}
