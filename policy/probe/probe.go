// Package probe asks a rule set about one event that is written down: a
// target, as explain takes it, or the facts of one step. Test files are made
// of them, and `rules diff` derives them from what rules name.
//
// It decides nothing by itself: a target is explained, which composes the
// steps of the data path; a step is judged with the function that the data
// path calls there.
package probe

import (
	"fmt"
	"net/netip"
	"strings"

	"outcall/policy"
)

// The ways that a client may take to a target.
const (
	Direct = "direct" // without proxy variables
	Proxy  = "proxy"  // through the explicit proxy
)

// An Event is one thing that could happen. Either Target or Layer is set.
type Event struct {
	Target string
	Via    string     // of a target: Direct, Proxy, or "" for both
	IP     netip.Addr // of a target: what its name resolves to; invalid: a public address
	Exe    string     // of a target: the program that asks; "" means not given

	Layer  policy.Layer
	Fields map[string]any // of a layer, by the names that conditions use

	Who policy.Who
}

// An Answer is what the rules say.
type Answer struct {
	// Verdict is allow or deny, of a target also depends, of a layer also
	// provisional or open: what the bytes turn out to be decides then.
	Verdict string   `json:"verdict"`
	Rule    string   `json:"rule"` // that decided, or policy.DefaultPolicy
	Reason  string   `json:"reason"`
	Depends []string `json:"depends,omitempty"`
	Near    []string `json:"near,omitempty"` // allow rules that did not match, and on what
}

// Ask asks. The error is an event that cannot be read.
func (e Event) Ask(s *policy.Snapshot) (Answer, error) {
	if e.Layer != 0 {
		return e.step(s)
	}
	x, err := s.Explain(policy.ExplainQuery{Target: e.Target, Who: e.Who, Exe: e.Exe, IP: e.IP})
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Verdict: x.Verdict, Rule: x.Rule, Reason: x.Reason, Depends: x.Depends}
	routes := x.Routes
	if e.Via != "" {
		if routes, err = only(x, e.Via); err != nil {
			return Answer{}, err
		}
		a.Rule, a.Reason = routes[0].Rule, routes[0].Reason
		if !dependsOnWho(x) {
			a.Verdict = routes[0].Verdict
		}
	}
	a.Near = near(routes)
	a.Rule = decider(s, a)
	return a, nil
}

// decider is the rule that an answer is due to. A denial that names an allow
// rule names the one that came nearest and still waits; what denies is that
// nothing allows.
func decider(s *policy.Snapshot, a Answer) string {
	if a.Verdict != policy.VerdictDeny {
		return a.Rule
	}
	for _, r := range s.Rules() {
		if r.ID == a.Rule && r.Block {
			return a.Rule
		}
	}
	return policy.DefaultPolicy
}

func only(x *policy.Explanation, via string) ([]policy.Route, error) {
	for _, r := range x.Routes {
		if r.Via == via {
			return []policy.Route{r}, nil
		}
	}
	return nil, fmt.Errorf("%s has no way %q", x.Target, via)
}

// dependsOnWho reports whether the verdict is another for a program or an
// agent that was not given.
func dependsOnWho(x *policy.Explanation) bool {
	for _, d := range x.Depends {
		if strings.HasPrefix(d, "process.") || strings.HasPrefix(d, "agent.") {
			return true
		}
	}
	return false
}

// near lists the near misses of the steps, each rule once.
func near(routes []policy.Route) (out []string) {
	seen := map[string]bool{}
	for _, r := range routes {
		for _, st := range r.Steps {
			for _, n := range st.Near {
				if !seen[n.Rule] {
					seen[n.Rule] = true
					out = append(out, fmt.Sprintf("not rule %s (%s:%d): %s", n.Rule, n.File, n.Line, n.Why))
				}
			}
		}
	}
	return out
}

// String names the event in one line.
func (e Event) String() string {
	var b strings.Builder
	if e.Layer == 0 {
		b.WriteString(e.Target)
		for _, t := range []struct{ name, value string }{{"via", e.Via}, {"ip", ipText(e.IP)}, {"exe", e.Exe}} {
			if t.value != "" {
				fmt.Fprintf(&b, " %s=%s", t.name, t.value)
			}
		}
	} else {
		b.WriteString(e.Layer.String())
		for x := policy.Field(0); x < policy.NumFields; x++ {
			if v, ok := e.Fields[x.String()]; ok {
				fmt.Fprintf(&b, " %s=%v", x, v)
			}
		}
	}
	if e.Who.Agent != "" {
		fmt.Fprintf(&b, " agent=%s", e.Who.Agent)
	}
	return b.String()
}

func ipText(a netip.Addr) string {
	if a.IsValid() {
		return a.String()
	}
	return ""
}
