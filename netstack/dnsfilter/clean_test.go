package dnsfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// D10: a name that turns to a private address is not answered with it, and
// the pin of the public one stays.
func TestD10Rebinding(t *testing.T) {
	for _, c := range []struct{ typ, addr string }{
		{"A", "127.0.0.1"}, {"A", "169.254.169.254"}, {"A", "10.0.0.1"}, {"A", "100.64.0.1"}, {"A", "0.0.0.0"},
		{"AAAA", "::1"}, {"AAAA", "fd00:ec2::254"}, {"AAAA", "::ffff:127.0.0.1"}, {"AAAA", "64:ff9b::7f00:1"}, {"AAAA", "fe80::1"},
	} {
		l := newLab(t, fakeRules(1, "rebind.test", ""))
		qtype := dns.StringToType[c.typ]
		good := map[string]string{"A": "93.184.216.34", "AAAA": "2606:2800:220:1::1"}[c.typ]
		l.zone.put("rebind.test. "+c.typ, "rebind.test. 0 IN "+c.typ+" "+good)
		l.wantAnswer(l.ask("rebind.test.", qtype), dns.RcodeSuccess, c.typ+" "+good)
		l.taken()

		l.zone.put("rebind.test. "+c.typ, "rebind.test. 0 IN "+c.typ+" "+c.addr)
		r := l.ask("rebind.test.", qtype)
		l.wantAnswer(r, dns.RcodeServerFailure)
		if code, text := ede(r); code != edeBlocked || !strings.Contains(text, "restricted address d-") {
			t.Fatalf("%s: EDE %d %q", c.addr, code, text)
		}
		e := l.taken()
		if len(e) != 2 || e[0].Verdict != "allow" || e[1].Verdict != "deny" || !e[1].Structural || e[0].ID != e[1].ID {
			t.Fatalf("%s: events %+v", c.addr, e)
		}
		if l.pins.Live("rebind.test", netip.MustParseAddr(c.addr)) || l.kernel.passes(c.addr) {
			t.Fatalf("%s was pinned", c.addr)
		}
		if !l.pins.Live("rebind.test", netip.MustParseAddr(good)) {
			t.Fatal("the public address lost its pin")
		}
	}
}

func TestMixedAnswerKeepsPublicAddresses(t *testing.T) {
	l := newLab(t, fakeRules(1, "mixed.test", ""))
	l.zone.put("mixed.test. A", "mixed.test. 60 IN A 10.0.0.1", "mixed.test. 60 IN A 93.184.216.34")
	l.wantAnswer(l.ask("mixed.test.", dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
	if l.pins.Len() != 1 {
		t.Fatal("pins", l.pins.List())
	}
}

func TestChain(t *testing.T) {
	chain := []string{
		"www.test. 60 IN CNAME cdn.other.", "cdn.other. 30 IN CNAME edge.other.", "edge.other. 120 IN A 93.184.216.34",
		"unrelated.other. 1 IN A 6.6.6.6", "www.test. 60 IN AAAA ::1",
	}
	t.Run("links need no allow and are no pin names", func(t *testing.T) {
		l := newLab(t, fakeRules(1, "www.test", ""))
		l.zone.put("www.test. A", chain...)
		r := l.ask("WWW.test.", dns.TypeA)
		l.wantAnswer(r, dns.RcodeSuccess, "A 93.184.216.34")
		if h := r.Answer[0].Header(); h.Name != "WWW.test." || h.Ttl != 30 {
			t.Fatalf("%+v", h)
		}
		if p := l.pins.List(); len(p) != 1 || p[0].Name != "www.test" {
			t.Fatalf("pins %+v", p)
		}
	})
	for _, link := range []string{"cdn.other", "edge.other"} {
		t.Run("a blocked link vetoes: "+link, func(t *testing.T) {
			l := newLab(t, fakeRules(1, "www.test", link))
			l.zone.put("www.test. A", chain...)
			l.wantAnswer(l.ask("www.test.", dns.TypeA), dns.RcodeNameError)
			if l.pins.Len() != 0 {
				t.Fatal("pinned")
			}
			l.wantEvents("verdict allow www.test A allow-www.test", "verdict deny www.test A block-"+link)
		})
	}
	t.Run("in observe a veto is recorded only", func(t *testing.T) {
		l := newLab(t, fakeRules(1, "www.test", "cdn.other"), func(c *Config) { c.Observe = true })
		l.zone.put("www.test. A", chain...)
		l.wantAnswer(l.ask("www.test.", dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
		l.wantEvents("verdict allow www.test A allow-www.test", "verdict would_deny www.test A block-cdn.other")
	})
	t.Run("CNAME asked for", func(t *testing.T) {
		l := newLab(t, fakeRules(1, "www.test", ""))
		l.zone.put("www.test. CNAME", chain[0])
		l.wantAnswer(l.ask("www.test.", dns.TypeCNAME), dns.RcodeSuccess, "CNAME cdn.other.")
		l.rules = fakeRules(1, "www.test", "cdn.other")
		l.wantAnswer(l.ask("www.test.", dns.TypeCNAME), dns.RcodeNameError)
	})
}

func TestChainThatCannotBeFollowed(t *testing.T) {
	var long []string
	for i := range MaxChain + 1 {
		long = append(long, fmt.Sprintf("n%d.test. 60 IN CNAME n%d.test.", i, i+1))
	}
	long = append(long, fmt.Sprintf("n%d.test. 60 IN A 93.184.216.34", MaxChain+1))
	for name, rrs := range map[string][]string{
		"loop":       {"n0.test. 60 IN CNAME n1.test.", "n1.test. 60 IN CNAME n0.test."},
		"long":       long,
		"two CNAMEs": {"n0.test. 60 IN CNAME n1.test.", "n0.test. 60 IN CNAME n2.test.", "n1.test. 60 IN A 93.184.216.34"},
		"odd target": {`n0.test. 60 IN CNAME n1\.evil.test.`, `n1\.evil.test. 60 IN A 93.184.216.34`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, fakeRules(1, "n0.test", ""))
			l.zone.put("n0.test. A", rrs...)
			l.wantAnswer(l.ask("n0.test.", dns.TypeA), dns.RcodeServerFailure)
			if l.pins.Len() != 0 {
				t.Fatal("pinned")
			}
		})
	}
	l := newLab(t, fakeRules(1, "n1.test", ""))
	l.zone.put("n1.test. A", long[1:]...)
	l.wantAnswer(l.ask("n1.test.", dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
}

// D7: types that could carry data out or in are denied as types.
func TestD7Types(t *testing.T) {
	for _, typ := range []uint16{dns.TypeTXT, dns.TypeNULL, dns.TypeMX, dns.TypeSRV, dns.TypePTR, dns.TypeNS, dns.TypeANY,
		dns.TypeAXFR, dns.TypeIXFR, dns.TypeOPT, 65280} {
		l := newLab(t, fakeRules(1, "api.allowed.test", ""))
		l.wantAnswer(l.ask("api.allowed.test.", typ), dns.RcodeSuccess)
		l.wantAnswer(l.ask("canary.test.", typ), dns.RcodeNameError)
		if e := l.taken(); l.zone.count() != 0 || len(e) != 2 || e[0].Verdict != "deny" || e[1].Verdict != "deny" {
			t.Fatalf("%s: %d questions upstream, events %+v", typeName(typ), l.zone.count(), e)
		}
	}
	// NODATA has SOA and EDE like NXDOMAIN.
	l := newLab(t, fakeRules(1, "api.allowed.test", ""))
	r := l.ask("api.allowed.test.", dns.TypeTXT)
	if code, text := ede(r); code != edeBlocked || !strings.HasPrefix(text, "outcall: default policy d-") || len(r.Ns) != 1 {
		t.Fatalf("EDE %d %q, %d SOA", code, text, len(r.Ns))
	}
	// A rule that speaks of types allows one; meta types never, not even in observe.
	l = newLab(t, fakeRules(1, "a.test a.test/TXT a.test/ANY", ""))
	l.zone.put("a.test. TXT", `a.test. 60 IN TXT "x"`)
	l.wantAnswer(l.ask("a.test.", dns.TypeTXT), dns.RcodeSuccess, `TXT "x"`)
	l.wantAnswer(l.ask("a.test.", dns.TypeANY), dns.RcodeSuccess)
	l = newLab(t, fakeRules(1, "", ""), func(c *Config) { c.Observe = true })
	l.wantAnswer(l.ask("a.test.", dns.TypeAXFR), dns.RcodeNameError)
	if l.zone.count() != 0 {
		t.Fatal("a zone transfer was asked")
	}
}

// D8, T6 (d): HTTPS records lose what leads around the judged path.
func TestD8ServiceRecords(t *testing.T) {
	l := newLab(t, fakeRules(1, "svc.test", ""))
	l.zone.put("svc.test. A", "svc.test. 60 IN A 93.184.216.34")
	l.zone.put("svc.test. HTTPS",
		`svc.test. 60 IN HTTPS 1 . alpn="h2,h3" port="8443" ipv4hint="93.184.216.34,6.6.6.6" ipv6hint="2606:2800:220:1::1" ech="AEX+DQBB" mandatory="alpn,port,ech"`,
		`svc.test. 60 IN HTTPS 2 svc.test. no-default-alpn`,
		`svc.test. 60 IN HTTPS 3 evil.test. alpn="h2"`,
		`svc.test. 60 IN HTTPS 4 . key65400="x" mandatory="key65400"`,
		`svc.test. 60 IN HTTPS 0 alias.test.`)
	r := l.ask("svc.test.", dns.TypeHTTPS)
	l.wantAnswer(r, dns.RcodeSuccess, `HTTPS 1 . mandatory="alpn" alpn="h2,h3"`, `HTTPS 2 .`)

	l.ask("svc.test.", dns.TypeA) // pins the one address
	r = l.ask("svc.test.", dns.TypeHTTPS)
	l.wantAnswer(r, dns.RcodeSuccess, `HTTPS 1 . mandatory="alpn" alpn="h2,h3" ipv4hint="93.184.216.34"`, `HTTPS 2 .`)

	l.zone.put("svc2.test. HTTPS", `svc2.test. 60 IN HTTPS 0 alias.test.`)
	l.Filter.rules = func() *ruleset { return fakeRules(1, "svc2.test", "") }
	r = l.ask("svc2.test.", dns.TypeHTTPS)
	l.wantAnswer(r, dns.RcodeSuccess)
	if len(r.Ns) != 1 {
		t.Fatal("NODATA without SOA")
	}
}

func TestNegativeAnswersAreTrue(t *testing.T) {
	l := newLab(t, fakeRules(1, "gone.test empty.test bare.test chain.test foreign.test", ""))
	soa := "test. 900 IN SOA ns.test. h.test. 1 2 3 4 600"
	l.zone.rcode["gone.test. A"] = dns.RcodeNameError
	l.zone.put("gone.test. A", soa)
	l.zone.put("empty.test. A", "test. 20 IN SOA ns.test. h.test. 1 2 3 4 600")
	l.zone.put("foreign.test. A", "evil. 20 IN SOA ns.test. h.test. 1 2 3 4 600")
	l.zone.rcode["chain.test. A"] = dns.RcodeNameError
	l.zone.put("chain.test. A", "chain.test. 60 IN CNAME x.other.", "other. 900 IN SOA ns.other. h.other. 1 2 3 4 600")
	for _, c := range []struct {
		name  string
		rcode int
		owner string
		ttl   uint32
	}{
		{"gone.test.", dns.RcodeNameError, "test.", 300},
		{"empty.test.", dns.RcodeSuccess, "test.", 20},
		{"bare.test.", dns.RcodeSuccess, "outcall.invalid.", 0},
		{"foreign.test.", dns.RcodeSuccess, "outcall.invalid.", 0},
		{"chain.test.", dns.RcodeNameError, "outcall.invalid.", 60},
	} {
		r := l.ask(c.name, dns.TypeA)
		l.wantAnswer(r, c.rcode)
		soa := r.Ns[0].(*dns.SOA)
		if soa.Hdr.Name != c.owner || soa.Hdr.Ttl != c.ttl || soa.Minttl > 600 {
			t.Errorf("%s: %v", c.name, soa)
		}
		if code, _ := ede(r); code != -1 {
			t.Errorf("%s: a true answer has an extended error", c.name)
		}
	}
	n := l.zone.count()
	l.ask("gone.test.", dns.TypeA)
	l.ask("empty.test.", dns.TypeA)
	if l.zone.count() != n {
		t.Error("negative answers were not cached")
	}
	l.ask("bare.test.", dns.TypeA)
	if l.zone.count() != n+1 {
		t.Error("a negative answer without SOA was cached")
	}
}

func TestManyAddressesAreBounded(t *testing.T) {
	l := newLab(t, fakeRules(1, "many.test", ""))
	var rrs []string
	for i := range MaxAddrs + 40 {
		rrs = append(rrs, fmt.Sprintf("many.test. 60 IN A 93.184.%d.%d", i/250, i%250+1))
	}
	l.zone.put("many.test. A", rrs...)
	m := query("many.test.", dns.TypeA)
	r := l.send(m)
	if l.pins.Len() != MaxAddrs {
		t.Fatalf("%d pins", l.pins.Len())
	}
	for _, rr := range r.Answer {
		if a, _ := addrOf(rr); !l.pins.Live("many.test", a) {
			t.Fatalf("%v is answered and not pinned", a)
		}
	}
	if len(r.Answer) != MaxAddrs && !r.Truncated {
		t.Fatal("cut without the TC bit")
	}
}

func TestCacheAndTTL(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test zero.test", ""))
	l.zone.put("a.test. A", "a.test. 100 IN A 93.184.216.34")
	l.zone.put("zero.test. A", "zero.test. 0 IN A 93.184.216.35")
	l.ask("a.test.", dns.TypeA)
	l.advance(40 * time.Second)
	if r := l.ask("A.TEST.", dns.TypeA); r.Answer[0].Header().Ttl != 60 || l.zone.count() != 1 {
		t.Fatalf("ttl %d, %d questions upstream", r.Answer[0].Header().Ttl, l.zone.count())
	}
	l.advance(60 * time.Second)
	l.ask("a.test.", dns.TypeA)
	if l.zone.count() != 2 {
		t.Fatal("an expired answer was used")
	}
	l.ask("zero.test.", dns.TypeA)
	l.ask("zero.test.", dns.TypeA)
	if l.zone.count() != 4 {
		t.Fatal("TTL 0 was cached")
	}
	if e := l.Cache(); len(e) != 1 || e[0].Hostname != "a.test" || e[0].TTLLeft != 100 {
		t.Fatalf("%+v", e)
	}
	if l.Flush() != 1 || l.Stats().Cache.Entries != 0 {
		t.Fatal("flush")
	}
	l.ask("a.test.", dns.TypeA)
	if l.zone.count() != 5 {
		t.Fatal("a flushed answer was used")
	}
}

func TestCacheLimits(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := newCache(func() time.Time { return now })
	rr, _ := dns.NewRR("a.test. 60 IN A 1.2.3.4")
	for i := range CacheEntries + 10 {
		c.put(cacheKey{fmt.Sprintf("n%d.test", i), 1}, &data{ttl: time.Minute, born: now, rrs: []dns.RR{rr}})
	}
	if s := c.stats(); s.Entries != CacheEntries || s.Evictions != 10 {
		t.Fatalf("%+v", s)
	}
	if c.get(cacheKey{"n0.test", 1}) != nil || c.get(cacheKey{"n10.test", 1}) == nil {
		t.Fatal("not the least recently used went")
	}
	big, _ := dns.NewRR(`a.test. 60 IN TXT ` + strings.Repeat(`"`+strings.Repeat("x", 200)+`" `, 30))
	for i := range 5000 {
		c.put(cacheKey{fmt.Sprintf("b%d.test", i), 16}, &data{ttl: time.Minute, born: now, rrs: []dns.RR{big}})
	}
	if s := c.stats(); s.Bytes > CacheBytes || s.Entries == 0 {
		t.Fatalf("%+v", s)
	}
	c.flush()
	c.put(cacheKey{"huge.test", 16}, &data{ttl: time.Minute, born: now, rrs: slices.Repeat([]dns.RR{big}, 2)})
	if s := c.stats(); s.Entries != 0 || s.Bytes != 0 {
		t.Fatalf("%+v", s)
	}
}

// The largest reply that a hostile zone can make costs bounded work: names
// packed with as many pointers as there can be, a chain as long as it may be.
func TestHostileReplyIsBoundedWork(t *testing.T) {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Compress: true}
	m.SetQuestion("n0.test.", dns.TypeA)
	for i := range MaxChain {
		rr, _ := dns.NewRR(fmt.Sprintf("n%d.test. 60 IN CNAME n%d.test.", i, i+1))
		m.Answer = append(m.Answer, rr)
	}
	long := strings.Repeat("a.", 120) + "test."
	rr, _ := dns.NewRR(long + " 60 IN A 93.184.216.34")
	end, _ := dns.NewRR(fmt.Sprintf("n%d.test. 60 IN A 93.184.216.34", MaxChain))
	for range 3500 {
		m.Answer = append(m.Answer, rr)
	}
	for range MaxRecords + 10 {
		m.Answer = append(m.Answer, end)
	}
	raw, err := m.Pack()
	if err != nil || len(raw) > 65535 {
		t.Fatal(err, len(raw))
	}
	start := time.Now()
	q := &asked{id: m.Id, name: "n0.test.", qtype: dns.TypeA}
	d, err := digest(cacheKey{"n0.test", dns.TypeA}, q.match(raw))
	if err != nil || len(d.rrs) != MaxRecords || len(d.chain) != MaxChain || len(addrsOf(d.rrs)) != 1 {
		t.Fatal(err, d)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Fatal("it took", took)
	} else {
		t.Log(len(raw), "bytes took", took)
	}
}

// FuzzAnswer: whatever an upstream sends, what comes out of it is on the
// chain from the question, and can be sent on.
func FuzzAnswer(f *testing.F) {
	add := func(rcode int, rrs ...string) {
		m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Rcode: rcode}}
		m.SetQuestion("a.test.", dns.TypeA)
		for _, s := range rrs {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		b, _ := m.Pack()
		f.Add(b, uint16(dns.TypeA))
	}
	add(0, "a.test. 60 IN CNAME b.test.", "b.test. 60 IN A 1.2.3.4")
	add(0, "a.test. 60 IN A 1.2.3.4", "a.test. 60 IN A 127.0.0.1")
	add(3, "a.test. 60 IN CNAME a.test.")
	f.Fuzz(func(t *testing.T, raw []byte, qtype uint16) {
		k := cacheKey{"a.test", qtype}
		q := &asked{name: "a.test.", qtype: qtype}
		if len(raw) >= 2 {
			q.id = uint16(raw[0])<<8 | uint16(raw[1])
		}
		m := q.match(raw)
		if m == nil {
			return
		}
		d, err := digest(k, m)
		if err != nil {
			return
		}
		owner := "a.test"
		if len(d.chain) > 0 {
			owner = d.chain[len(d.chain)-1]
		}
		for _, rr := range d.rrs {
			if h := rr.Header(); h.Rrtype != qtype || !sameName(h.Name, owner) || d.rcode != 0 {
				t.Fatalf("%v at %s", rr, owner)
			}
			cleanService(rr, owner, "a.test", func(netip.Addr) bool { return true })
		}
		if d.ttl < 0 || d.ttl > MaxTTL || len(d.chain) > MaxChain || len(d.rrs) > MaxRecords {
			t.Fatalf("bounds: %v, %d links, %d records", d.ttl, len(d.chain), len(d.rrs))
		}
		if addrs := addrsOf(d.rrs); len(addrs) > MaxAddrs {
			t.Fatal("too many addresses")
		}
		l := &Filter{clock: time.Now}
		res := l.positive(&ask{name: "a.test", qtype: qtype, shown: "a.test."}, d, verdict{})
		out := reply(&question{wire: "a.test.", qtype: qtype}, "udp", res)
		if len(out) > dns.MinMsgSize || new(dns.Msg).Unpack(out) != nil {
			t.Fatalf("bad reply %x", out)
		}
	})
}
