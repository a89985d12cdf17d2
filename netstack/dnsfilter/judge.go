package dnsfilter

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"outcall/netstack/pin"
	"outcall/policy"
)

// ruleset is what the filter asks of a snapshot. *policy.Snapshot has the
// methods; tests put others in their place.
type ruleset struct {
	generation uint64
	step       func(*policy.Facts) policy.Outcome
	openAddr   func(*policy.Facts, netip.Addr, *policy.Host) (bool, string)
	grants     func(*policy.Facts, netip.Addr) []policy.Grant
}

// current returns the rules in force, nil if there are none.
func (f *Filter) current() *ruleset {
	if f.cfg.Snapshot == nil {
		return nil
	}
	return rulesetOf(f.cfg.Snapshot())
}

func rulesetOf(s *policy.Snapshot) *ruleset {
	if s == nil {
		return nil
	}
	return &ruleset{generation: s.Generation, step: s.Step, openAddr: s.OpenAddr, grants: s.Grants}
}

// An ask is one thing that somebody wants to know: one name and one type.
type ask struct {
	name  string
	qtype uint16
	shown string // the name as answers carry it, with trailing dot

	process *policy.Process
	proxy   bool       // the explicit proxy asks: only a true dns block denies
	dry     bool       // for the operator: nothing is pinned, no audit line
	counts  bool       // with dry: it counts in the budgets all the same
	quiet   bool       // the caller writes the audit line
	keep    netip.Addr // an address that stays the name's, whatever the answer says
	turn    bool       // it has one of the turns of serve

	id       string
	src, dst netip.AddrPort
	proto    policy.Proto
	told     func(verdict string) (again bool) // joins retransmissions; may be nil
}

func (a *ask) facts(who policy.Who, qtype uint16) *policy.Facts {
	facts := policy.NewFacts(policy.LayerDNS, who)
	facts.SetQuestion(a.name, typeName(qtype))
	facts.SetProcess(a.process)
	return facts
}

// A verdict is the filter's word on one ask or one part of its answer.
type verdict struct {
	deny       bool
	would      bool // a rule denial that observe lets through
	structural bool
	nodata     bool // the name is allowed, only this type is not
	rule       string
	reason     string
	outcome    policy.Outcome
}

func (v verdict) word() string {
	switch {
	case v.deny:
		return "deny"
	case v.would:
		return "would_deny"
	}
	return "allow"
}

// structural returns a denial that holds in every mode.
func structural(reason string) verdict {
	return verdict{deny: true, structural: true, reason: reason}
}

// judge asks the rules about a question.
func (f *Filter) judge(r *ruleset, a *ask, facts *policy.Facts) verdict {
	out := r.step(facts)
	if x := out.Failed; x != nil {
		e := policy.FailureEvent(policy.LayerDNS, x)
		e.Time, e.Session, e.Agent = f.clock(), f.cfg.Who.Session, f.cfg.Who.Agent
		f.cfg.Audit.Record(e)
	}
	v := verdict{rule: out.RuleID(), reason: out.Reason, outcome: out}
	if metaType(a.qtype) {
		v = structural("type " + typeName(a.qtype) + " asks for no record of one type")
		v.nodata = f.otherType(r, a)
		return v
	}
	if answers(out, a.proxy) {
		return v
	}
	if !vetoes(out) {
		// Open names the allow that still waits; what denies is that none is true.
		v.rule = policy.DefaultPolicy
	}
	if f.cfg.Observe {
		v.would = true
		return v
	}
	v.deny = true
	v.nodata = f.otherType(r, a)
	return v
}

// answers is policy's table for dns; for the explicit proxy a true block
// vetoes, and no allow is needed.
func answers(out policy.Outcome, proxy bool) bool {
	if proxy {
		return !vetoes(out)
	}
	return policy.Act(policy.LayerDNS, policy.UDP, out, false) == policy.Answer
}

// vetoes reports whether a block is true for the name, which stops even what
// needs no dns allow. The default policy is no veto.
func vetoes(out policy.Outcome) bool {
	return !policy.MayResolve(policy.Outcome{Word: policy.Allow}, out)
}

// otherType reports whether the name is allowed for addresses, so that only
// this type is denied. Saying NXDOMAIN then would deny the whole name.
func (f *Filter) otherType(r *ruleset, a *ask) bool {
	for _, t := range []uint16{typeA, typeAAAA} {
		if t != a.qtype && answers(r.step(a.facts(f.cfg.Who, t)), false) {
			return true
		}
	}
	return false
}

// vetoChain asks the rules about each CNAME link. A link never needs an
// allow, but a block of its name stops the answer.
func (f *Filter) vetoChain(r *ruleset, a *ask, chain []string) (verdict, bool) {
	for _, link := range chain {
		l := *a
		l.name = link
		out := r.step(l.facts(f.cfg.Who, a.qtype))
		if !vetoes(out) {
			continue
		}
		v := verdict{rule: out.RuleID(), reason: "CNAME link: " + out.Reason, outcome: out}
		v.deny, v.would = !f.cfg.Observe, f.cfg.Observe
		return v, true
	}
	return verdict{}, false
}

// open reports whether an address may be an answer for a name. Addresses that
// the filter itself gave the name are; nobody else's answer may have them.
func (f *Filter) open(r *ruleset, name string, facts *policy.Facts, addr netip.Addr) (bool, string) {
	if name == HostName && (addr == f.cfg.Host4 || addr == f.cfg.Host6) || f.synth.has(name, addr) {
		return true, ""
	}
	if f.synth != nil && f.cfg.Synthetic.Contains(addr) {
		return false, "a synthetic address of another name"
	}
	return r.openAddr(facts, addr, f.cfg.Host())
}

// Rules returns what a snapshot says of pins, for pin.Table.Reload: the same
// judging as for a question, on the facts kept with each pin.
func (f *Filter) Rules(s *policy.Snapshot) pin.Rules {
	r := rulesetOf(s)
	return pin.Rules{
		Generation: s.Generation,
		Cells: func(name string, addr netip.Addr, grants []policy.Grant) []policy.Cell {
			return s.Cells(f.cfg.Who, name, addr, grants, f.cfg.Host())
		},
		Judge:   func(p pin.Pin) ([]policy.Grant, bool) { return f.rejudge(r, p) },
		Refused: f.grantRefused,
	}
}

// grantRefused notes that a pin was made without the grant of a rule.
func (f *Filter) grantRefused(rule string) {
	f.limits.hit(fmt.Sprintf("more than %d direct_ip grants of rule %s", pin.MaxGrants, rule))
}

func (f *Filter) rejudge(r *ruleset, p pin.Pin) (_ []policy.Grant, keep bool) {
	// A panic is no verdict, and so a denial.
	defer func() {
		if recover() != nil {
			keep = false
		}
	}()
	if p.Facts == nil {
		return nil, false
	}
	if !f.cfg.Observe && !answers(r.step(p.Facts), p.Proxy) {
		return nil, false
	}
	if ok, _ := f.open(r, p.Name, p.Facts, p.Addr); !ok {
		return nil, false
	}
	return r.grants(p.Facts, p.Addr), true
}

// tell writes the verdict line of an ask, once, and reports whether the audit
// is being written: without its line nothing is allowed.
func (f *Filter) tell(a *ask, v verdict) bool {
	if a.dry {
		return true
	}
	if a.quiet || a.told != nil && a.told(v.word()) {
		return f.cfg.Audit.Err() == nil
	}
	switch {
	case v.deny:
		f.stats.blocked.Add(1)
	default:
		f.stats.allowed.Add(1)
	}
	f.cfg.Audit.Record(f.event(a, v))
	return f.cfg.Audit.Err() == nil
}

func (f *Filter) event(a *ask, v verdict) policy.Event {
	e := policy.Event{
		Time: f.clock(), Event: "verdict", Session: f.cfg.Who.Session, Agent: f.cfg.Who.Agent,
		ID: a.id, Layer: policy.LayerDNS.String(), Verdict: v.word(), Rule: v.rule, Reason: v.reason,
		Structural: v.structural, Query: a.name, RecordType: typeName(a.qtype), Protocol: string(a.proto),
		Process: a.process,
	}
	if dst := a.dst.Addr().Unmap(); dst.IsValid() && dst != f.cfg.Gateway4 && dst != f.cfg.Gateway6 {
		// The agent asked another resolver; the line says which.
		e.IP, e.Port = dst.String(), a.dst.Port()
	}
	return e
}

func (f *Filter) limitEvent(reason string, count int) {
	if count <= 0 {
		return
	}
	f.cfg.Audit.Record(policy.Event{
		Time: f.clock(), Event: "limit", Session: f.cfg.Who.Session, Agent: f.cfg.Who.Agent,
		Layer: policy.LayerDNS.String(), Verdict: "deny", Reason: reason, Structural: true, Count: count,
	})
}

// attribute finds who asks. It never waits longer than the question may.
func (f *Filter) attribute(ctx context.Context, proto policy.Proto, src, dst netip.AddrPort) *policy.Process {
	ctx, cancel := context.WithTimeout(ctx, attributeTimeout)
	defer cancel()
	return f.cfg.Attribute(ctx, proto, src, dst)
}

// attributeTimeout is more than the attributor's own bound (20 ms).
const attributeTimeout = 100 * time.Millisecond
