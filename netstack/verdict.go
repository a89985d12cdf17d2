package netstack

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"time"

	"outcall/policy"
)

// A ruling is what a verdict comes to on the data path.
type ruling struct {
	policy.Flow
	pass  bool // go on
	hold  bool // go on, but nothing of the client's leaves before the next layer
	would bool // observe: it passes although enforce would deny it
}

// verdictWord is what the audit calls it.
func (r ruling) verdictWord() string {
	switch {
	case r.would:
		return "would_deny"
	case r.pass:
		return "allow"
	}
	return "deny"
}

// allowedBy is the rule that let it pass, "" where observe did.
func (r ruling) allowedBy() string {
	if r.would || r.Rule == nil {
		return ""
	}
	return r.Rule.ID
}

// structural makes the denial of something that cannot be judged.
func structural(reason string) ruling {
	return ruling{Flow: policy.Flow{Structural: true, Outcome: policy.Outcome{Reason: reason}}}
}

// rule turns what the rules say of the facts into a ruling by policy's table.
// pinned is as in policy.Act.
func (s *Stack) rule(facts *policy.Facts, out policy.Flow, pinned bool) ruling {
	r := ruling{Flow: out}
	l, proto := facts.Layer(), facts.Proto()
	s.failed(l, out.Failed)
	act := policy.Act(l, proto, out.Outcome, pinned)
	if s.cfg.Observe {
		act, r.would = policy.Observe(l, proto, out, pinned)
	}
	r.pass = act != policy.Refuse
	r.hold = act == policy.Hold
	return r
}

// failed tells of a rule that could not be evaluated.
func (s *Stack) failed(l policy.Layer, x *policy.Failure) {
	if x == nil {
		return
	}
	e := policy.FailureEvent(l, x)
	e.Time, e.Session, e.Agent = time.Now(), s.cfg.Who.Session, s.cfg.Who.Agent
	s.cfg.Auditor.Record(e)
}

// snapshot returns the rule set to judge with: the new one from the moment
// that Reload has begun.
func (s *Stack) snapshot() *policy.Snapshot {
	cur := s.cfg.Snapshot()
	if n := s.next.Load(); n != nil && n.old == cur {
		return n.new
	}
	return cur
}

func (s *Stack) attribute(ctx context.Context, t Tuple) *policy.Process {
	if s.cfg.Attributor == nil {
		return nil
	}
	return s.cfg.Attributor.Attribute(ctx, t)
}

// facts begins the facts of one step.
func (s *Stack) facts(l policy.Layer, proc *policy.Process, dst netip.AddrPort, proto policy.Proto) *policy.Facts {
	f := policy.NewFacts(l, s.cfg.Who)
	f.SetProcess(proc)
	f.SetAddr(dst.Addr(), dst.Port(), proto)
	return f
}

// newID makes the id of an attempt. It is one form for all, since an attempt
// that was allowed at first keeps its id when a later layer denies it.
func newID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails on Linux; it ends the program
	return "d-" + hex.EncodeToString(b[:])
}

// maxPath bounds http.path in the audit (the house's sizes).
const maxPath = 1 << 10

// verdict writes the line of one verdict, e has what is special to it, and
// returns what the attempt comes to: without its line it is denied.
func (s *Stack) verdict(l policy.Layer, r ruling, e policy.Event) ruling {
	s.record(l, r, e)
	if r.pass && s.cfg.Auditor.Err() != nil {
		// The line of the denial waits with the other one, under the same id.
		r = structural(policy.NoAudit)
		s.record(l, r, e)
	}
	return r
}

func (s *Stack) record(l policy.Layer, r ruling, e policy.Event) {
	e.Time = time.Now()
	e.Event = "verdict"
	e.Session, e.Agent = s.cfg.Who.Session, s.cfg.Who.Agent
	e.Layer = l.String()
	e.Verdict = r.verdictWord()
	if r.Rule != nil {
		e.Rule = r.Rule.ID
	}
	if e.Verdict != "allow" {
		e.Reason = r.Reason
		if e.Rule == "" {
			e.Rule = policy.DefaultPolicy
		}
	}
	e.Structural = r.Structural
	if len(e.Path) > maxPath {
		e.Path = e.Path[:maxPath]
	}
	if e.Verdict == "deny" {
		s.stats.refused.Add(1)
	}
	s.cfg.Auditor.Record(e)
}

// eventOf fills in what the flow layer knows.
func eventOf(id string, dst netip.AddrPort, proto policy.Proto, name string, proc *policy.Process) policy.Event {
	return policy.Event{ID: id, Host: name, IP: addrText(dst.Addr()), Port: dst.Port(), Protocol: string(proto), Process: proc}
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
