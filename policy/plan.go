package policy

import (
	"encoding/binary"
	"slices"
)

// A plan is the index for one situation.
type plan struct {
	ix *index
	at situation
	// rules of key k are rules[starts[k]:starts[k+1]].
	starts, rules []uint32
	gated         []gateway
}

// A gateway holds the rules that stand behind the same gates: open are those
// that matter if every gate is true, shut those that do if one is not.
type gateway struct {
	gates      []*term
	open, shut ranks
}

// ranks are rules (by place) in order.
type ranks struct {
	alike [][]uint32 // of each list the first is asked that has no true key
	each  []uint32   // all of these are asked
	cuts  []int      // for probes: where the ports of those alike change something
}

// A planMaker makes one plan.
type planMaker struct {
	*plan
	f     *Facts // the situation, without values
	pairs []pair
	place map[string]*gathering
	order []*gathering
}

// A pair says that a rule has a key.
type pair struct{ key, rule uint32 }

// A gathering is a gateway in the making.
type gathering struct {
	gateway
	groups map[groupKey]int // place in alike
}

type groupKey struct {
	shut, block bool
	v           truth
	fields      FieldSet
}

func newPlan(ix *index, at situation) *plan {
	m := &planMaker{plan: &plan{ix: ix, at: at}, f: &Facts{layer: at.layer}, place: map[string]*gathering{}}
	for x := Field(0); x < NumFields; x++ {
		switch {
		case at.later.Has(x):
			m.f.Hide(x, Later)
		case at.hidden.Has(x):
			m.f.Hide(x, Hidden)
		}
	}
	for i, r := range ix.rules {
		m.add(uint32(i), r, m.leanRule(i, r))
	}
	m.sortPairs()
	for _, g := range m.order {
		if at.probe {
			g.open.cut(ix.rules)
			g.shut.cut(ix.rules)
		}
		m.gated = append(m.gated, g.gateway)
	}
	return m.plan
}

// add puts a rule where its answers belong.
func (m *planMaker) add(i uint32, r *Rule, l lean) {
	if l.open.v == no && (len(l.gates) == 0 || l.shut.v == no) && len(l.keys) == 0 {
		return
	}
	for _, k := range l.keys {
		m.pairs = append(m.pairs, pair{k, i})
	}
	if l.open.v != no {
		m.gathering(l.gates).put(i, r, l.open, false)
	}
	if len(l.gates) > 0 && l.shut.v != no {
		m.gathering(l.gates).put(i, r, l.shut, true)
	}
}

func (m *planMaker) gathering(gates []gateID) *gathering {
	var buf [64]byte
	name := buf[:0]
	for _, g := range gates {
		name = binary.AppendUvarint(name, uint64(g))
	}
	g := m.place[string(name)]
	if g == nil {
		g = &gathering{groups: map[groupKey]int{}}
		for _, id := range gates {
			t := *m.ix.atoms[id>>1].t
			t.neg = id&1 != 0
			g.gates = append(g.gates, &t)
		}
		m.place[string(name)] = g
		m.order = append(m.order, g)
	}
	return g
}

func (g *gathering) put(i uint32, r *Rule, a answer, shut bool) {
	to := &g.open
	if shut {
		to = &g.shut
	}
	if a.v == dynamic {
		to.each = append(to.each, i)
		return
	}
	key := groupKey{shut, r.Block, a.v, a.fields}
	n, ok := g.groups[key]
	if !ok {
		n = len(to.alike)
		g.groups[key] = n
		to.alike = append(to.alike, nil)
	}
	to.alike[n] = append(to.alike[n], i)
}

// sortPairs turns the pairs into starts and rules.
func (m *planMaker) sortPairs() {
	m.starts = make([]uint32, len(m.ix.keys.uses)+2)
	for _, p := range m.pairs {
		m.starts[p.key+2]++
	}
	for k := 2; k < len(m.starts); k++ {
		m.starts[k] += m.starts[k-1]
	}
	m.rules = make([]uint32, len(m.pairs))
	for _, p := range m.pairs {
		m.rules[m.starts[p.key+1]] = p.rule
		m.starts[p.key+1]++
	}
}

// cut notes where the ports change something for one of those alike.
func (k *ranks) cut(rules []*Rule) {
	starts := map[int]bool{}
	for _, list := range k.alike {
		for _, i := range list {
			rules[i].portStarts(starts)
		}
	}
	for n := range starts {
		k.cuts = append(k.cuts, n)
	}
	slices.Sort(k.cuts)
}
