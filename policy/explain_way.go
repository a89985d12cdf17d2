package policy

import (
	"net/netip"
	"slices"
)

// maxAddrs bounds the addresses of one name that Explain looks at.
const maxAddrs = 16

// A way drives the steps of one route to a target.
type way struct {
	s       *Snapshot
	q       ExplainQuery
	t       target
	steps   []ExplainedStep
	assumed netip.Addr // the stand-in, where no address is known
	failed  error      // why none is

	ends []end // how each address ended
}

// An end is how the way to one address ended.
type end struct {
	verdict string
	step    int // that decided
}

// facts returns new facts of a layer with what is the same at all.
func (w *way) facts(l Layer) *Facts {
	f := NewFacts(l, w.q.Who)
	if w.q.Exe != "" {
		f.SetProcess(&Process{Exe: w.q.Exe})
	}
	return f
}

// note adds a step and returns its action.
func (w *way) note(f *Facts, fl Flow, a Action, cond string) Action {
	if w.q.bare {
		w.steps = append(w.steps, ExplainedStep{Action: a.String(), Rule: fl.RuleID(), Reason: fl.Reason})
		return a
	}
	w.steps = append(w.steps, w.s.explained(f, fl, a, cond))
	return a
}

// finish notes that the last step decided.
func (w *way) finish(ok bool) {
	v := VerdictDeny
	if ok {
		v = VerdictAllow
	}
	w.ends = append(w.ends, end{v, len(w.steps) - 1})
}

func (w *way) proto() Proto {
	switch w.t.scheme {
	case "udp":
		return UDP
	case "icmp":
		return ICMP
	}
	return TCP
}

// question judges the DNS question.
func (w *way) question(typ string) (*Facts, Outcome) {
	f := w.facts(LayerDNS)
	f.SetQuestion(w.t.name(), typ)
	o := w.s.Step(f)
	w.note(f, Flow{Outcome: o, Name: w.t.name()}, Act(LayerDNS, "", o, false), "")
	return f, o
}

// direct is the way of a client that knows no proxy: question, first packet,
// bytes.
func (w *way) direct() {
	if w.t.scheme == "dns" {
		_, o := w.question(w.t.typ)
		w.finish(Act(LayerDNS, "", o, false) == Answer)
		return
	}
	if w.t.addr.IsValid() {
		w.connection(w.t.addr, w.pinned(w.t.addr, nil))
		return
	}
	f, o := w.question("A")
	if Act(LayerDNS, "", o, false) != Answer {
		w.finish(false)
		return
	}
	for _, a := range w.addresses() {
		if cands, ok := w.pin(f, a); ok {
			w.connection(a, cands)
		}
	}
}

// addresses are those of the target's name.
func (w *way) addresses() []netip.Addr {
	if w.q.IP.IsValid() {
		return []netip.Addr{w.q.IP.Unmap()}
	}
	var out []netip.Addr
	out, w.failed = w.q.Resolve(w.t.name())
	if len(out) == 0 {
		w.assumed = w.s.unnamed(w.q.Host)
		return []netip.Addr{w.assumed}
	}
	return out[:min(len(out), maxAddrs)]
}

// unnamed returns a public address that is in no literal of a rule smaller
// than everything.
func (s *Snapshot) unnamed(h *Host) netip.Addr {
	a := netip.MustParseAddr("8.0.0.1")
	for range MaxRules {
		named := slices.ContainsFunc(s.rules, func(r *Rule) bool {
			return slices.ContainsFunc(r.c.ip.lits, func(p netip.Prefix) bool { return p.Bits() > 0 && p.Contains(a) })
		})
		if c, _ := Classify(a, h); !named && c == Global {
			break
		}
		b := a.As4()
		b[1]++
		b[2] += 7
		a = netip.AddrFrom4(b)
	}
	return a
}

// pin asks whether the address may be an answer, and with which grants.
func (w *way) pin(dns *Facts, a netip.Addr) ([]Candidate, bool) {
	if ok, reason := w.s.OpenAddr(dns, a, w.q.Host); !ok {
		if w.t.name() != HostName {
			w.note(dns, structural(w.t.name(), reason), Refuse, "the answer is "+a.String())
			w.finish(false)
			return nil, false
		}
	}
	return w.pinned(a, []Candidate{{Name: w.t.name(), Grants: w.s.Grants(dns, a)}}), true
}

// pinned adds the names that other questions have pinned at the address: a
// flow is judged for each of them.
func (w *way) pinned(a netip.Addr, own []Candidate) []Candidate {
	if w.q.Pinned == nil {
		return own
	}
	for _, c := range w.q.Pinned(a) {
		if c.Name != w.t.name() {
			own = append(own, c)
		}
	}
	return own
}

// connection judges the first packet, and then the bytes.
func (w *way) connection(a netip.Addr, cands []Candidate) {
	f := w.facts(LayerFlow)
	f.SetAddr(a, w.t.port, w.proto())
	fl := w.s.Flow(f, a, cands, w.q.Host)
	act := Act(LayerFlow, w.proto(), fl.Outcome, len(cands) > 0)
	if act != Refuse && w.proto() != TCP && w.q.CannotGoOut != nil {
		if why := w.q.CannotGoOut(w.proto(), fl.Name, netip.AddrPortFrom(a, w.t.port)); why != "" {
			fl, act = structural(fl.Name, why), Refuse
		}
	}
	switch w.note(f, fl, act, "") {
	case RelayUnread, Pass:
		w.finish(true)
	case RelayRead, Hold:
		w.bytes(a, cands, fl.Name)
	default:
		w.finish(false)
	}
}

// bytes judges what the target's scheme says that the bytes are; for tcp and
// udp each thing that they may be.
func (w *way) bytes(a netip.Addr, cands []Candidate, name string) {
	switch w.t.scheme {
	case "https":
		w.finish(w.hello(a, cands, ""))
	case "http":
		w.finish(w.request(a, cands, ""))
	default:
		oks := []bool{w.hello(a, cands, map[Proto]string{TCP: "the bytes are TLS", UDP: "the datagram is QUIC"}[w.proto()])}
		w.finish(oks[0])
		if w.proto() == TCP {
			w.finish(w.request(a, cands, "the bytes are HTTP"))
		}
		w.finish(w.raw(a, cands, name, "the bytes are something else"))
	}
}

func (w *way) content(f *Facts, a netip.Addr, cands []Candidate, cond string) bool {
	f.SetAddr(a, w.t.port, w.proto())
	fl := w.s.Content(f, a, cands, w.q.Host)
	return w.note(f, fl, Act(f.Layer(), w.proto(), fl.Outcome, len(cands) > 0), cond) == Pass
}

func (w *way) hello(a netip.Addr, cands []Candidate, cond string) bool {
	f := w.facts(LayerHello)
	f.SetHello(TLS{SNI: w.t.name(), Version: "1.3"})
	return w.content(f, a, cands, cond)
}

func (w *way) head() *Facts {
	f := w.facts(LayerRequest)
	path := w.t.path
	if path == "" {
		path = "/"
	}
	method := w.q.Method
	if method == "" {
		method = "GET"
	}
	f.SetRequest(HTTP{Host: w.t.host, Method: method, Path: path, Query: w.t.query, BodySize: 0}, w.t.addr.IsValid())
	return f
}

func (w *way) request(a netip.Addr, cands []Candidate, cond string) bool {
	return w.content(w.head(), a, cands, cond)
}

func (w *way) raw(a netip.Addr, cands []Candidate, name, cond string) bool {
	f := w.facts(LayerRaw)
	f.SetName(name)
	return w.content(f, a, cands, cond)
}

// proxy is the way through the explicit proxy: the name, judged before it is
// resolved and again with its address; then the bytes of the tunnel.
func (w *way) proxy() {
	plain := w.t.scheme == "http"
	ask := func() *Facts {
		if plain {
			return w.head()
		}
		f := w.facts(LayerConnect)
		f.SetConnect(w.t.host, w.t.addr.IsValid())
		return f
	}
	if w.t.addr.IsValid() {
		w.proxied(ask(), w.t.addr, w.pinned(w.t.addr, nil), plain)
		return
	}
	f := ask()
	f.SetAddr(netip.Addr{}, w.t.port, TCP)
	before := w.s.Content(f, netip.Addr{}, nil, w.q.Host)
	w.note(f, before, Act(f.Layer(), TCP, before.Outcome, true), "the name is not resolved yet")
	if before.Word == Deny {
		w.finish(false)
		return
	}
	dns, o := w.question("A")
	if !MayResolve(before.Outcome, o) {
		w.finish(false)
		return
	}
	for _, a := range w.addresses() {
		if cands, ok := w.pin(dns, a); ok {
			w.proxied(ask(), a, cands, plain)
		}
	}
}

func (w *way) proxied(f *Facts, a netip.Addr, cands []Candidate, plain bool) {
	if plain {
		w.finish(w.content(f, a, cands, ""))
		return
	}
	f.SetAddr(a, w.t.port, TCP)
	fl := w.s.Content(f, a, cands, w.q.Host)
	switch w.note(f, fl, Act(LayerConnect, TCP, fl.Outcome, w.t.name() != "" || len(cands) > 0), "") {
	case RelayUnread:
		w.finish(true)
	case RelayRead, Hold:
		w.bytes(a, cands, fl.Name)
	default:
		w.finish(false)
	}
}

// route sums up: the ends agree, or it depends.
func (w *way) route(via string) Route {
	r := Route{Via: via, Steps: w.steps, Verdict: VerdictDeny, Rule: DefaultPolicy}
	for i, e := range w.ends {
		if i == 0 {
			r.Verdict, r.Rule, r.Reason = e.verdict, w.steps[e.step].Rule, w.steps[e.step].Reason
		} else if e.verdict != r.Verdict {
			r.Verdict = VerdictDepends
		}
	}
	return r
}
