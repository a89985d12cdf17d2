package policy

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// twins returns the same rules with an index and without.
func twins(rules []*Rule, common int) (indexed, linear *Snapshot) {
	return &Snapshot{rules: rules, ix: indexWith(rules, common)}, &Snapshot{rules: rules}
}

// indexPools compiles rules of which random sets are drawn: random conditions,
// and the ones that people write.
func indexPools(t testing.TB, r *rand.Rand) [][]*Rule {
	t.Helper()
	usual := []string{
		`dns.query == "%[1]s" || http.host == "%[1]s"`,
		`dns.query == "%[1]s" || (network.hostname == "%[1]s" && network.protocol == "tcp")`,
		`domain(dns.query, "%[1]s") || domain(http.host, "%[1]s")`,
		`dns.query.endsWith(".%[1]s") || tls.sni.endsWith("%[1]s")`,
		`cidr("%[2]s/%[3]d").contains(network.ip) && network.port == %[4]d`,
		`network.ip == "%[2]s"`,
		`http.host == "%[1]s" && http.path.startsWith("/%[5]s")`,
		`http.host == "%[1]s" && http.path.matches("^/%[5]s")`,
		`http.host != "%[1]s" && network.port in [80, %[4]d]`,
		`network.port >= %[4]d && network.port < 1000`,
		`http.headers["%[5]s"] == "v" || http.host == "%[1]s"`,
		`process.name == "%[5]s" && network.hostname == "%[1]s"`,
		`!(network.ip in ["%[2]s", "127.0.0.1"]) && dns.query != "%[1]s"`,
		`http.path.contains("%[5]s")`,
		`dns.query in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "%[1]s"]`,
		`network.port in [1, 2, 3, 4, 5, 6, 7, 8, 9, %[4]d] || http.body_size > 0`,
	}
	egress := []string{"", "", "", "{ports: [443, 80]}", "{ports: [443, 80]}", "{ports: [22]}", "{allow_private_ips: true}", "{mode: direct_ip}", "{mode: direct_ip, ports: [22, 443], allow_private_ips: true}"}
	var b strings.Builder
	b.WriteString("version: \"1\"\nrules:\n")
	for i := range 400 {
		cond := fmt.Sprintf(pick(r, usual)+"%[6]s", pick(r, propNames), pick(r, []string{"93.184.0.0", "93.184.216.34", "10.0.0.1", "127.0.0.1"}),
			32, pick(r, propPorts), pick(r, []string{"x", "k", "y"}), "")
		fmt.Fprintf(&b, "  - {id: u%d, condition: '%s', ", i, cond)
		if r.IntN(4) == 0 {
			b.WriteString("action: block}\n")
		} else {
			fmt.Fprintf(&b, "action: allow, egress: %s}\n", pick(r, egress))
		}
	}
	return [][]*Rule{propPool(t, r, 400), mustLoad(t, b.String()).Rules()}
}

// indexCase draws rules and the facts of one step.
func indexCase(r *rand.Rand, pools [][]*Rule) []*Rule {
	n := 1 + r.IntN(8)
	if r.IntN(8) == 0 {
		n = 1 + r.IntN(60)
	}
	rules := make([]*Rule, n)
	for i := range rules {
		rules[i] = pick(r, pools[r.IntN(len(pools))])
	}
	return rules
}

func indexFacts(r *rand.Rand, c propCase) *Facts {
	layers := []Layer{LayerDNS, LayerFlow, LayerHello, LayerConnect, LayerRequest, LayerRaw, LayerRun}
	f := c.facts(pick(r, layers))
	if f.layer == LayerRun {
		f = NewFacts(LayerRun, who)
		f.SetRun(Run{Tool: "curl"})
		if r.IntN(2) == 0 {
			f.SetCall(Call{Host: c.name, Port: c.port, Proto: TCP, Scheme: "http", HTTP: &c.head})
		}
	}
	if r.IntN(3) == 0 {
		for range 1 + r.IntN(3) {
			f.Hide(Field(r.IntN(int(NumFields))), pick(r, []State{Later, Hidden, Absent}))
		}
	}
	return f
}

func sameOutcome(a, b Outcome) bool {
	if (a.Failed == nil) != (b.Failed == nil) || a.Failed != nil && *a.Failed != *b.Failed {
		return false
	}
	a.Failed, b.Failed = nil, nil
	return a == b
}

func ruleLines(rules []*Rule) string {
	var b strings.Builder
	for _, x := range rules {
		fmt.Fprintf(&b, "  %s block=%v %s mode=%s ports=%v private=%v\n", x.ID, x.Block, x.Condition, x.Mode, x.Ports, x.AllowPrivate)
	}
	return b.String()
}

// The index chooses; it never answers: each function that walks gives the same
// with it and without.
func TestPropertyIndex(t *testing.T) {
	const seed = 20261124
	r := rand.New(rand.NewPCG(seed, 2))
	pairs, sets := 0, size(t, 1_000_000)
	var pools [][]*Rule
	for pairs < sets {
		if pairs%100_000 == 0 {
			pools = indexPools(t, r)
		}
		rules := indexCase(r, pools)
		indexed, linear := twins(rules, pick(r, []int{0, 0, 1, 3, 8}))
		for range 40 {
			pairs++
			c := randomCase(r)
			c.proto = pick(r, []Proto{TCP, TCP, UDP, ICMP})
			if bad := indexDiffers(r, indexed, linear, c, pairs%200 == 0); bad != "" {
				t.Fatalf("common %d: %s\nrules:\n%s", indexed.ix.common, bad, ruleLines(rules))
			}
		}
	}
}

// indexDiffers compares one pair of rules and facts.
func indexDiffers(r *rand.Rand, indexed, linear *Snapshot, c propCase, cells bool) string {
	f := indexFacts(r, c)
	if a, b := indexed.Step(f), linear.Step(f); !sameOutcome(a, b) {
		return fmt.Sprintf("%s at %s: %+v with the index, %+v without", c, f.layer, a, b)
	}
	var cands []Candidate
	q := c.facts(LayerDNS)
	for _, name := range []string{c.name, c.other} {
		if r.IntN(3) > 0 {
			continue
		}
		g, h := indexed.Grants(q, c.addr), linear.Grants(q, c.addr)
		if !slices.Equal(g, h) {
			return fmt.Sprintf("%s: grants %v with the index, %v without", c, g, h)
		}
		cands = append(cands, Candidate{name, g})
	}
	f = c.facts(LayerFlow)
	a, b := indexed.Flow(f, c.addr, cands, propHost), linear.Flow(f, c.addr, cands, propHost)
	if !sameOutcome(a.Outcome, b.Outcome) || a.Name != b.Name || a.Structural != b.Structural || a.Unread != b.Unread {
		return fmt.Sprintf("%s: flow %+v with the index, %+v without", c, a, b)
	}
	ok1, why1 := indexed.OpenAddr(q, c.addr, propHost)
	ok2, why2 := linear.OpenAddr(q, c.addr, propHost)
	if ok1 != ok2 || why1 != why2 {
		return fmt.Sprintf("%s: open %v (%s) with the index, %v (%s) without", c, ok1, why1, ok2, why2)
	}
	if !cells {
		return ""
	}
	for _, k := range append(cands, Candidate{}) {
		x, y := indexed.Cells(who, k.Name, c.addr, k.Grants, propHost), linear.Cells(who, k.Name, c.addr, k.Grants, propHost)
		if !slices.Equal(x, y) {
			return fmt.Sprintf("%s as %q: cells %v with the index, %v without", c, k.Name, x, y)
		}
	}
	if x, y := indexed.NetCells(who, propHost), linear.NetCells(who, propHost); !slices.Equal(x, y) {
		return fmt.Sprintf("net cells %v with the index, %v without", x, y)
	}
	return ""
}

// asks counts the rules that a walk over the facts asks.
func asks(s *Snapshot, f *Facts) (n int) {
	q := s.ask(f, openDoor, false)
	defer q.end()
	for q.rule() != nil {
		n++
	}
	return n
}

// The number of rules that are asked does not grow with the number of rules:
// that is what the index is for, and it is counted, not timed.
func TestIndexAsksFew(t *testing.T) {
	const n, few = MaxRules, 8
	for _, m := range mixes[:3] {
		t.Run(m.name, func(t *testing.T) {
			s := loadMix(t, m, n)
			if o := s.Step(m.step(n)); o.Word != m.word {
				t.Fatalf("%s (%s)", o.Word, o.Reason)
			}
			named := flowFacts(pub, 443, TCP)
			named.SetName("h9.test")
			for _, f := range []*Facts{m.step(n), m.step(1), dnsFacts("h77.test", "A"), dnsFacts("other.test", "A"), flowFacts(pub, 443, TCP),
				flowFacts(pub, 22, TCP), named, rawFacts(pub, 443, TCP, "h9.test"), connectFacts("h9.test", 443, ""), connectFacts("h9.test", 443, pub), knownRequest("/")} {
				if got := asks(s, f); got > few {
					t.Errorf("%s: %d rules are asked, want at most %d", f.layer, got, few)
				}
			}
		})
	}
	t.Run("paths of one host", func(t *testing.T) {
		s := loadMix(t, mixes[5], n)
		if got := asks(s, helloFacts(pub, 443, "other.test")); got > few {
			t.Errorf("for another host %d rules are asked", got)
		}
	})
}

// A verdict that needs no CEL allocates nothing.
func TestIndexAllocatesNothing(t *testing.T) {
	for _, m := range mixes[:4] {
		s, f := loadMix(t, m, 1000), m.step(1000)
		s.Step(f)
		if got := testing.AllocsPerRun(100, func() { s.Step(f) }); got > 0.5 {
			t.Errorf("%s: %v allocations a verdict", m.name, got)
		}
	}
}

// Beyond maxPlans situations the rules are walked one by one: the answers stay.
func TestPlansAreBounded(t *testing.T) {
	rules := mustLoad(t, string(mixSources(mixes[0], 20, "ports: [443]")[0].Data)).Rules()
	indexed, linear := twins(rules, 8)
	f := knownHello("h3.test")
	states := []State{Known, Later, Hidden, Absent}
	for i := range 256 { // each of four fields in each state
		g := f.Clone()
		for n, x := range []Field{DNSQuery, NetworkIP, NetworkPort, HTTPHost} {
			if st := states[i>>(2*n)&3]; st != Known {
				g.Hide(x, st)
			}
		}
		if a, b := indexed.Step(g), linear.Step(g); !sameOutcome(a, b) {
			t.Fatalf("%+v with the index, %+v without", a, b)
		}
	}
	if got := len(*indexed.ix.plans.Load()); got != maxPlans {
		t.Errorf("%d plans, want %d", got, maxPlans)
	}
}

// maxLoadMemory is what loading MaxRules rules may allocate in all, from which
// follows that it never holds more.
const maxLoadMemory = 150 << 20

func TestLoadMemory(t *testing.T) {
	for _, m := range mixes[:4] {
		src := mixSources(m, MaxRules, "ports: [443, 80]")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Load(src); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > maxLoadMemory {
			t.Errorf("%s: %d bytes are allocated, at most %d", m.name, got, maxLoadMemory)
		}
	}
}
