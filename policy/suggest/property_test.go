package suggest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"outcall/policy"
	"outcall/policy/replay"
)

var (
	someNames = []string{"a.x.test", "b.x.test", "c.x.test", "e.x.test", "f.x.test", "d.y.x.test", "x.test", "z.test", "a.github.io", "b.github.io", "c.github.io"}
	someAddrs = []string{"93.184.216.34", "2606:2800:220:1::7", "10.1.2.3"}
	bareAddrs = []string{"93.184.216.77", "2606:2800:220:1::77"}
	somePorts = []uint16{22, 80, 443, 8443}
)

func one[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// randomRules is a policy under which a log is made.
func randomRules(r *rand.Rand) *policy.Snapshot {
	var b strings.Builder
	b.WriteString("version: \"1\"\nrules:\n")
	if r.IntN(3) == 0 {
		b.WriteString("  - {id: all, condition: 'domain(dns.query, \"x.test\") || domain(http.host, \"x.test\")', action: allow}\n")
	}
	for i := range 1 + r.IntN(8) {
		n, action, egress := one(r, someNames), "allow", ""
		cond := one(r, []string{
			fmt.Sprintf(`dns.query == "%s" || http.host == "%s"`, n, n),
			fmt.Sprintf(`domain(dns.query, "%s") || domain(network.hostname, "%s")`, n, n),
			fmt.Sprintf(`dns.query == "%s" || network.hostname == "%s" && network.port == %d`, n, n, one(r, somePorts)),
			fmt.Sprintf(`dns.query == "%s" || http.host == "%s" && http.path != "/b"`, n, n),
			fmt.Sprintf(`network.ip == "%s"`, one(r, append(bareAddrs, someAddrs...))),
			`dns.record_type == "TXT"`,
			`process.name == "curl"`,
		})
		switch r.IntN(6) {
		case 0:
			action = "block"
		case 1:
			egress = fmt.Sprintf("    egress: {ports: [%d, %d]}\n", one(r, somePorts), 9)
		case 2:
			egress = "    egress: {allow_private_ips: true}\n"
		}
		fmt.Fprintf(&b, "  - id: r%d\n    condition: '%s'\n    action: %s\n%s", i, cond, action, egress)
	}
	s, err := policy.Load([]policy.Source{{Path: "random.yaml", Data: []byte(b.String())}})
	if err != nil {
		panic(fmt.Sprintf("%v\n%s", err, b.String()))
	}
	return s
}

// randomAttempt is one attempt without its verdict.
func randomAttempt(r *rand.Rand, ports []uint16) *replay.Attempt {
	a := &replay.Attempt{Count: 1 + r.IntN(3)}
	e := &a.Event
	e.Process = &policy.Process{Exe: one(r, []string{"/usr/bin/curl", "/usr/bin/git"})}
	e.Host, e.IP, e.Port, e.Protocol = one(r, someNames), one(r, someAddrs), one(r, ports), "tcp"
	switch a.Layer = policy.Layer(1 + r.IntN(5)); a.Layer {
	case policy.LayerDNS:
		e.Query, e.RecordType = e.Host, one(r, []string{"A", "AAAA", "TXT", "MX"})
		e.Host, e.IP, e.Port, e.Protocol = "", "", 0, "udp"
	case policy.LayerRequest:
		e.Method, e.Path = "GET", one(r, []string{"/a", "/b"})
		a.Content = policy.LayerRequest
	default:
		if a.Layer == policy.LayerHello {
			a.Layer = policy.LayerFlow
		}
		if a.Layer == policy.LayerFlow && r.IntN(4) == 0 {
			// An address that is used with a name, too, needs no rule for the name.
			e.Host, e.IP = "", one(r, bareAddrs)
		}
		if e.Port == 80 {
			e.Port = 81 // a flow of plain HTTP has requests, which are attempts of their own
		}
		if a.Content = one(r, []policy.Layer{0, policy.LayerHello, policy.LayerHello, policy.LayerHello, policy.LayerRaw}); a.Content == policy.LayerHello {
			a.SNI = e.Host
		}
	}
	return a
}

// randomLog is what a run under a policy leaves, enforced or observed.
func randomLog(r *rand.Rand) *replay.Log {
	rules, observe, ports := randomRules(r), r.IntN(2) == 0, somePorts
	if r.IntN(2) == 0 {
		ports = ports[2:3] // so that names have something in common
	}
	log := &replay.Log{}
	var all []*replay.Attempt
	for range 1 + r.IntN(30) {
		a := randomAttempt(r, ports)
		if a.Layer == policy.LayerFlow && a.Event.Host != "" {
			// Nobody reaches a name's address without the question.
			q := &replay.Attempt{Layer: policy.LayerDNS, Count: 1}
			q.Event = policy.Event{Query: a.Event.Host, RecordType: "A", Process: a.Event.Process}
			all = append(all, q)
		}
		all = append(all, a)
	}
	for _, a := range all {
		v, _ := a.Judge(rules)
		a.Verdict, a.Rule, a.Decided = replay.Allow, v.Rule, a.Layer
		if !v.Allow {
			a.Verdict = replay.Deny
			if observe {
				a.Verdict = replay.WouldDeny
			}
		}
		log.Attempts = append(log.Attempts, a)
	}
	return log
}

// Over random policies and runs: the rules load, nothing that was denied is
// let through, what was only observed is let through only where asked for and
// where no block stood against it, and no rule can be left out.
func TestSuggestionsOfRandomRuns(t *testing.T) {
	const rounds = 300
	clean, groups := 0, 0
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 7))
		log := randomLog(r)
		opt := Options{WouldDeny: r.IntN(2) == 0, Group: r.IntN(2) == 0}
		s, err := From(log, opt)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		b := newBuilder(log, opt)
		snap, err := load(s.Rules)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, a := range log.Attempts {
			if v, _ := a.Judge(snap); v.Allow && !b.wanted(a) {
				t.Fatalf("seed %d: %s %s was %s by %s and is allowed by %s\n%s", seed, a.Layer, target(a), a.Verdict, a.Rule, v.Rule, s.YAML())
			}
		}
		if len(s.Changed) == 0 {
			clean++
		}
		for i, rule := range s.Rules {
			if rule.parts != nil {
				groups++
			}
			if seed%4 == 0 {
				mustBeNeeded(t, seed, b, s.Rules, i)
			}
		}
	}
	if clean < rounds/3 || groups < 5 {
		t.Errorf("only %d of %d runs without a change, %d groups: the test reaches too little", clean, rounds, groups)
	}
}

// mustBeNeeded fails where all that is allowed stays so without a rule. A rule
// for what was allowed must be needed also when those for what was only
// observed are deleted.
func mustBeNeeded(t *testing.T, seed uint64, b *builder, rules []Rule, leave int) {
	t.Helper()
	var with, without []Rule
	for i, r := range rules {
		if r.WouldDeny && !rules[leave].WouldDeny {
			continue
		}
		with = append(with, r)
		if i != leave {
			without = append(without, r)
		}
	}
	all, err := load(with)
	if err != nil {
		t.Fatal(err)
	}
	less, err := load(without)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range b.log.Attempts {
		if v, _ := a.Judge(all); !v.Allow {
			continue
		}
		if v, _ := a.Judge(less); !v.Allow {
			return
		}
	}
	t.Errorf("seed %d: rule %s is not needed\n%s", seed, rules[leave].ID, source(rules).Data)
}
