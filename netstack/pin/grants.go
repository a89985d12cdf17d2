package pin

import (
	"maps"
	"slices"

	"outcall/policy"
)

// MaxGrants is the number of direct_ip grants that one rule has at all pins
// of the session. Beyond it a pin is made without the grant, and its flows are
// judged as if the rule had granted nothing; a grant that is held is never
// taken away for a new one.
const MaxGrants = 256

// A tally is the number of grants of each rule, by id.
type tally map[string]int

func (n tally) add(grants []policy.Grant, by int) {
	for _, g := range grants {
		if n[g.Rule] += by; n[g.Rule] == 0 {
			delete(n, g.Rule)
		}
	}
}

// A grantee is a pin that its rules grant what want says. What it holds is
// counted already.
type grantee struct{ holds, want []policy.Grant }

// admit returns the grants of each that there is room for, and the rules that
// had no room for one.
func (n tally) admit(list []grantee) (ok [][]policy.Grant, refused []string) {
	n = maps.Clone(n)
	for _, x := range list {
		for _, g := range x.holds {
			if !slices.Contains(x.want, g) {
				n.add([]policy.Grant{g}, -1)
			}
		}
	}
	for _, x := range list {
		var fits []policy.Grant
		for _, g := range x.want {
			switch {
			case slices.Contains(x.holds, g):
				fits = append(fits, g)
			case n[g.Rule] < MaxGrants:
				n[g.Rule]++
				fits = append(fits, g)
			default:
				refused = append(refused, g.Rule)
			}
		}
		ok = append(ok, fits)
	}
	slices.Sort(refused)
	return ok, slices.Compact(refused)
}

// admitted is b with the grants that there is room for, and the rules that
// had no room for one.
func (t *Table) admitted(b Binding) (_ Binding, refused []string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := make([]grantee, len(b.Addrs))
	for i, a := range b.Addrs {
		list[i].want = a.Grants
		if old := t.byKey[key{b.Name, a.Addr}]; old != nil {
			list[i].holds = old.grants
		}
	}
	ok, refused := t.grants.admit(list)
	b.Addrs = slices.Clone(b.Addrs)
	for i := range ok {
		b.Addrs[i].Grants = ok[i]
	}
	return b, refused
}

func tell(refused func(string), rules []string) {
	if refused == nil {
		return
	}
	for _, r := range rules {
		refused(r)
	}
}
