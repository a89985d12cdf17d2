// Package review tells a person what a rule file that an agent proposes would
// do: which names it holds and whose they are, which of the latest denials it
// would turn into allows, and what else it opens.
//
// Who wrote the file is not trusted, so nothing rests on how it looks. A name
// is shown with its registrable domain in brackets, punycode with the letters
// that it stands for, and a name that a reader could take for one of the active
// rules with that one beside it. What it opens is asked of the verdict
// functions, over events at the borders of its rules (package rulediff), and so
// does not depend on what its descriptions and comments claim.
package review

import (
	"fmt"
	"slices"
	"strings"

	"outcall/policy"
	"outcall/policy/replay"
	"outcall/policy/rulediff"
)

// A Review is what approving a file would change.
type Review struct {
	Rules []Rule `json:"rules"`
	// Denials are the latest ones, of which Judged could be asked again; Allows
	// are those of them that the file lets pass.
	Denials int       `json:"denials"`
	Judged  int       `json:"judged"`
	Allows  []Attempt `json:"allows"`
	// Opens is what else passes, by target. Left counts rules that have more
	// events than are tried.
	Opens    []Opening `json:"opens"`
	Left     int       `json:"rules_left,omitempty"`
	Warnings []string  `json:"warnings"`
}

// A Rule is one rule of the file.
type Rule struct {
	ID       string   `json:"id"`
	Action   string   `json:"action"`
	Priority int32    `json:"priority"`
	Names    []Name   `json:"names"`
	Notes    []string `json:"notes,omitempty"`
}

// An Attempt is a denial that would be an allow.
type Attempt struct {
	Attempt string `json:"attempt"`
	Count   int    `json:"count"`
	Rule    string `json:"rule"`
}

// An Opening is one target and what may be done with it.
type Opening struct {
	Target string   `json:"target"`
	Uses   []string `json:"uses"`
	Rules  []string `json:"rules"`
}

// Of reviews a file: proposed are its rules alone, before and after the rule
// sets without and with it, and denials the latest ones of the session.
func Of(proposed, before, after *policy.Snapshot, denials []policy.Event, who policy.Who) (*Review, error) {
	r := &Review{Rules: []Rule{}, Allows: []Attempt{}, Opens: []Opening{}, Warnings: []string{}}
	known := knownNames(before)
	own, named := map[string]bool{}, map[string]bool{}
	for _, p := range proposed.Rules() {
		rule := ruleOf(p, known)
		r.Rules = append(r.Rules, rule)
		own[p.ID] = true
		for _, n := range rule.Names {
			named[n.Name] = true
		}
	}
	for _, w := range after.Findings() {
		if own[w.Rule] {
			r.Warnings = append(r.Warnings, "rule "+w.Rule+": "+w.Msg)
		}
	}
	covered := r.denials(before, after, denials)
	return r, r.openings(before, after, who, named, covered)
}

// denials asks again about what was denied. It returns which uses of which
// targets that covers.
func (r *Review) denials(before, after *policy.Snapshot, denials []policy.Event) map[[2]string]bool {
	var log replay.Log
	for _, e := range denials {
		log.Add(e)
	}
	report := rulediff.Replayed(before, after, &log)
	r.Denials, r.Judged = log.Total(), report.Events
	for _, c := range report.Changes {
		if c.After.Verdict == policy.VerdictAllow {
			r.allow(Attempt{c.Event, c.Count, c.After.Rule})
		}
	}
	covered := map[[2]string]bool{}
	for _, a := range log.Attempts {
		if e := a.Event; e.Query != "" {
			covered[[2]string{e.Query, "dns " + e.RecordType}] = true
		}
	}
	return covered
}

// allow counts equal attempts as one.
func (r *Review) allow(a Attempt) {
	for i, o := range r.Allows {
		if o.Attempt == a.Attempt && o.Rule == a.Rule {
			r.Allows[i].Count += a.Count
			return
		}
	}
	r.Allows = append(r.Allows, a)
}

// maxTargets bounds what is told of openings; a person reads no more.
const maxTargets = 64

func (r *Review) openings(before, after *policy.Snapshot, who policy.Who, named map[string]bool, covered map[[2]string]bool) error {
	opened, left, err := rulediff.Opened(before, after, who)
	if err != nil {
		return fmt.Errorf("review: %w", err)
	}
	r.Left = left
	at := map[string]int{}
	for _, o := range opened {
		target := rulediff.Target(o.Event, func(n string) bool { return named[n] })
		use := rulediff.Use(o.Event)
		if covered[[2]string{target, use}] {
			continue
		}
		i, ok := at[target]
		if !ok {
			if len(r.Opens) == maxTargets {
				r.Left++
				continue
			}
			i = len(r.Opens)
			at[target] = i
			r.Opens = append(r.Opens, Opening{Target: target})
		}
		put(&r.Opens[i].Uses, use)
		put(&r.Opens[i].Rules, o.Rule)
	}
	for i := range r.Opens {
		uses := r.Opens[i].Uses
		r.Opens[i].Uses = slices.DeleteFunc(slices.Clone(uses), func(u string) bool { return implied(u, uses) })
	}
	return nil
}

// implied reports a use that another one says already: what is in a flow that
// passes whatever is in it.
func implied(use string, all []string) bool {
	for _, flow := range all {
		proto, port, ok := strings.Cut(flow, "/")
		if ok && !strings.Contains(proto, " ") && (strings.HasSuffix(use, " "+flow) || proto == "tcp" && strings.HasSuffix(use, " port "+port)) {
			return true
		}
	}
	return false
}

func put(list *[]string, s string) {
	if !slices.Contains(*list, s) {
		*list = append(*list, s)
	}
}

func ruleOf(p *policy.Rule, known map[string]string) Rule {
	r := Rule{ID: p.ID, Action: "allow", Priority: p.Priority, Names: []Name{}}
	if p.Block {
		r.Action = "block"
	}
	for _, u := range p.Uses().Texts {
		if !u.Field.Named() {
			continue
		}
		n := nameOf(u, known)
		if !slices.ContainsFunc(r.Names, func(o Name) bool { return o.Shown == n.Shown }) {
			r.Names = append(r.Names, n)
		}
	}
	if len(r.Names) == 0 && !p.Block {
		r.Notes = append(r.Notes, "it is bound to no name")
	}
	return r
}
