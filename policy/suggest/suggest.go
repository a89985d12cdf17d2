package suggest

import (
	"cmp"
	"slices"

	"outcall/policy"
	"outcall/policy/replay"
)

// Options say how far a suggestion may go.
type Options struct {
	// WouldDeny takes in what observe let pass although no rule allowed it.
	WouldDeny bool
	// Group lets three or more allowed names below one parent, which is no
	// public suffix, become one rule for all names below that parent.
	Group bool
}

// A Suggestion is a rule file with what it rests on.
type Suggestion struct {
	Rules    []Rule
	Attempts int // equal ones counted
	Allowed  int // of them, in the log
	Lost     int // that the log only counts
	Actions  int // of the agent API, which no rule here is about
	// Apart is what observe let pass and no rule of the suggestion allows.
	Apart []Entry
	// Denied is what was denied, and is with these rules.
	Denied []Entry
	// Changed is what was allowed and would be denied by these rules.
	Changed []Entry
}

// An Entry is a kind of attempts.
type Entry struct {
	Target  string   `json:"target"` // what was asked for, as text from inside the sandbox
	Layer   string   `json:"layer"`
	Process string   `json:"process,omitempty"` // the program of the first, as text from inside the sandbox
	Rule    string   `json:"rule"`              // that decided
	Reason  string   `json:"reason,omitempty"`
	Count   int      `json:"count"`
	Rules   []string `json:"conditions,omitempty"` // that would allow it; none where none can
}

// From makes a suggestion from a log.
func From(log *replay.Log, opt Options) (*Suggestion, error) {
	b := newBuilder(log, opt)
	rules := b.exact()
	if opt.Group {
		rules = b.grouped(rules)
	}
	rules, err := b.proved(rules)
	if err != nil {
		return nil, err
	}
	return b.finish(rules)
}

// proved loads the rules and replays the log, until no rule lets through what
// was denied. A rule for a group is taken apart, any other is taken back.
func (b *builder) proved(rules []Rule) ([]Rule, error) {
	for {
		snap, err := load(rules)
		if err != nil {
			return nil, err
		}
		wrong := b.widening(snap)
		if len(wrong) == 0 {
			return rules, nil
		}
		var kept []Rule
		for _, r := range rules {
			if !wrong[r.ID] {
				kept = append(kept, r)
			} else if r.parts != nil {
				kept = append(kept, r.parts...)
			}
		}
		rules = kept
	}
}

// widening returns the rules that allow what must stay denied.
func (b *builder) widening(snap *policy.Snapshot) map[string]bool {
	wrong := map[string]bool{}
	for _, a := range b.log.Attempts {
		if b.wanted(a) {
			continue
		}
		if v, ok := a.Judge(snap); ok && v.Allow {
			wrong[v.Rule] = true
		}
	}
	return wrong
}

func load(rules []Rule) (*policy.Snapshot, error) {
	return policy.Load([]policy.Source{source(rules)})
}

// finish leaves out what is not needed, and tells what the log looks like
// under the rules that remain.
func (b *builder) finish(rules []Rule) (*Suggestion, error) {
	rules = narrowestFirst(rules)
	snap, err := load(rules)
	if err != nil {
		return nil, err
	}
	s := &Suggestion{Rules: rules, Lost: b.log.Lost}
	var apart, denied, changed entries
	for _, a := range b.log.Attempts {
		v, ok := a.Judge(snap)
		if !ok {
			s.Actions += a.Count
			continue
		}
		s.Attempts += a.Count
		if a.Verdict == replay.Allow {
			s.Allowed += a.Count
		}
		switch {
		case v.Allow:
		case a.Verdict == replay.Allow:
			changed.add(a, nil)
		case a.Verdict == replay.WouldDeny:
			apart.add(a, b.wouldAllow(a))
		default:
			denied.add(a, nil)
		}
	}
	s.Apart, s.Denied, s.Changed = apart.list, denied.list, changed.list
	return s, nil
}

// wouldAllow are the conditions that would allow an attempt that was denied.
func (b *builder) wouldAllow(a *replay.Attempt) []string {
	w, ok := wantOf(a)
	if !ok || a.Rule != policy.DefaultPolicy {
		return nil
	}
	return []string{w.rule([]uint16{w.port}).Condition}
}

// entries sums attempts up by what they were about.
type entries struct {
	list []Entry
	at   map[string]int
}

func (es *entries) add(a *replay.Attempt, rules []string) {
	layer := a.Layer
	if a.Verdict == replay.Deny {
		layer = a.Decided
	}
	e := Entry{Target: target(a), Layer: layer.String(), Rule: a.Rule, Reason: a.Reason, Count: a.Count, Rules: rules}
	if a.Event.Process != nil {
		e.Process = a.Event.Process.Exe
	}
	key := e.Layer + "\x00" + e.Target + "\x00" + e.Rule
	if i, ok := es.at[key]; ok {
		es.list[i].Count += a.Count
		return
	}
	if es.at == nil {
		es.at = map[string]int{}
	}
	es.at[key] = len(es.list)
	es.list = append(es.list, e)
}

// narrowestFirst sorts rules by how much they open.
func narrowestFirst(rules []Rule) []Rule {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.width, b.width),
			cmp.Compare(len(a.Ports), len(b.Ports)), cmp.Compare(a.ID, b.ID))
	})
	return rules
}

// order keeps what enforce would deny behind the rest.
func order(r Rule) int {
	if r.WouldDeny {
		return 1
	}
	return 0
}
