package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"outcall/policy"
	"outcall/shim/agentapi"
)

// startAgent serves the agent API on the socket that is bound inside.
func (s *supervisor) startAgent(context.Context) error {
	f := s.gate.AgentListener()
	if f == nil {
		return errors.New("the gatekeeper gave no listening socket")
	}
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return err
	}
	s.readme.f = s.gate.Readme()
	s.writeReadme()
	s.agent = agentapi.New(agentapi.Options{
		Session: s.who.Session, Backend: agentBackend{s}, Denials: &s.denials, Requests: proposals{s}, Process: peerProcess,
	})
	go func() { _ = s.agent.Serve(l) }() // ends with s.agent.Close in end
	return nil
}

// An agentBackend answers the agent API for one session.
type agentBackend struct{ s *supervisor }

var _ agentapi.Backend = agentBackend{}

// Judge implements agentapi.Backend. An action is what the run layer says. A
// network call is denied if a block decides there that only that layer can
// judge; else it is what explain says of the way that a program with the
// session's environment takes.
func (a agentBackend) Judge(ctx context.Context, q *agentapi.Question) agentapi.Verdict {
	snap := a.s.snap.Load()
	f := policy.NewFacts(policy.LayerRun, a.s.who)
	f.SetProcess(q.Process)
	f.SetRun(q.Run)
	if q.Call != nil {
		f.SetCall(*q.Call)
	}
	step := snap.Step
	if q.Call != nil {
		step = snap.StepCall
	}
	o := step(f)
	if q.Call == nil || o.Word == policy.Deny && o.Rule != nil {
		return a.observed(policy.Act(policy.LayerRun, "", o, false) == policy.Pass,
			agentapi.Verdict{Rule: o.RuleID(), Reason: o.Reason})
	}
	return a.composed(ctx, snap, q)
}

// composed is the verdict about a network call.
func (a agentBackend) composed(ctx context.Context, snap *policy.Snapshot, q *agentapi.Question) agentapi.Verdict {
	x, err := snap.Explain(policy.ExplainQuery{
		Target: q.Explain, Who: a.s.who, Method: q.Method, Host: a.s.host.Host(), Pinned: a.s.pins.Candidates,
		CannotGoOut: a.s.stack.CannotGoOut,
		Resolve: func(name string) ([]netip.Addr, error) {
			// A question upstream is an effect: its attempt has its line before.
			// A denial that follows has a line of its own under the same id.
			q.Begin.Do(func() { a.write(q, agentapi.Verdict{Allowed: true}) })
			if err := errors.Join(ctx.Err(), a.s.audit.Err()); err != nil {
				return nil, err
			}
			return lookup(ctx, name, a.s.dns.Ask)
		},
	})
	if err != nil {
		return agentapi.Verdict{Reason: err.Error(), Structural: true}
	}
	r := x.Routes[0]
	if q.Call.HTTP != nil && !a.s.cfg.NoProxy {
		r = x.Routes[len(x.Routes)-1] // the proxy variables are set
	}
	v := refusedStep(r)
	return a.observed(r.Verdict == policy.VerdictAllow, v)
}

// refusedStep is what a route that is not allowed is denied by; of one that
// is, its rule.
func refusedStep(r policy.Route) agentapi.Verdict {
	v := agentapi.Verdict{Rule: r.Rule, Reason: r.Reason}
	for _, st := range r.Steps {
		if st.Action != policy.Refuse.String() {
			continue
		}
		if r.Verdict == policy.VerdictDepends {
			v.Rule, v.Reason = st.Rule, "it depends on its bytes or address: "+st.Reason
		}
		if st.Reason == r.Reason || r.Verdict == policy.VerdictDepends {
			v.Structural = st.Structural
		}
	}
	if v.Reason == "" {
		v.Reason = "no rule allows it"
	}
	return v
}

// observed turns a denial by rule into a pass in observe.
func (a agentBackend) observed(ok bool, v agentapi.Verdict) agentapi.Verdict {
	if ok {
		return agentapi.Verdict{Allowed: true, Rule: v.Rule}
	}
	if a.s.cfg.Observe && !v.Structural {
		v.Allowed, v.Would = true, true
	}
	return v
}

// Record implements agentapi.Backend.
func (a agentBackend) Record(q *agentapi.Question, v agentapi.Verdict) agentapi.Verdict {
	first := false
	q.Begin.Do(func() { first = true })
	if first || !v.Allowed || v.Would {
		a.write(q, v)
	}
	if v.Allowed && a.s.audit.Err() != nil {
		v = agentapi.Verdict{Reason: policy.NoAudit, Structural: true}
		a.write(q, v)
	}
	return v
}

func (a agentBackend) write(q *agentapi.Question, v agentapi.Verdict) {
	e := a.s.event("verdict", policy.Event{ID: q.ID, Layer: policy.LayerRun.String(), Verdict: "deny", Rule: v.Rule,
		Reason: v.Reason, Structural: v.Structural, Via: q.Action, Process: q.Process})
	switch {
	case v.Would:
		e.Verdict = "would_deny"
	case v.Allowed:
		e.Verdict, e.Reason = "allow", ""
	}
	if e.Verdict != "allow" && e.Rule == "" {
		e.Rule = policy.DefaultPolicy
	}
	if c := q.Call; c != nil {
		e.Host, e.Port, e.Protocol = c.Host, c.Port, string(c.Proto)
		if c.HTTP != nil {
			e.Method = q.Method
		}
		if c.Scheme == "http" {
			e.Path = c.HTTP.Path
		}
	} else {
		e.Path = q.Target
	}
	a.s.audit.Record(e)
}

// Remedy implements agentapi.Backend. It looks nothing up: what is known of
// the denial is in its event.
func (a agentBackend) Remedy(_ context.Context, e policy.Event) (rule, advice string) {
	snap := a.s.snap.Load()
	if e.Layer == policy.LayerRun.String() && e.Host == "" {
		r := policy.Run{Tool: e.Path}
		if e.Via == agentapi.FileAccess {
			r = policy.Run{Tool: "file", Args: []string{e.Path}}
		}
		return snap.SmallestRun(a.s.who, r)
	}
	q := policy.ExplainQuery{Target: explainTarget(e), Who: a.s.who, Method: e.Method, Host: a.s.host.Host()}
	q.IP, _ = netip.ParseAddr(e.IP)
	x, err := snap.Explain(q)
	switch {
	case e.Structural || err != nil:
		return "", "no added rule would allow it: " + e.Reason
	case x.Verdict == policy.VerdictAllow:
		return "", "the rules as they are now allow it"
	case x.Smallest == "" || strings.HasPrefix(x.Smallest, "version:"):
		return x.Smallest, x.Advice
	}
	src, err := policy.AllowTargets([]string{x.Smallest})
	if err != nil {
		return "", x.Advice
	}
	// A rule file of its own must not take the id of an --allow.
	return strings.Replace(string(src.Data), "id: cli-1\n", "id: allow-"+ruleID(x.Smallest)+"\n", 1), x.Advice
}

// explainTarget is the target that an event was about.
func explainTarget(e policy.Event) string {
	host := e.Host
	for _, h := range []string{e.SNI, e.IP} {
		if host == "" {
			host = h
		}
	}
	hostPort := net.JoinHostPort(host, fmt.Sprint(e.Port))
	switch {
	case e.Query != "" && e.RecordType != "A" && e.RecordType != "AAAA" && e.RecordType != "HTTPS" && e.RecordType != "SVCB":
		return "dns://" + e.Query + "?type=" + e.RecordType
	case e.Query != "":
		return "https://" + e.Query + "/"
	case e.Protocol == string(policy.UDP):
		return "udp://" + hostPort
	case e.Protocol == string(policy.ICMP):
		return "icmp://" + strings.TrimSuffix(hostPort, ":0")
	case e.Port == 443:
		return "https://" + hostPort + "/"
	case e.Port == 80 || e.Layer == policy.LayerRequest.String():
		return "http://" + hostPort + e.Path
	}
	return "tcp://" + hostPort
}

// ruleID makes what is left of an id from a target.
func ruleID(target string) string {
	id := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, target)
	return id[:min(len(id), 100)]
}
