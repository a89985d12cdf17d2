package policy

import (
	"slices"
	"strings"
)

// maxAlike bounds the earlier rules that one rule is compared with for one
// value that both name.
const maxAlike = 16

// An alikeKey is what rules that may concern the same thing share: a class of
// fields and a value, or the apex of what is below it.
type alikeKey struct {
	class Field
	value string
	how   alikeness
}

type alikeness uint8

const (
	atValue    alikeness = iota // the value itself
	belowValue                  // all that is below it
	aboveValue                  // something below it: the value is above that

)

// classOf makes one of the fields that are the same name in a ClientHello or
// a request.
func classOf(x Field) Field {
	switch x {
	case HTTPHost, TLSSNI:
		return NetworkHostname
	}
	return x
}

// compareAll compares each rule with the earlier ones that name the same.
func (w *warner) compareAll() {
	seen := map[alikeKey][]*Rule{}
	first := map[*compiled]*Rule{}
	var loose, always, reading []*Rule // by ports and addresses only; by nothing; blocks by later fields
	for _, r := range w.rules {
		before := slices.Clone(always)
		if o := first[r.c]; o != nil {
			before = append(before, o)
		} else {
			first[r.c] = r
		}
		if len(r.c.texts) == 0 || len(r.c.port.consts) > 0 || len(r.c.ip.lits) > 0 {
			before = append(before, loose...)
		}
		for _, u := range r.c.texts {
			before = append(before, alike(seen, u)...)
		}
		w.compare(before, r)
		w.waits(reading, r)
		if r.Block && r.c.fields&laterFields != 0 && len(reading) < maxAlike {
			reading = append(reading, r)
		}
		for _, u := range r.c.texts {
			remember(seen, u, r)
		}
		switch {
		case len(r.c.texts) > 0:
		case r.c.fields == 0 && len(always) < maxAlike:
			always = append(always, r)
		case r.c.fields != 0 && len(loose) < maxAlike:
			loose = append(loose, r)
		}
	}
	if w.left {
		w.add(Warning{Code: WarnTooMany, Msg: "many rules name the same: not all of them were compared with each other"})
	}
}

// remember keeps a rule under what it names, and under all that is above.
func remember(seen map[alikeKey][]*Rule, u textUse, r *Rule) {
	k := alikeKey{classOf(u.field), strings.Trim(u.value, "."), atValue}
	if u.below {
		k.how = belowValue
	}
	for {
		if n := len(seen[k]); n < maxAlike && (n == 0 || seen[k][n-1] != r) {
			seen[k] = append(seen[k], r)
		}
		_, up, ok := strings.Cut(k.value, ".")
		if !ok || 1<<u.field&nameFields == 0 {
			return
		}
		k.value, k.how = up, aboveValue
	}
}

// alike finds the earlier rules that name the value, something above it, or,
// for what is below it, something there.
func alike(seen map[alikeKey][]*Rule, u textUse) []*Rule {
	class, name := classOf(u.field), strings.Trim(u.value, ".")
	out := slices.Clone(seen[alikeKey{class, name, atValue}])
	if u.below {
		out = append(out, seen[alikeKey{class, name, aboveValue}]...)
	}
	for {
		out = append(out, seen[alikeKey{class, name, belowValue}]...)
		_, up, ok := strings.Cut(name, ".")
		if !ok || 1<<u.field&nameFields == 0 {
			return out
		}
		name = up
	}
}

// compare says the worst that stands between a rule and those before it.
func (w *warner) compare(before []*Rule, r *Rule) {
	done := map[*Rule]bool{}
	for _, o := range before {
		if done[o] {
			continue
		}
		done[o] = true
		if r.Origin == Operator && w.shadows(o, r) {
			w.shadowed(o, r)
			return
		}
		w.overlap(o, r)
	}
}

// shadowed says that o leaves r nothing to decide.
func (w *warner) shadowed(o, r *Rule) {
	s, _ := w.shape(o)
	switch {
	case len(s) == 1 && len(s[0]) == 0:
		w.rule(r, WarnShadowed, "is never asked: rule '%s' before it matches everything", o.ID)
	case o.c == r.c:
		w.rule(r, WarnShadowed, "is shadowed by rule '%s', which has the same condition", o.ID)
	default:
		w.rule(r, WarnShadowed, "is shadowed by rule '%s', which matches wherever this does", o.ID)
	}
}

// shadows reports whether the earlier rule o decides wherever r could. It
// answers no where it is not sure.
func (w *warner) shadows(o, r *Rule) bool {
	if !o.Block {
		switch {
		case r.AllowPrivate && !o.AllowPrivate, r.c.fields.Has(NetworkIP) && !o.c.fields.Has(NetworkIP):
			return false // r opens addresses that o does not
		case r.c.fields.Has(DNSRecordType) && !o.c.fields.Has(DNSRecordType):
			return false // r answers types that o does not
		}
	}
	a, ok1 := w.shape(o)
	b, ok2 := w.shape(r)
	if !ok1 || !ok2 || len(b) == 0 {
		return false
	}
	bound := portAtom(r)
	need := portAtom(o)
	return !slices.ContainsFunc(b, func(c cube) bool {
		return !slices.ContainsFunc(a, func(k cube) bool {
			return slices.Concat(k, need).covers(slices.Concat(c, bound))
		})
	})
}

// portAtom is what egress.ports adds to a condition.
func portAtom(r *Rule) cube {
	if len(r.boundPorts()) == 0 || r.Block {
		return nil
	}
	a := atom{field: NetworkPort, kind: isPorts}
	for _, p := range r.boundPorts() {
		a.ports = append(a.ports, [2]int64{int64(p), int64(p)})
	}
	return cube{a}
}

// overlap warns of an allow and a block of equal priority that can both
// match: the order of the files decides, which is easily changed by accident.
func (w *warner) overlap(o, r *Rule) {
	if o.Block == r.Block || o.Priority != r.Priority || o.Origin != r.Origin {
		return
	}
	a, ok1 := w.shape(o)
	b, ok2 := w.shape(r)
	if !ok1 || !ok2 {
		return
	}
	for _, x := range a {
		for _, y := range b {
			if both, ok := meet(slices.Concat(x, portAtom(o)), slices.Concat(y, portAtom(r))); ok {
				w.rule(r, WarnOverlap, "and rule '%s' both match %s with equal priority, one allows and one blocks: their order in the files decides", o.ID, both)
				return
			}
		}
	}
}

// waits warns of a direct_ip rule whose flows wait for a block by what only
// their bytes tell.
func (w *warner) waits(blocks []*Rule, r *Rule) {
	if r.Block || r.Mode != ModeDirectIP {
		return
	}
	for _, o := range blocks {
		a, ok1 := w.shape(o)
		b, ok2 := w.shape(r)
		if !ok1 || !ok2 {
			return
		}
		for _, x := range a {
			for _, y := range b {
				if slices.Concat(x.atFlow(), y.atFlow(), portAtom(r)).satisfiable() {
					w.rule(r, WarnReadDirect, "is direct_ip, and rule '%s' before it blocks by fields that only bytes tell: flows wait to be read", o.ID)
					return
				}
			}
		}
	}
}

// atFlow is what a cube says of a first packet: not what only bytes tell. The
// name of a question is that of the flow.
func (c cube) atFlow() cube {
	var out cube
	for _, a := range c {
		if a.field < NumFields && !laterFields.Has(a.field) {
			if a.field == DNSQuery {
				a.field = NetworkHostname
			}
			out = append(out, a)
		}
	}
	return out
}

// meet reports whether two alternatives can hold together, and what both
// speak of: a name or an address in any of its fields, or anything at all
// where one of them does not narrow that.
func meet(x, y cube) (what string, ok bool) {
	joined := slices.Concat(x, y)
	if !joined.satisfiable() || !onOneLayer(joined.fields()) {
		return "", false
	}
	for _, a := range x {
		for _, b := range y {
			if a.field >= NumFields || b.field >= NumFields || classOf(a.field) != classOf(b.field) {
				continue
			}
			b.field = a.field
			if !a.excludes(b) && a.kind != isOther && b.kind != isOther && what == "" && 1<<a.field&whereFields != 0 {
				what = a.describe(b)
			} else if a.excludes(b) {
				return "", false
			}
		}
	}
	return what, what != ""
}

// describe names what two atoms of one field have in common.
func (a atom) describe(b atom) string {
	for _, t := range []atom{a, b} {
		if t.kind == isEqual && !t.not {
			for _, v := range t.values {
				if a.holds(v) && b.holds(v) {
					return a.field.String() + " " + v
				}
			}
		}
	}
	if a.kind == isWithin && b.kind == isWithin && b.net.Bits() > a.net.Bits() {
		return a.field.String() + " in " + b.net.String()
	}
	if a.kind == isWithin {
		return a.field.String() + " in " + a.net.String()
	}
	deeper := a
	if len(b.values) > 0 && len(a.values) > 0 && len(b.values[0]) > len(a.values[0]) {
		deeper = b
	}
	if len(deeper.values) == 0 {
		return a.field.String()
	}
	return a.field.String() + " below " + strings.Trim(deeper.values[0], ".")
}
