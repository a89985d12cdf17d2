package dnsfilter

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"outcall/policy"
)

// suffixRules allows every name.
func suffixRules() *ruleset {
	r := fakeRules(1, "", "")
	r.step = func(*policy.Facts) policy.Outcome {
		return policy.Outcome{Word: policy.Allow, Rule: &policy.Rule{ID: "suffix"}}
	}
	return r
}

// names counts the distinct names that went upstream.
func (z *zone) names() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	seen := map[string]bool{}
	for _, raw := range z.asked {
		m := new(dns.Msg)
		if m.Unpack(raw) == nil {
			seen[strings.ToLower(m.Question[0].Name)] = true
		}
	}
	return len(seen)
}

// D2: labels under an allowed suffix are a channel; the minute's budget ends it,
// for that domain alone, and says so.
func TestD2LabelsOfOneDomain(t *testing.T) {
	l := newLab(t, suffixRules())
	put := func(name string) { l.zone.put(name+". A", name+". 60 IN A 93.184.216.34") }
	put("www.other.test")
	refused := 0
	for i := range 200 {
		name := fmt.Sprintf("c%d.allowed.test", i)
		put(name)
		r := l.ask(name+".", dns.TypeA)
		if r.Rcode == dns.RcodeServerFailure {
			refused++
			continue
		}
		if r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 {
			t.Fatalf("%s: %v", name, r)
		}
	}
	if refused != 200-BudgetNames || l.zone.names() != BudgetNames {
		t.Errorf("%d refused, %d names left", refused, l.zone.names())
	}
	var denied, limits int
	for _, e := range l.taken() {
		switch {
		case e.Event == "limit" && strings.Contains(e.Reason, "allowed.test"):
			limits++
		case e.Verdict == "deny" && e.Structural && strings.Contains(e.Reason, "more than 100 names"):
			denied++
		}
	}
	if denied != refused || limits == 0 {
		t.Errorf("%d denials and %d limits in the audit for %d refusals", denied, limits, refused)
	}
	for _, name := range []string{"c0.allowed.test.", "www.other.test."} {
		if r := l.ask(name, dns.TypeA); r.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: %v", name, r)
		}
	}
	l.advance(budgetSpan)
	if r := l.ask("c199.allowed.test.", dns.TypeA); r.Rcode != dns.RcodeSuccess {
		t.Errorf("a minute later: %v", r)
	}
}

// Beside the number of names their length counts, and names that fail.
func TestD2BytesAndFailures(t *testing.T) {
	l := newLab(t, suffixRules())
	long := strings.Repeat("x", 60)
	for i := range 100 {
		name := fmt.Sprintf("%s.%s.%d.allowed.test", long, long, i)
		l.zone.put(name+". A", name+". 60 IN A 93.184.216.34")
		l.ask(name+".", dns.TypeA)
	}
	if n := l.zone.names(); n != BudgetBytes/137 && n != BudgetBytes/136 && n != BudgetBytes/137+1 {
		t.Errorf("%d long names left", n)
	}
	l = newLab(t, suffixRules())
	for i := range 100 {
		name := fmt.Sprintf("n%d.allowed.test.", i)
		l.zone.rcode[strings.ToLower(name)+" A"] = dns.RcodeNameError
		l.ask(name, dns.TypeA)
	}
	if n := l.zone.names(); n != BudgetFailed {
		t.Errorf("%d names that do not exist left", n)
	}
}

// The same few names, whatever their TTL, never meet a bound.
func TestBudgetOfHonestClients(t *testing.T) {
	l := newLab(t, suffixRules())
	l.zone.put("api.allowed.test. A", "api.allowed.test. 0 IN A 93.184.216.34")
	for range 5000 {
		if r := l.ask("api.allowed.test.", dns.TypeA); r.Rcode != dns.RcodeSuccess {
			t.Fatal(r)
		}
	}
	for _, e := range l.taken() {
		if e.Verdict == "deny" {
			t.Fatal(e)
		}
	}
}

// The customers of one provider have budgets of their own, and the table of
// domains is bounded without giving anyone a second minute.
func TestBudgetDomains(t *testing.T) {
	l := newLab(t, suffixRules())
	b := l.budgets
	if registrable("a.b.alice.github.io") == registrable("bob.github.io") || registrable("x.y.example.co.uk") != "example.co.uk" {
		t.Error("not the registrable domain")
	}
	for i := range BudgetDomains {
		if err := b.take(fmt.Sprintf("d%d.test", i)); err != nil {
			t.Fatal(err)
		}
	}
	var over *overBudget
	if err := b.take("one.more.test"); !errors.As(err, &over) || len(b.spent) != BudgetDomains {
		t.Errorf("%v, %d domains", err, len(b.spent))
	}
	if err := b.take("d7.test"); err != nil {
		t.Errorf("a domain that is counted already: %v", err)
	}
	l.advance(budgetSpan)
	if err := b.take("one.more.test"); err != nil || len(b.spent) != 1 {
		t.Errorf("a minute later: %v, %d domains", err, len(b.spent))
	}
}

// D2: asking for a verdict asks upstream, too, and is no way around the budget;
// the operator's own tests are not counted.
func TestD2VerdictsCount(t *testing.T) {
	l := newLab(t, suffixRules())
	spent := 0
	for i := range 200 {
		r, err := l.Ask(t.Context(), fmt.Sprintf("c%d.allowed.test", i), "A")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(r.Error, "used up") {
			spent++
		}
	}
	if n := l.zone.names(); n > BudgetNames || spent < 200-BudgetNames {
		t.Errorf("%d names left, %d were refused", n, spent)
	}
	before := l.zone.names()
	if r, err := l.Test(t.Context(), "mine.allowed.test", "A"); err != nil || strings.Contains(r.Error, "used up") || l.zone.names() != before+1 {
		t.Errorf("the operator's question: %+v, %v", r, err)
	}
}
