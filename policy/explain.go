package policy

import (
	"fmt"
	"net/netip"
)

// An ExplainQuery is what Explain is asked.
type ExplainQuery struct {
	// Target is https://host/path, http://host/path, host:port,
	// tcp://host:port, udp://host:port, icmp://host (an echo request) or
	// dns://name?type=A.
	Target string
	Who    Who
	// Method is that of a plain HTTP request; "" is GET.
	Method string
	// Exe is the program that asks; "" means not given: then the programs that
	// the rules name are tried, and Depends tells where that matters.
	Exe string
	// IP is the address that the name has; invalid means not given: then
	// Resolve is asked.
	IP   netip.Addr
	Host *Host // may be nil
	// Resolve returns the addresses of a name: the live pins of a session, or
	// what its resolver would answer. It is called only where the data path
	// would ask under the rules as they are, and once. May be nil.
	Resolve func(name string) ([]netip.Addr, error)
	// Pinned returns the names that are live at an address in a session, the
	// one resolved last first. May be nil: then the target's name is alone.
	Pinned func(netip.Addr) []Candidate
	// CannotGoOut says why no datagram of a protocol goes to an address,
	// whatever the rules are: the host has no ping sockets, a proxy carries TCP
	// only. It asks nobody. May be nil.
	CannotGoOut func(p Proto, name string, dst netip.AddrPort) string

	bare bool // the verdicts alone: what people read costs a look at every rule
}

// An Explanation is the answer: the verdict of each way to the target, and
// what it rests on.
type Explanation struct {
	Target   string   `json:"target"`
	Verdict  string   `json:"verdict"` // allow | deny | depends
	Rule     string   `json:"rule"`
	Reason   string   `json:"reason"`
	Routes   []Route  `json:"routes"`
	Depends  []string `json:"depends,omitempty"`
	Smallest string   `json:"smallest,omitempty"` // --allow target or rule file that would allow it
	Advice   string   `json:"advice,omitempty"`   // why no rule would, or what the rule is
}

// A Route is one way that a client may take: "direct" (no proxy variables) or
// "proxy" (the explicit proxy).
type Route struct {
	Via     string          `json:"via"`
	Verdict string          `json:"verdict"`
	Rule    string          `json:"rule"`
	Reason  string          `json:"reason"`
	Steps   []ExplainedStep `json:"steps"`
}

// An ExplainedStep is one verdict on the way.
type ExplainedStep struct {
	Layer      string            `json:"layer"`
	If         string            `json:"if,omitempty"` // the case that the step is for, where bytes are not given
	Facts      map[string]any    `json:"facts"`        // what is known, of the fields that rules use
	Unknown    map[string]string `json:"unknown,omitempty"`
	Word       string            `json:"word"`
	Action     string            `json:"action"`
	Rule       string            `json:"rule"`
	File       string            `json:"file,omitempty"`
	Line       int               `json:"line,omitempty"`
	Reason     string            `json:"reason"`
	Structural bool              `json:"structural,omitempty"`
	Values     []Value           `json:"values,omitempty"` // what the deciding rule's comparisons gave
	Near       []NearMiss        `json:"near,omitempty"`
}

// A NearMiss is an allow rule that did not match, and on what.
type NearMiss struct {
	Rule string `json:"rule"`
	File string `json:"file"`
	Line int    `json:"line"`
	Why  string `json:"why"`
}

// The verdicts of an explanation.
const (
	VerdictAllow   = "allow"
	VerdictDeny    = "deny"
	VerdictDepends = "depends"
)

// Explain composes the steps of the data path for one target, in its order
// and with its functions (Step, Flow, Content, OpenAddr, Grants, MayResolve,
// Act), and says what they answer. The error is a target that cannot be read.
func (s *Snapshot) Explain(q ExplainQuery) (*Explanation, error) {
	t, err := parseTarget(q.Target)
	if err != nil {
		return nil, fmt.Errorf("explain %q: %w", q.Target, err)
	}
	if s == nil {
		s = &Snapshot{}
	}
	ask, known := asked(q.Resolve)
	q.Resolve = ask
	x := s.explain(q, t)
	q.Resolve = known
	x.depends(s, q, t)
	if x.Verdict != VerdictAllow {
		x.smallest(s, q, t)
	}
	return x, nil
}

// explain runs both routes once.
func (s *Snapshot) explain(q ExplainQuery, t target) *Explanation {
	x := &Explanation{Target: q.Target}
	vias := []string{"direct", "proxy"}
	if t.scheme == "dns" || t.scheme == "udp" || t.scheme == "icmp" {
		vias = vias[:1]
	}
	for _, via := range vias {
		w := &way{s: s, q: q, t: t}
		if via == "proxy" {
			w.proxy()
		} else {
			w.direct()
		}
		x.Routes = append(x.Routes, w.route(via))
		if w.assumed.IsValid() {
			why := ""
			if w.failed != nil {
				why = " (" + w.failed.Error() + ")"
			}
			x.Depends = append(x.Depends, fmt.Sprintf("network.ip is not known%s: a public address that no rule names is assumed, %s", why, w.assumed))
		}
	}
	x.Depends = x.Depends[:min(1, len(x.Depends))]
	first := x.Routes[0]
	x.Verdict, x.Rule, x.Reason = first.Verdict, first.Rule, first.Reason
	for _, r := range x.Routes[1:] {
		if r.Verdict != first.Verdict {
			x.Verdict = VerdictDepends
			x.Depends = append(x.Depends, fmt.Sprintf("%s: %s, %s: %s", first.Via, first.Verdict, r.Via, r.Verdict))
		}
	}
	return x
}

// depends tries what was not given: each program and agent that a rule names.
func (x *Explanation) depends(s *Snapshot, q ExplainQuery, t target) {
	try := func(label string, q ExplainQuery) {
		if y := s.explain(q, t); y.Verdict != x.Verdict {
			x.Depends = append(x.Depends, label+": "+y.Verdict+" ("+y.Reason+")")
		}
	}
	var exes, names, agents []string
	for _, r := range s.rules {
		for _, u := range r.c.texts {
			switch {
			case u.below:
			case u.field == ProcessExe:
				exes = addOnce(exes, u.value)
			case u.field == ProcessName:
				names = addOnce(names, u.value)
			case u.field == AgentName:
				agents = addOnce(agents, u.value)
			}
		}
	}
	before := len(x.Depends)
	if q.Exe == "" {
		for _, e := range exes {
			p := q
			p.Exe = e
			try("process.exe "+e, p)
		}
		for _, n := range names {
			p := q
			p.Exe = "/usr/bin/" + n
			try("process.name "+n, p)
		}
	}
	if q.Who.Agent == "" {
		for _, a := range agents {
			p := q
			p.Who.Agent = a
			try("agent.name "+a, p)
		}
	}
	if len(x.Depends) > before {
		x.Verdict = VerdictDepends
	}
}

// asked keeps what a resolver answers. known answers from that alone: what is
// only tried (another program, an added rule) must not let a question out
// that the policy as it is keeps in.
func asked(resolve func(string) ([]netip.Addr, error)) (ask, known func(string) ([]netip.Addr, error)) {
	type answer struct {
		addrs []netip.Addr
		err   error
	}
	answers := map[string]answer{}
	ask = func(name string) ([]netip.Addr, error) {
		a, ok := answers[name]
		if !ok && resolve != nil {
			a.addrs, a.err = resolve(name)
			answers[name] = a
		}
		return a.addrs, a.err
	}
	known = func(name string) ([]netip.Addr, error) { return answers[name].addrs, answers[name].err }
	return ask, known
}

// maxTried bounds the values of one field that Explain tries.
const maxTried = 16

func addOnce(list []string, v string) []string {
	for _, w := range list {
		if w == v {
			return list
		}
	}
	if len(list) >= maxTried {
		return list
	}
	return append(list, v)
}
