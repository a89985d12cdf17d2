package suggest

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// minSiblings is how many names below a parent must have been allowed, each by
// another label, before the parent may stand for them.
const minSiblings = 3

// groupKey is what rules must have in common to become one.
type groupKey struct {
	kind   kind
	ports  string
	domain string // the registrable one
}

// grouped puts rules together that are for names below one parent. What
// observe alone let pass is no reason to widen, and is not put in.
func (b *builder) grouped(rules []Rule) []Rule {
	members := map[groupKey][]Rule{}
	var out []Rule
	var keys []groupKey
	for _, r := range rules {
		domain, err := publicsuffix.EffectiveTLDPlusOne(r.want.host)
		if err != nil || r.want.kind != kindWeb && r.want.kind != kindTCP || r.WouldDeny || r.Private || r.want.host == domain {
			out = append(out, r)
			continue
		}
		k := groupKey{r.want.kind, portList(r.Ports), domain}
		if members[k] == nil {
			keys = append(keys, k)
		}
		members[k] = append(members[k], r)
	}
	var groups []Rule
	for _, k := range keys {
		if parent, ok := parentOf(members[k], k.domain); ok {
			groups = append(groups, group(members[k], parent))
		} else {
			out = append(out, members[k]...)
		}
	}
	for i, g := range groups {
		kept := out[:0]
		for _, r := range out {
			if g.stands(r) {
				groups[i].parts = append(groups[i].parts, r)
				groups[i].Attempts += r.Attempts
			} else {
				kept = append(kept, r)
			}
		}
		out = kept
	}
	return append(out, groups...)
}

// stands reports that a group's rule allows all that another rule does.
func (g Rule) stands(r Rule) bool {
	if r.want.host != g.parent && !strings.HasSuffix(r.want.host, "."+g.parent) || r.Private {
		return false
	}
	if r.want.kind == kindName {
		return true
	}
	inPorts := !slices.ContainsFunc(r.Ports, func(p uint16) bool { return !slices.Contains(g.Ports, p) })
	return r.want.kind == g.want.kind && inPorts
}

// parentOf returns the longest name that all are below, if it is the
// registrable domain or below it and minSiblings of its children are there.
func parentOf(rules []Rule, domain string) (string, bool) {
	parent := rules[0].want.host
	for _, r := range rules {
		for !strings.HasSuffix(r.want.host, "."+parent) {
			_, rest, ok := strings.Cut(parent, ".")
			if !ok {
				return "", false
			}
			parent = rest
		}
	}
	if parent != domain && !strings.HasSuffix(parent, "."+domain) {
		return "", false
	}
	var children []string
	for _, r := range rules {
		below := strings.TrimSuffix(r.want.host, "."+parent)
		child := below[strings.LastIndexByte(below, '.')+1:]
		if !slices.Contains(children, child) {
			children = append(children, child)
		}
	}
	return parent, len(children) >= minSiblings
}

// group is one rule for a parent and all below it.
func group(parts []Rule, parent string) Rule {
	w := parts[0].want
	r := Rule{ID: "below-" + parent + "-" + kindWords[w.kind] + "-" + strings.ReplaceAll(portList(parts[0].Ports), ", ", "-"),
		Ports: parts[0].Ports, width: int(kindAddr) + 1, want: w, parent: parent, parts: slices.Clone(parts)}
	if len(r.ID) > maxID {
		r.ID = "below-" + parts[0].ID
	}
	is := func(field string) string { return fmt.Sprintf(`domain(%s, "%s")`, field, parent) }
	r.Condition = is("dns.query") + " || " + is("http.host")
	if w.kind == kindTCP {
		r.Condition = is("dns.query") + " || (" + is("network.hostname") + ` && network.protocol == "tcp")`
	}
	for _, p := range parts {
		r.Attempts += p.Attempts
		for _, name := range p.Processes {
			if !slices.Contains(r.Processes, name) && len(r.Processes) < maxProcesses {
				r.Processes = append(r.Processes, name)
			}
		}
	}
	return r
}
