package netstack

import (
	"context"

	"outcall/policy"
)

// reloading is a reload that has begun: where old is still the current set,
// new is judged with.
type reloading struct{ old, new *policy.Snapshot }

// Reload judges every live flow again by the new rule set, on the facts that
// were kept with it, and ends those that it denies. The caller calls it before
// it makes new the current set: from here on every verdict of this package is
// new's, so that no flow is begun under the old set behind the sweep's back.
// It returns the number of flows that were ended.
func (s *Stack) Reload(ctx context.Context, old, new *policy.Snapshot) int {
	s.next.Store(&reloading{old: old, new: new})
	n := 0
	for _, f := range s.flows.all() {
		if ctx.Err() != nil {
			// Not judged again is not allowed.
			s.flows.drop(f, errRevoked)
			n++
			continue
		}
		if !s.recheck(f, new) {
			n++
		}
	}
	return n
}

// recheck judges a flow's steps by snap and ends it where one is denied.
func (s *Stack) recheck(f *flow, snap *policy.Snapshot) bool {
	ok := false
	s.guard("reload", func() { ok = s.standing(f, snap) })
	if !ok {
		s.flows.drop(f, errRevoked)
	}
	return ok
}

func (s *Stack) standing(f *flow, snap *policy.Snapshot) bool {
	for _, st := range f.judged() {
		cands, h := s.cfg.Pins.Candidates(st.addr), s.cfg.Host()
		var out policy.Flow
		if st.layer == policy.LayerFlow {
			out = snap.Flow(st.facts.Clone(), st.addr, cands, h)
		} else {
			out = snap.Content(st.facts.Clone(), st.addr, cands, h)
		}
		if r := s.rule(st.facts, out, len(cands) > 0); !r.pass {
			i := f.info()
			r = s.byRule(snap, st, i.Host, r)
			e := eventOf(f.id, i.Dst, i.Protocol, i.Host, i.Process)
			r.Reason = "rules were reloaded: " + r.Reason
			s.verdict(st.layer, r, e)
			return false
		}
	}
	return true
}

// byRule names the rule that denies a flow, where all that shows is that its
// pin is gone: the same rule has taken the pin away first.
func (s *Stack) byRule(snap *policy.Snapshot, st step, name string, r ruling) ruling {
	if !r.Structural && r.Rule != nil || name == "" {
		return r
	}
	own, h := []policy.Candidate{{Name: name}}, s.cfg.Host()
	judge := snap.Content
	if st.layer == policy.LayerFlow {
		judge = snap.Flow
	}
	if again := s.rule(st.facts, judge(st.facts.Clone(), st.addr, own, h), true); !again.pass {
		return again
	}
	return r
}

// current makes sure that a flow which has just been judged with snap, and has
// been bound, is not older than a reload that ran meanwhile.
func (s *Stack) current(f *flow, snap *policy.Snapshot) bool {
	now := s.snapshot()
	return now == snap || s.recheck(f, now)
}
