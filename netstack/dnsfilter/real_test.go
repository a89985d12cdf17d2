package dnsfilter

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"outcall/policy"
)

// load compiles one rule file, and --allow targets after it.
func load(t testing.TB, generation uint64, yaml string, allow ...string) *policy.Snapshot {
	t.Helper()
	var sources []policy.Source
	if yaml != "" {
		sources = append(sources, policy.Source{Path: "rules.yaml", Data: []byte("version: \"1\"\nrules:\n" + yaml)})
	}
	if len(allow) > 0 {
		src, err := policy.AllowTargets(allow)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, src)
	}
	s, err := policy.Load(sources)
	if err != nil {
		t.Fatal(err)
	}
	s.Generation = generation
	return s
}

var realHost = &policy.Host{
	Session: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24"), netip.MustParsePrefix("fd0c:a11::/64")},
}

// realLab is a lab under a real rule set.
func realLab(t testing.TB, s *policy.Snapshot, change ...func(*Config)) *lab {
	change = append(change, func(c *Config) { c.Host = func() *policy.Host { return realHost } })
	l := newLab(t, rulesetOf(s), change...)
	if err := l.pins.Reload(context.Background(), l.Rules(withGeneration(s, s.Generation+1)), func() {}); err != nil {
		t.Fatal(err)
	}
	l.rules = rulesetOf(withGeneration(s, s.Generation+1))
	return l
}

func withGeneration(s *policy.Snapshot, g uint64) *policy.Snapshot {
	c := *s
	c.Generation = g
	return &c
}

func (l *lab) cellsAt(a string) (out []string) {
	l.kernel.mu.Lock()
	defer l.kernel.mu.Unlock()
	for c := range l.kernel.cells {
		if c.Prefix.Addr() == netip.MustParseAddr(a) {
			out = append(out, fmt.Sprintf("%s %d-%d", c.Proto, c.PortLow, c.PortHigh))
		}
	}
	return out
}

func (l *lab) hasCell(a, cell string) bool {
	for _, c := range l.cellsAt(a) {
		if c == cell {
			return true
		}
	}
	return false
}

func TestRealAllowTarget(t *testing.T) {
	l := realLab(t, load(t, 1, "", "api.allowed.test"))
	l.zone.put("api.allowed.test. A", "api.allowed.test. 60 IN A 93.184.216.34")
	l.wantAnswer(l.ask("API.allowed.test.", dns.TypeA), 0, "A 93.184.216.34")
	for _, n := range []string{"evilallowed.test.", "x.api.allowed.test.", "api.allowed.test.evil.test."} {
		l.wantAnswer(l.ask(n, dns.TypeA), dns.RcodeNameError)
	}
	l.wantAnswer(l.ask("api.allowed.test.", dns.TypeTXT), 0)
	for _, e := range l.taken() {
		if want := policy.DefaultPolicy; e.Verdict == "deny" && e.Rule != want {
			t.Errorf("%s is denied by %s, an allow rule", e.Query, e.Rule)
		}
	}
	if !l.hasCell("93.184.216.34", "tcp 443-443") || !l.hasCell("93.184.216.34", "tcp 80-80") || l.hasCell("93.184.216.34", "tcp 22-22") {
		t.Fatal(l.cellsAt("93.184.216.34"))
	}
	if l.zone.count() != 1 {
		t.Fatal("a denied question left")
	}
}

func TestRealEmptyPolicy(t *testing.T) {
	l := realLab(t, load(t, 1, ""))
	l.wantAnswer(l.ask("any.test.", dns.TypeA), dns.RcodeNameError)
	l.wantEvents("verdict deny any.test A default policy")
}

func TestRealBlockBeforeAllow(t *testing.T) {
	l := realLab(t, load(t, 1, `
  - {id: no-tracker, condition: 'domain(dns.query, "tracker.test")', action: block, priority: 1}
  - {id: all, condition: 'dns.query != ""', action: allow}
  - {id: txt, condition: 'dns.query == "txt.test" && dns.record_type == "TXT"', action: allow}
`))
	l.zone.put("www.test. A", "www.test. 60 IN CNAME x.tracker.test.", "x.tracker.test. 60 IN A 93.184.216.34")
	l.zone.put("ok.test. A", "ok.test. 60 IN CNAME mytracker.test.", "mytracker.test. 60 IN A 93.184.216.35")
	l.zone.put("txt.test. TXT", `txt.test. 60 IN TXT "hello"`)
	l.wantAnswer(l.ask("tracker.test.", dns.TypeA), dns.RcodeNameError)
	l.wantAnswer(l.ask("www.test.", dns.TypeA), dns.RcodeNameError)
	l.wantAnswer(l.ask("ok.test.", dns.TypeA), 0, "A 93.184.216.35")
	l.wantAnswer(l.ask("txt.test.", dns.TypeTXT), 0, `TXT "hello"`)
	l.wantAnswer(l.ask("ok.test.", dns.TypeTXT), 0)
	l.wantEvents("verdict deny tracker.test A no-tracker", "verdict allow www.test A all", "verdict deny www.test A no-tracker",
		"verdict allow ok.test A all", "verdict allow txt.test TXT txt", "verdict deny ok.test TXT default policy")
	if a, err := l.Resolve(context.Background(), Query{Name: "tracker.test", Proxy: true}); err != nil || !a.Denied || a.Rule != "no-tracker" {
		t.Fatalf("%+v %v", a, err)
	}
}

// K14 in part: which special addresses a name may have.
func TestRealSpecialAddresses(t *testing.T) {
	l := realLab(t, load(t, 1, `
  - {id: plain, condition: 'dns.query == "plain.test" || network.hostname == "plain.test"', action: allow}
  - id: private
    condition: 'dns.query == "private.test" || network.hostname == "private.test"'
    action: allow
    egress: {allow_private_ips: true}
`))
	for addr, open := range map[string]bool{
		"10.0.0.1": true, "192.168.1.1": true, "100.64.0.1": true,
		"127.0.0.1": false, "169.254.169.254": false, "10.200.0.1": false, "224.0.0.1": false, "0.0.0.0": false, "240.0.0.1": false,
	} {
		for _, name := range []string{"plain.test.", "private.test."} {
			l.zone.put(name+" A", name+" 0 IN A "+addr)
			want := dns.RcodeServerFailure
			if open && name == "private.test." {
				want = dns.RcodeSuccess
			}
			if r := l.ask(name, dns.TypeA); r.Rcode != want {
				t.Errorf("%s at %s: %s, want %s", name, addr, rcodeName(r.Rcode), rcodeName(want))
			}
			if want != dns.RcodeSuccess && l.pins.Live(name[:len(name)-1], netip.MustParseAddr(addr)) {
				t.Errorf("%s was pinned at %s", name, addr)
			}
		}
	}
}

func TestRealDirectIP(t *testing.T) {
	l := realLab(t, load(t, 1, `
  - id: apt
    condition: 'dns.query == "apt.test"'
    action: allow
    egress: {mode: direct_ip, ports: [80]}
`))
	l.zone.put("apt.test. A", "apt.test. 60 IN A 93.184.216.34")
	l.ask("apt.test.", dns.TypeA)
	c := l.pins.Candidates(netip.MustParseAddr("93.184.216.34"))
	if len(c) != 1 || len(c[0].Grants) != 2 || c[0].Grants[0].Port != 80 {
		t.Fatalf("%+v", c)
	}
	if !l.hasCell("93.184.216.34", "tcp 80-80") || l.hasCell("93.184.216.34", "tcp 443-443") {
		t.Fatal(l.cellsAt("93.184.216.34"))
	}
}

func TestRealReload(t *testing.T) {
	ctx := context.Background()
	l := realLab(t, load(t, 1, "", "a.test", "b.test", "c.test:22"))
	for i, n := range []string{"a.test", "b.test", "c.test"} {
		l.zone.put(n+". A", fmt.Sprintf("%s. 60 IN A 93.184.216.%d", n, i+1))
		l.ask(n+".", dns.TypeA)
	}
	// A name that only the explicit proxy may ask for stays while no rule blocks it.
	l.zone.put("p.test. A", "p.test. 60 IN A 93.184.216.9")
	if _, err := l.Resolve(ctx, Query{Name: "p.test", Proxy: true}); err != nil {
		t.Fatal(err)
	}
	next := load(t, 3, `
  - {id: no-b, condition: 'dns.query == "b.test"', action: block}
`, "a.test:8443", "b.test:443", "c.test:22")
	if err := l.pins.Reload(ctx, l.Rules(next), func() { l.rules = rulesetOf(next) }); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range l.pins.List() {
		names = append(names, p.Name)
	}
	if fmt.Sprint(names) != "[a.test c.test p.test]" {
		t.Fatal(names)
	}
	if l.hasCell("93.184.216.1", "tcp 443-443") || !l.hasCell("93.184.216.1", "tcp 8443-8443") ||
		len(l.cellsAt("93.184.216.2")) != 0 || !l.hasCell("93.184.216.3", "tcp 22-22") {
		t.Fatal(l.kernel.cells)
	}
	l.wantAnswer(l.ask("b.test.", dns.TypeA), dns.RcodeNameError)
	none := load(t, 4, "")
	if err := l.pins.Reload(ctx, l.Rules(none), func() { l.rules = rulesetOf(none) }); err != nil || len(l.kernel.cells) != 0 {
		t.Fatal(err, l.kernel.cells)
	}
}

func TestRealHostService(t *testing.T) {
	l := realLab(t, load(t, 1, `
  - {id: dev, condition: '(dns.query == "host.outcall.internal" || network.hostname == "host.outcall.internal") && (dns.query != "" || network.port == 3000)', action: allow}
`))
	l.wantAnswer(l.ask("host.outcall.internal.", dns.TypeA), 0, "A 10.200.0.254")
	l = realLab(t, load(t, 1, "", "api.test"))
	l.wantAnswer(l.ask("host.outcall.internal.", dns.TypeA), dns.RcodeNameError)
}

func TestSynthetic(t *testing.T) {
	block := netip.MustParsePrefix("240.0.0.0/4")
	l := realLab(t, load(t, 1, "", "a.test", "b.test", "h.test"), func(c *Config) {
		c.Synthetic, c.Upstreams = block, nil
		c.Hosts = func(n string) []netip.Addr {
			if n == "h.test" {
				return []netip.Addr{netip.MustParseAddr("240.0.0.1")}
			}
			return nil
		}
	})
	r := l.ask("a.test.", dns.TypeA)
	l.wantAnswer(r, 0, "A 240.0.0.1")
	l.wantAnswer(l.ask("b.test.", dns.TypeA), 0, "A 240.0.0.2")
	l.wantAnswer(l.ask("a.test.", dns.TypeA), 0, "A 240.0.0.1")
	l.wantAnswer(l.ask("a.test.", dns.TypeAAAA), 0)
	l.wantAnswer(l.ask("evil.test.", dns.TypeA), dns.RcodeNameError)
	l.wantAnswer(l.ask("h.test.", dns.TypeA), dns.RcodeServerFailure) // another name's address
	if l.zone.count() != 0 {
		t.Fatal("a question left")
	}
	if c := l.pins.Candidates(netip.MustParseAddr("240.0.0.1")); len(c) != 1 || c[0].Name != "a.test" {
		t.Fatal(c)
	}
}

func TestSyntheticIsBounded(t *testing.T) {
	s := newSynthetic(netip.MustParsePrefix("240.0.0.0/16"))
	seen := map[netip.Addr]string{}
	for i := range 3 * maxSynthetic {
		n := fmt.Sprintf("n%d.test", i)
		a := s.of(n)
		if seen[a] != "" || !netip.MustParsePrefix("240.0.0.0/16").Contains(a) {
			t.Fatalf("%v for %s and %s", a, n, seen[a])
		}
		seen[a] = n
	}
	if len(s.byName) != maxSynthetic || len(s.byAddr) != maxSynthetic || s.order.Len() != maxSynthetic {
		t.Fatal(len(s.byName), len(s.byAddr))
	}
	if s.has("n0.test", netip.MustParseAddr("240.0.0.1")) || newSynthetic(netip.Prefix{}) != nil {
		t.Fatal("has")
	}
}

func BenchmarkRealCachedQuestion(b *testing.B) {
	l := realLab(b, load(b, 1, "", "a.test", "b.test", ".c.test", "d.test:22"))
	l.zone.put("a.test. A", "a.test. 300 IN A 93.184.216.34")
	m, _ := query("a.test.", dns.TypeA).Pack()
	for i := 0; b.Loop(); i++ {
		m[0], m[1] = byte(i>>8), byte(i)
		l.ServeUDP(context.Background(), agent, gateway, m)
		if i%1000 == 0 {
			l.taken()
		}
	}
}

// A rule that cannot be evaluated is told beside the verdict.
func TestRealFailureIsTold(t *testing.T) {
	l := realLab(t, load(t, 1, `
  - {id: broken, condition: 'dns.query.split(".")[7] == "x"', action: block}
  - {id: all, condition: 'dns.query != ""', action: allow}
`))
	l.wantAnswer(l.ask("ok.test.", dns.TypeA), dns.RcodeNameError)
	for _, e := range l.taken() {
		if e.Event == "policy" && e.Rule == "broken" && e.Layer == "dns" {
			return
		}
	}
	t.Error("no event tells of the rule")
}
