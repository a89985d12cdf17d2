package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// K19: whatever priority a request or a project asks for, the operator's
// blocks are asked first, at every layer, and none of the operator's allows is
// moved.
func TestK19LowestPriorityStandsBehindBlocks(t *testing.T) {
	file := func(id, rest string) []byte {
		return []byte("version: \"1\"\nrules:\n  - {id: " + id + ", " + rest + "}\n")
	}
	for _, origin := range []Origin{CLI, Project, Request} {
		s, err := Load([]Source{
			{Path: "0.yaml", Origin: origin, Data: file("asked", `priority: -2147483648, action: allow, condition: 'true', egress: {allow_private_ips: true}`)},
			{Path: "a.yaml", Data: file("op-block", `priority: 2147483647, action: block, condition: 'dns.query == "evil.test" || network.hostname == "evil.test"'`)},
			{Path: "b.yaml", Data: file("op-allow", `priority: 50, action: allow, condition: 'dns.query == "ok.test"'`)},
		})
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, r := range s.Rules() {
			order = append(order, r.ID)
		}
		if got := strings.Join(order, " "); got != "op-allow op-block asked" {
			t.Errorf("%s: asked in the order %s", origin, got)
		}
		for _, f := range []*Facts{dnsFacts("evil.test", "A"), rawFacts(pub, 22, TCP, "evil.test"), helloFacts(pub, 443, "evil.test"),
			connectFacts("evil.test", 443, pub), requestFacts(pub, 80, HTTP{Host: "evil.test", Method: "GET", Path: "/"})} {
			if o := s.Step(f); o.Word != Deny || o.RuleID() != "op-block" {
				t.Errorf("%s at %s: %s by %s", origin, f.Layer(), o.Word, o.RuleID())
			}
		}
		if o := s.Step(dnsFacts("ok.test", "A")); o.RuleID() != "op-allow" {
			t.Errorf("%s: %s", origin, o.RuleID())
		}
		if o := s.Step(dnsFacts("other.test", "A")); o.RuleID() != "asked" {
			t.Errorf("%s: other names are for %s", origin, o.RuleID())
		}
	}
}

// K19: what the rules of one source do is not undone by a name: an id that
// another source has is an error of the whole load.
func TestK19TakenID(t *testing.T) {
	rule := func(action string) []byte {
		return []byte("version: \"1\"\nrules:\n  - {id: x, action: " + action + ", condition: 'true'}\n")
	}
	_, err := Load([]Source{{Path: "a.yaml", Data: rule("block")}, {Path: "b.yaml", Origin: Request, Data: rule("allow")}})
	if err == nil || !strings.Contains(err.Error(), "b.yaml:3: duplicate rule id 'x' (first seen in a.yaml:3)") {
		t.Errorf("got %v", err)
	}
}

// K19: whatever an agent asks for and an operator approves, what a block that
// it did not ask for denies stays denied, at every layer and on every way.
func TestK19ApprovedNeverPassesABlock(t *testing.T) {
	layers := []Layer{LayerDNS, LayerFlow, LayerHello, LayerConnect, LayerRequest, LayerRaw}
	origins := []Origin{Operator, Operator, CLI, Project}
	asked := 0
	property(t, func(r *rand.Rand, s *Snapshot) string {
		var own, all []*Rule
		for _, old := range s.rules {
			x := *old
			x.Priority = int32(r.IntN(3))
			x.Origin = pick(r, origins)
			if x.notForAgents() == "" && r.IntN(2) == 0 {
				x.Origin = Request
				if x.Priority = -x.Priority; x.Block { // nobody could ask for it, so it would have to be tried
					x.Block = false
					x.c = allowOf(x.c)
				}
				asked++
			} else {
				own = append(own, &x)
			}
			all = append(all, &x)
		}
		without, with := &Snapshot{rules: ordered(own)}, &Snapshot{rules: ordered(all)}
		c := randomCase(r)
		for _, l := range layers {
			a, b := without.Step(c.facts(l)), with.Step(c.facts(l))
			if a.Word == Deny && a.Rule != nil && a.Rule.Block && b.Word != Deny {
				return fmt.Sprintf("%s at %s: %s (%s), and with what was approved %s by %s", c, l, a.Word, a.Reason, b.Word, b.RuleID())
			}
		}
		return ""
	})
	if asked < 1000 {
		t.Errorf("only %d rules were asked for", asked)
	}
}

// allowOf is a block's condition as an allow has it: one part.
func allowOf(c *compiled) *compiled {
	x := *c
	x.parts = c.parts[:1]
	return &x
}
