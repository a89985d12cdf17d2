package policy

import (
	"net/netip"
	"slices"
	"sync"
)

// A doorKind is what stands before an address, as far as a plan needs it.
type doorKind uint8

const (
	openDoor    doorKind = iota // nothing: a Global address, or none
	namedDoor                   // a Private address of a flow that has a name
	specialDoor                 // any other
)

// A door is an address of a special class.
type door struct {
	addr  netip.Addr
	class Class
	host  *Host
}

func (d *door) kind(name string) doorKind {
	switch {
	case d == nil || d.class == Global:
		return openDoor
	case d.class == Private && name != "":
		return namedDoor
	}
	return specialDoor
}

// mayPass is false for an allow rule that never opens what is behind such a
// door (see Rule.opens), whatever its condition gives.
func (r *Rule) mayPass(d doorKind) bool {
	return d == openDoor || d == namedDoor && r.AllowPrivate || len(r.c.ip.lits) > 0 || slices.Contains(r.c.strings, HostName)
}

// An inquiry gives the rules that a walk asks, in order.
type inquiry struct {
	rules []*Rule
	next  int // of rules, where no index chooses
	index *chosen
	plan  *plan
}

// A chosen is the part of an inquiry that an index makes. It is kept for the
// next one: a verdict allocates nothing.
type chosen struct {
	few  []uint32   // true keys, grants, and one of each group, in order
	each [][]uint32 // lists of which all are asked
	left []uint32   // of few
}

var chosenPool = sync.Pool{New: func() any { return new(chosen) }}

// ask begins a walk over the facts. end must be called after it.
func (s *Snapshot) ask(f *Facts, d doorKind, probe bool) inquiry {
	q := inquiry{rules: s.rules}
	if s.ix == nil {
		return q
	}
	if p := s.ix.plan(s.ix.situation(f, d, probe)); p != nil {
		q.plan = p
		q.index = chosenPool.Get().(*chosen)
		p.choose(f, q.index)
	}
	return q
}

func (q *inquiry) end() {
	if c := q.index; c != nil {
		c.few, c.left, c.each = c.few[:0], nil, c.each[:0]
		chosenPool.Put(c)
	}
}

// portStarts adds where the ports change something for rules that are alike
// and of which only the first was asked.
func (q *inquiry) portStarts(f *Facts, starts map[int]bool) {
	if q.plan == nil {
		return
	}
	for i := range q.plan.gated {
		for _, n := range q.plan.gated[i].behind(f).cuts {
			starts[n] = true
		}
	}
}

// rule returns the next rule, or nil.
func (q *inquiry) rule() *Rule {
	if q.index != nil {
		i, ok := q.index.pop()
		if !ok {
			return nil
		}
		return q.rules[i]
	}
	if q.next == len(q.rules) {
		return nil
	}
	q.next++
	return q.rules[q.next-1]
}

// pop returns the smallest place that is left, each once.
func (c *chosen) pop() (uint32, bool) {
	const none = ^uint32(0)
	i := none
	if len(c.left) > 0 {
		i = c.left[0]
	}
	for _, list := range c.each {
		if len(list) > 0 {
			i = min(i, list[0])
		}
	}
	if i == none {
		return 0, false
	}
	if len(c.left) > 0 && c.left[0] == i {
		c.left = c.left[1:]
	}
	for n, list := range c.each {
		if len(list) > 0 && list[0] == i {
			c.each[n] = list[1:]
		}
	}
	return i, true
}

// maxMerged is how many lists a walk merges as it goes; more are sorted.
const maxMerged = 4

// choose finds the rules to ask.
func (p *plan) choose(f *Facts, c *chosen) {
	c.few = p.hits(f, c.few)
	for _, g := range f.grants {
		c.few = append(c.few, p.ix.direct[g.Rule]...)
	}
	slices.Sort(c.few)
	c.few = slices.Compact(c.few)
	hits := len(c.few)
	for i := range p.gated {
		k := p.gated[i].behind(f)
		if len(k.each) > 0 {
			c.each = append(c.each, k.each)
		}
		for _, list := range k.alike {
			if n, ok := firstBut(list, c.few[:hits]); ok {
				c.few = append(c.few, n)
			}
		}
	}
	if len(c.each) > maxMerged {
		for _, list := range c.each {
			c.few = append(c.few, list...)
		}
		c.each = c.each[:0]
	}
	if len(c.few) > hits {
		slices.Sort(c.few)
		c.few = slices.Compact(c.few)
	}
	c.left = c.few
}

// behind returns the rules that the gates leave.
func (g *gateway) behind(f *Facts) *ranks {
	for _, t := range g.gates {
		if v, _ := t.eval(f, false); v != yes {
			return &g.shut
		}
	}
	return &g.open
}

// firstBut returns the first of a list that is not one of others; both are in
// order.
func firstBut(list, others []uint32) (uint32, bool) {
	for _, n := range list {
		if _, hit := slices.BinarySearch(others, n); !hit {
			return n, true
		}
	}
	return 0, false
}
