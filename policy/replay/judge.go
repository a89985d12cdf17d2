package replay

import (
	"net/netip"

	"outcall/policy"
)

// A Verdict is what a rule set says of an attempt.
type Verdict struct {
	Allow  bool
	Rule   string // the deciding rule, or policy.DefaultPolicy
	Reason string
}

// standIn is the address of a name that was not resolved: a public one.
var standIn = netip.AddrFrom4([4]byte{8, 0, 0, 1})

// synthetic are the addresses that stand for names which only an upstream
// proxy can resolve. They count as public, as they did in the session.
var synthetic = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{240, 0, 0, 0}), 4)}

// Judge returns what the rules would have decided. ok is false where a log
// does not tell enough: the agent API's actions, and lines of a kind that is
// not known.
func (a *Attempt) Judge(s *policy.Snapshot) (v Verdict, ok bool) {
	if a.stays() {
		return Verdict{Rule: a.Rule, Reason: a.Reason}, true
	}
	j := judge{a: a, s: s, addr: standIn, proto: policy.Proto(a.Event.Protocol), host: &policy.Host{Synthetic: synthetic}}
	if addr, err := netip.ParseAddr(a.Event.IP); err == nil {
		j.addr = addr.Unmap().WithZone("")
	}
	if a.Event.Host == policy.HostName {
		j.host.Session = []netip.Prefix{netip.PrefixFrom(j.addr, j.addr.BitLen())} // whatever --subnet was
	}
	switch a.Layer {
	case policy.LayerDNS:
		_, o := j.question(a.Event.Query, a.Event.RecordType)
		return verdictOf(policy.Flow{Outcome: o}, policy.Act(policy.LayerDNS, "", o, false) == policy.Answer), true
	case policy.LayerFlow, policy.LayerHello, policy.LayerRaw:
		return j.flow(), true
	case policy.LayerConnect:
		return j.explicit(j.connect), true
	case policy.LayerRequest:
		return j.request(), true
	}
	return Verdict{}, false
}

// stays reports a denial that no rule changes: bytes that cannot be judged,
// questions that ask for no record, packets that are not carried.
func (a *Attempt) stays() bool {
	if a.Verdict != Deny || !a.Structural {
		return false
	}
	where := a.Decided == policy.LayerFlow || a.Decided == policy.LayerConnect
	return !where || a.Event.Protocol != string(policy.TCP)
}

// A judge asks about one attempt.
type judge struct {
	a     *Attempt
	s     *policy.Snapshot
	addr  netip.Addr
	proto policy.Proto
	host  *policy.Host
}

func (j *judge) facts(l policy.Layer) *policy.Facts {
	f := policy.NewFacts(l, policy.Who{Agent: j.a.Event.Agent, Session: j.a.Event.Session})
	f.SetProcess(j.a.Event.Process)
	return f
}

func (j *judge) question(name, typ string) (*policy.Facts, policy.Outcome) {
	f := j.facts(policy.LayerDNS)
	f.SetQuestion(name, typ)
	return f, j.s.Step(f)
}

// address is the question for the family of the attempt's address.
func (j *judge) address() (*policy.Facts, policy.Outcome) {
	typ := "A"
	if j.addr.Is6() {
		typ = "AAAA"
	}
	return j.question(j.a.Event.Host, typ)
}

// pinned returns the name of the attempt as a candidate, if the rules let it
// be resolved to the address.
func (j *judge) pinned(answers func(dns policy.Outcome) bool) []policy.Candidate {
	if !isName(j.a.Event.Host) {
		return nil
	}
	f, o := j.address()
	if !answers(o) {
		return nil
	}
	// The host's services have a name of their own, whose address is the session's.
	if open, _ := j.s.OpenAddr(f, j.addr, j.host); !open && j.a.Event.Host != policy.HostName {
		return nil
	}
	return []policy.Candidate{{Name: j.a.Event.Host, Grants: j.s.Grants(f, j.addr)}}
}

func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return host != "" && err != nil
}

func answers(dns policy.Outcome) bool {
	return policy.Act(policy.LayerDNS, "", dns, false) == policy.Answer
}

// flow is the way of a client that knows no proxy.
func (j *judge) flow() Verdict {
	cands := j.pinned(answers)
	f := j.facts(policy.LayerFlow)
	f.SetAddr(j.addr, j.a.Event.Port, j.proto)
	fl := j.s.Flow(f, j.addr, cands, j.host)
	return j.bytes(fl, policy.Act(policy.LayerFlow, j.proto, fl.Outcome, len(cands) > 0), cands)
}

// bytes goes on with what the client sent.
func (j *judge) bytes(fl policy.Flow, act policy.Action, cands []policy.Candidate) Verdict {
	if act != policy.RelayRead && act != policy.Hold {
		return verdictOf(fl, act != policy.Refuse)
	}
	var f *policy.Facts
	switch j.content() {
	case policy.LayerHello:
		f = j.facts(policy.LayerHello)
		f.SetHello(policy.TLS{SNI: j.sni(), Version: "1.3"})
	case policy.LayerRaw:
		f = j.facts(policy.LayerRaw)
		f.SetName(fl.Name)
	default:
		return verdictOf(fl, true) // each request is an attempt of its own
	}
	f.SetAddr(j.addr, j.a.Event.Port, j.proto)
	c := j.s.Content(f, j.addr, cands, j.host)
	return verdictOf(c, policy.Act(f.Layer(), j.proto, c.Outcome, len(cands) > 0) == policy.Pass)
}

// content is what the bytes were; where the log does not tell, what they
// usually are at the port.
func (j *judge) content() policy.Layer {
	switch c := j.a.Content; c {
	case policy.LayerHello, policy.LayerRequest, policy.LayerRaw:
		return c
	}
	switch j.a.Event.Port {
	case 443:
		return policy.LayerHello
	case 80:
		return policy.LayerRequest
	}
	return policy.LayerRaw
}

func (j *judge) sni() string {
	if j.a.Content == policy.LayerHello {
		return j.a.SNI
	}
	return j.a.Event.Host
}

// explicit is the way through the proxy: judged without the address, resolved,
// and judged again by then.
func (j *judge) explicit(then func([]policy.Candidate) Verdict) Verdict {
	if !isName(j.a.Event.Host) {
		return then(nil)
	}
	f := j.asked()
	f.SetAddr(netip.Addr{}, j.a.Event.Port, policy.TCP)
	before := j.s.Content(f, netip.Addr{}, nil, j.host)
	if before.Word == policy.Deny {
		return verdictOf(before, false)
	}
	_, o := j.address()
	if !policy.MayResolve(before.Outcome, o) {
		return verdictOf(policy.Flow{Outcome: o}, false)
	}
	return then(j.pinned(func(dns policy.Outcome) bool { return policy.MayResolve(before.Outcome, dns) }))
}

// asked are the facts of what a client asks the proxy, or a server, for.
func (j *judge) asked() *policy.Facts {
	e := j.a.Event
	if j.a.Layer == policy.LayerConnect {
		f := j.facts(policy.LayerConnect)
		f.SetConnect(e.Host, !isName(e.Host))
		return f
	}
	f := j.facts(policy.LayerRequest)
	f.SetRequest(policy.HTTP{Host: e.Host, Method: e.Method, Path: e.Path}, !isName(e.Host))
	return f
}

func (j *judge) connect(cands []policy.Candidate) Verdict {
	f := j.asked()
	f.SetAddr(j.addr, j.a.Event.Port, policy.TCP)
	fl := j.s.Content(f, j.addr, cands, j.host)
	return j.bytes(fl, policy.Act(policy.LayerConnect, policy.TCP, fl.Outcome, len(cands) > 0), cands)
}

// request is a plain HTTP request. The log does not tell whether it went
// through the proxy; what is resolved for a transparent flow is for the proxy,
// too, so the proxy's way answers for both.
func (j *judge) request() Verdict {
	return j.explicit(func(cands []policy.Candidate) Verdict {
		f := j.asked()
		f.SetAddr(j.addr, j.a.Event.Port, policy.TCP)
		c := j.s.Content(f, j.addr, cands, j.host)
		return verdictOf(c, policy.Act(policy.LayerRequest, policy.TCP, c.Outcome, len(cands) > 0) == policy.Pass)
	})
}

func verdictOf(fl policy.Flow, pass bool) Verdict {
	v := Verdict{Allow: pass, Rule: fl.RuleID(), Reason: fl.Reason}
	if !pass && fl.Word != policy.Deny {
		v.Rule = policy.DefaultPolicy // an open word names the allow that waits
	}
	return v
}
