package dnsfilter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"outcall/netstack/pin"
	"outcall/policy"
)

func TestObserveLetsRuleDenialsThrough(t *testing.T) {
	l := newLab(t, fakeRules(1, "", "bad.test"), func(c *Config) { c.Observe = true })
	for _, n := range []string{"any.test.", "bad.test."} {
		l.zone.put(n+" A", n+" 60 IN A 93.184.216.34")
		l.wantAnswer(l.ask(n, dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
	}
	l.wantEvents("verdict would_deny any.test A default policy", "verdict would_deny bad.test A block-bad.test")
	l.zone.put("in.test. A", "in.test. 60 IN A 10.0.0.1")
	l.wantAnswer(l.ask("in.test.", dns.TypeA), dns.RcodeServerFailure)
	l.wantAnswer(l.ask("printer.local.", dns.TypeA), dns.RcodeNameError)
	l.wantEvents("verdict would_deny in.test A default policy", "verdict deny in.test A structural",
		"verdict deny printer.local A structural")
}

func TestRetransmissionsAreOneAttempt(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
	m := query("a.test.", dns.TypeA)
	for range 3 {
		l.wantAnswer(l.send(m), dns.RcodeSuccess, "A 93.184.216.34")
	}
	l.wantEvents("verdict allow a.test A allow-a.test")
	denied := query("evil.test.", dns.TypeA)
	_, first := ede(l.send(denied))
	if _, again := ede(l.send(denied)); again != first {
		t.Fatal("a retransmission got another id")
	}
	l.wantEvents("verdict deny evil.test A default policy")
	// Another id, type, or a later time is another attempt; so is another word.
	m.Id++
	l.send(m)
	l.advance(JoinFor + 1)
	l.send(m)
	l.rules = fakeRules(1, "", "")
	l.send(m)
	l.wantEvents("verdict allow a.test A allow-a.test", "verdict allow a.test A allow-a.test",
		"verdict deny a.test A default policy")
}

func TestJoinIsBounded(t *testing.T) {
	r := newRecent(time.Now)
	k := recentKey{src: agent, name: "a.test", qtype: 1}
	first, _ := r.join(k)
	for i := range MaxJoined {
		r.join(recentKey{src: agent, name: fmt.Sprint(i), qtype: 1})
	}
	if len(r.byKey) != MaxJoined || len(r.order) != MaxJoined {
		t.Fatal(len(r.byKey), len(r.order))
	}
	if again, _ := r.join(k); again == first {
		t.Fatal("the oldest was not forgotten")
	}
}

func TestNoPinNoAnswer(t *testing.T) {
	for name, c := range map[string]func(*lab){
		"kernel refuses": func(l *lab) { l.kernel.fail = errors.New("no buffer space available") },
		"table full": func(l *lab) {
			for a := netip.MustParseAddr("1.0.0.0"); l.pins.Len() < pin.Max; {
				b := pin.Binding{Generation: 1, Name: "x.test"}
				for range 512 {
					b.Addrs = append(b.Addrs, pin.Addr{Addr: a})
					a = a.Next()
				}
				if err := l.pins.Add(context.Background(), b); err != nil {
					l.t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, fakeRules(1, "a.test", ""))
			l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
			c(l)
			r := l.ask("a.test.", dns.TypeA)
			l.wantAnswer(r, dns.RcodeServerFailure)
			if _, text := ede(r); !strings.HasPrefix(text, "outcall: the answer could not be pinned d-") {
				t.Fatal(text)
			}
			if l.kernel.passes("93.184.216.34") || l.pins.Live("a.test", netip.MustParseAddr("93.184.216.34")) {
				t.Fatal("pinned")
			}
			want := []string{"verdict allow a.test A allow-a.test", "verdict deny a.test A structural"}
			if name == "table full" {
				want = slices.Insert(want, 1, "limit deny structural")
			}
			l.wantEvents(want...)
		})
	}
}

// K15: a reload between judging and pinning; the answer is judged again.
func TestK15ReloadBetweenJudgingAndPinning(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		l := newLab(t, fakeRules(1, "a.test", ""))
		l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
		next := fakeRules(2, "", "")
		if allowed {
			next = fakeRules(2, "a.test", "")
		}
		l.zone.hook = func(ctx context.Context, _ netip.AddrPort) error {
			return l.pins.Reload(ctx, pin.Rules{Generation: 2, Cells: cells443}, func() {
				l.mu.Lock()
				l.rules = next
				l.mu.Unlock()
			})
		}
		r := l.ask("a.test.", dns.TypeA)
		if allowed {
			l.wantAnswer(r, dns.RcodeSuccess, "A 93.184.216.34")
			l.wantEvents("verdict allow a.test A allow-a.test")
			continue
		}
		l.wantAnswer(r, dns.RcodeNameError)
		l.wantEvents("verdict allow a.test A allow-a.test", "verdict deny a.test A default policy")
		if l.pins.Len() != 0 || l.kernel.passes("93.184.216.34") {
			t.Fatal("the stale answer was pinned")
		}
	}
}

func TestReloadsWithoutEndFailClosed(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
	l.Filter.rules = func() *ruleset { return fakeRules(0, "a.test", "") } // always older than the table's
	l.wantAnswer(l.ask("a.test.", dns.TypeA), dns.RcodeServerFailure)
	if l.pins.Len() != 0 {
		t.Fatal("pinned")
	}
}

func TestNoVerdictIsADenial(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
	l.Filter.rules = func() *ruleset { return nil }
	l.wantAnswer(l.ask("a.test.", dns.TypeA), dns.RcodeNameError)
	l.wantEvents("verdict deny a.test A structural")
	bad := fakeRules(1, "a.test", "")
	bad.step = func(*policy.Facts) policy.Outcome { panic("boom") }
	l.Filter.rules = func() *ruleset { return bad }
	l.wantAnswer(l.ask("a.test.", dns.TypeA), dns.RcodeServerFailure)
	l.wantEvents("verdict deny a.test A structural")
	if l.zone.count() != 0 {
		t.Fatal("a question left")
	}
	if n := New(Config{}).current(); n != nil {
		t.Fatal("rules without a snapshot")
	}
}

func TestLocalNames(t *testing.T) {
	l := newLab(t, fakeRules(1, "host.outcall.internal", ""))
	for _, c := range []struct {
		name  string
		typ   uint16
		rcode int
		want  []string
	}{
		{"localhost.", dns.TypeA, 0, []string{"A 127.0.0.1"}},
		{"x.LOCALHOST.", dns.TypeAAAA, 0, []string{"AAAA ::1"}},
		{"localhost.", dns.TypeTXT, 0, nil},
		{"gateway.outcall.internal.", dns.TypeA, 0, []string{"A 10.200.0.1"}},
		{"host.outcall.internal.", dns.TypeA, 0, []string{"A 10.200.0.254"}},
		{"host.outcall.internal.", dns.TypeAAAA, 0, []string{"AAAA fd0c:a11::fe"}},
		{"host.outcall.internal.", dns.TypeHTTPS, 0, nil},
		{"other.outcall.internal.", dns.TypeA, dns.RcodeNameError, nil},
		{"printer.local.", dns.TypeA, dns.RcodeNameError, nil},
		{"local.", dns.TypeA, dns.RcodeNameError, nil},
		{"x.onion.", dns.TypeA, dns.RcodeNameError, nil},
		{"1.0.0.127.in-addr.arpa.", dns.TypePTR, 0, []string{"PTR localhost."}},
		{"1.0.200.10.in-addr.arpa.", dns.TypePTR, 0, []string{"PTR gateway.outcall.internal."}},
	} {
		l.wantAnswer(l.ask(c.name, c.typ), c.rcode, c.want...)
	}
	if l.zone.count() != 0 {
		t.Fatal("a local name was forwarded")
	}
	if !l.pins.Live("host.outcall.internal", netip.MustParseAddr("10.200.0.254")) || l.pins.Len() != 2 {
		t.Fatal("pins:", l.pins.List())
	}
	l.rules = fakeRules(1, "", "")
	l.wantAnswer(l.ask("host.outcall.internal.", dns.TypeA), dns.RcodeNameError)
}

func TestHostEntries(t *testing.T) {
	l := newLab(t, fakeRules(1, "db.corp loop.corp", ""), func(c *Config) {
		c.Hosts = func(n string) []netip.Addr {
			switch n {
			case "db.corp", "secret.corp":
				return []netip.Addr{netip.MustParseAddr("93.184.216.40"), netip.MustParseAddr("2606:2800::1")}
			case "loop.corp":
				return []netip.Addr{netip.MustParseAddr("127.0.1.1")}
			}
			return nil
		}
	})
	l.wantAnswer(l.ask("db.corp.", dns.TypeA), 0, "A 93.184.216.40")
	l.wantAnswer(l.ask("db.corp.", dns.TypeAAAA), 0, "AAAA 2606:2800::1")
	l.wantAnswer(l.ask("db.corp.", dns.TypeHTTPS), 0)
	l.wantAnswer(l.ask("secret.corp.", dns.TypeA), dns.RcodeNameError)
	l.wantAnswer(l.ask("loop.corp.", dns.TypeA), dns.RcodeServerFailure)
	if l.zone.count() != 0 || l.pins.Len() != 2 {
		t.Fatal(l.zone.count(), l.pins.List())
	}
}

func TestPTROfAPin(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", "35.216.184.93.in-addr.arpa"))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34", "a.test. 60 IN A 93.184.216.35")
	l.zone.put("a.test. AAAA", "a.test. 60 IN AAAA 2606:2800::1")
	l.ask("a.test.", dns.TypeA)
	l.ask("a.test.", dns.TypeAAAA)
	n := l.zone.count()
	l.wantAnswer(l.ask("34.216.184.93.in-addr.arpa.", dns.TypePTR), 0, "PTR a.test.")
	l.wantAnswer(l.ask("1"+strings.Repeat(".0", 23)+".0.0.8.2.6.0.6.2.ip6.arpa.", dns.TypePTR), 0, "PTR a.test.")
	l.wantAnswer(l.ask("36.216.184.93.in-addr.arpa.", dns.TypePTR), dns.RcodeNameError) // D7
	l.wantAnswer(l.ask("35.216.184.93.in-addr.arpa.", dns.TypePTR), dns.RcodeNameError) // blocked by name
	l.wantAnswer(l.ask("034.216.184.93.in-addr.arpa.", dns.TypePTR), dns.RcodeNameError)
	if l.zone.count() != n {
		t.Fatal("a PTR question left")
	}
}

func TestAAAAWithoutIPv6(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""), func(c *Config) { c.IPv6 = false })
	r := l.ask("a.test.", dns.TypeAAAA)
	l.wantAnswer(r, 0)
	if len(r.Ns) != 1 || l.zone.count() != 0 {
		t.Fatal(r, l.zone.count())
	}
	l.wantAnswer(l.ask("evil.test.", dns.TypeAAAA), dns.RcodeNameError)
}

func TestUDPTruncation(t *testing.T) {
	l := newLab(t, fakeRules(1, "many.test", ""))
	var rrs []string
	for i := range 60 {
		rrs = append(rrs, fmt.Sprintf("many.test. 60 IN A 93.184.216.%d", i+1))
	}
	l.zone.put("many.test. A", rrs...)
	for size, want := range map[int]int{0: 512, 100: 512, 800: 800, 1232: 1232, 65535: MaxUDPReply} {
		m := query("many.test.", dns.TypeA)
		m.IsEdns0().SetUDPSize(uint16(size))
		if size == 0 {
			m.Extra = nil
		}
		b, _ := m.Pack()
		out := l.ServeUDP(context.Background(), agent, gateway, b)
		r := new(dns.Msg)
		if err := r.Unpack(out); err != nil || len(out) > want {
			t.Fatal(err, len(out), want)
		}
		if full := len(r.Answer) == 60; full == r.Truncated || full != (want >= 1000) {
			t.Fatalf("size %d: %d answers, TC %v", size, len(r.Answer), r.Truncated)
		}
		if (r.IsEdns0() != nil) != (size != 0) {
			t.Fatal("EDNS only for who has it")
		}
	}
}

func TestTCP(t *testing.T) {
	l := newLab(t, fakeRules(1, "many.test", ""))
	var rrs []string
	for i := range 64 {
		rrs = append(rrs, fmt.Sprintf("many.test. 60 IN A 93.184.216.%d", i+1))
	}
	l.zone.put("many.test. A", rrs...)
	c, s := net.Pipe()
	done := make(chan struct{})
	go func() { l.ServeTCP(context.Background(), s, agent, gateway); close(done) }()
	for i := range MaxTCPQueries {
		m := query("many.test.", dns.TypeA)
		m.Id = uint16(i)
		b, _ := m.Pack()
		if err := writeFramed(c, b); err != nil {
			t.Fatal(i, err)
		}
		raw, err := readFramed(c, 65535)
		if err != nil {
			t.Fatal(i, err)
		}
		r := new(dns.Msg)
		if err := r.Unpack(raw); err != nil || len(r.Answer) != 64 || r.Truncated {
			t.Fatal(err, r)
		}
	}
	if _, err := readFramed(c, 65535); err == nil {
		t.Fatal("the connection outlived its number of questions")
	}
	<-done
}

func TestTCPEnds(t *testing.T) {
	for name, act := range map[string]func(net.Conn, context.CancelFunc){
		"idle":          func(net.Conn, context.CancelFunc) {},
		"half a length": func(c net.Conn, _ context.CancelFunc) { _, _ = c.Write([]byte{0}) },
		"half a query":  func(c net.Conn, _ context.CancelFunc) { _, _ = c.Write([]byte{0, 50, 1, 2, 3}) },
		"too long":      func(c net.Conn, _ context.CancelFunc) { _, _ = c.Write([]byte{0xff, 0xff}) },
		"no question":   func(c net.Conn, _ context.CancelFunc) { _, _ = c.Write([]byte{0, 1, 1}) },
		"closed":        func(c net.Conn, _ context.CancelFunc) { c.Close() },
		"cancelled":     func(_ net.Conn, cancel context.CancelFunc) { cancel() },
		"never reads": func(c net.Conn, _ context.CancelFunc) {
			b, _ := query("evil.test.", dns.TypeA).Pack()
			_ = writeFramed(c, b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, fakeRules(1, "", ""))
				c, s := net.Pipe()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				done := make(chan struct{})
				start := time.Now()
				go func() { l.ServeTCP(ctx, s, agent, gateway); close(done) }()
				act(c, cancel)
				<-done
				if d := time.Since(start); d > 2*TCPIdle {
					t.Fatal("held for", d)
				}
				c.Close()
			})
		})
	}
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, fakeRules(1, "a.test", ""))
		release := make(chan struct{})
		l.zone.hook = func(context.Context, netip.AddrPort) error { <-release; return nil }
		var wg sync.WaitGroup
		for i := range MaxQuestions {
			m := query("a.test.", dns.TypeA)
			m.Id = uint16(i)
			wg.Go(func() { l.send(m) })
		}
		synctest.Wait()
		for range 5 {
			if r := l.send(query("b.test.", dns.TypeA)); r != nil {
				t.Fatal("a question beyond the limit was answered")
			}
		}
		for range MaxTCP + 3 {
			c, s := net.Pipe()
			defer c.Close()
			wg.Go(func() { l.ServeTCP(context.Background(), s, agent, gateway) })
		}
		synctest.Wait()
		time.Sleep(2 * time.Second) // virtual: the second sums up
		synctest.Wait()
		sum := map[string]int{}
		for _, e := range l.taken() {
			if e.Event == "limit" {
				sum[e.Reason] += e.Count
			}
		}
		if sum["more than 1024 DNS questions at once"] != 5 || sum["more than 64 DNS connections at once"] != 3 {
			t.Fatal(sum)
		}
		if l.Stats().Dropped != 8 {
			t.Fatal(l.Stats())
		}
		close(release)
		wg.Wait()
	})
}

func TestOtherResolverIsNamed(t *testing.T) { // D3
	l := newLab(t, fakeRules(1, "a.test", ""))
	b, _ := query("evil.test.", dns.TypeA).Pack()
	l.ServeUDP(context.Background(), agent, netip.MustParseAddrPort("8.8.8.8:53"), b)
	if e := l.taken(); len(e) != 1 || e[0].IP != "8.8.8.8" || e[0].Port != 53 || e[0].Protocol != "udp" {
		t.Fatalf("%+v", e)
	}
}

func TestProcessIsInTheEvent(t *testing.T) {
	l := newLab(t, fakeRules(1, "", ""), func(c *Config) {
		c.Attribute = func(_ context.Context, p policy.Proto, src, dst netip.AddrPort) *policy.Process {
			if p != policy.UDP || src != agent || dst != gateway {
				return nil
			}
			return &policy.Process{PID: 7, Exe: "/bin/curl"}
		}
	})
	l.ask("evil.test.", dns.TypeA)
	if e := l.taken(); len(e) != 1 || e[0].Process == nil || e[0].Process.PID != 7 {
		t.Fatalf("%+v", e)
	}
}

func TestResolve(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test gone.test", "bad.test"))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34", "a.test. 60 IN A 10.0.0.1")
	l.zone.put("a.test. AAAA", "a.test. 60 IN AAAA 2606:2800::1")
	l.zone.put("proxyonly.test. A", "proxyonly.test. 60 IN A 93.184.216.36")
	l.zone.put("bad.test. A", "bad.test. 60 IN A 93.184.216.37")
	l.zone.put("link.test. A", "link.test. 60 IN CNAME bad.test.", "bad.test. 60 IN A 93.184.216.37")
	l.zone.put("inner.test. A", "inner.test. 60 IN A 127.0.0.1")
	l.zone.rcode["gone.test. A"], l.zone.rcode["gone.test. AAAA"] = dns.RcodeNameError, dns.RcodeNameError
	ctx := context.Background()
	addrs := func(s ...string) (out []netip.Addr) {
		for _, x := range s {
			out = append(out, netip.MustParseAddr(x))
		}
		return out
	}
	old := netip.MustParseAddr("93.184.216.99")
	for _, c := range []struct {
		q          Query
		want       []netip.Addr
		denied     bool
		structural bool
		rcode      int
	}{
		{Query{Name: "A.test."}, addrs("93.184.216.34", "2606:2800::1"), false, false, 0},
		{Query{Name: "proxyonly.test"}, nil, true, false, dns.RcodeNameError},
		{Query{Name: "proxyonly.test", Proxy: true}, addrs("93.184.216.36"), false, false, 0},
		{Query{Name: "bad.test", Proxy: true}, nil, true, false, dns.RcodeNameError},
		{Query{Name: "link.test", Proxy: true}, nil, true, false, dns.RcodeNameError},
		{Query{Name: "inner.test", Proxy: true}, nil, true, true, dns.RcodeServerFailure},
		{Query{Name: "x.local", Proxy: true}, nil, true, true, dns.RcodeNameError},
		{Query{Name: "gone.test"}, nil, false, false, dns.RcodeNameError},
		{Query{Name: "gone.test", Keep: old}, []netip.Addr{old}, false, false, dns.RcodeNameError},
		{Query{Name: "a.test", Keep: old}, append(addrs("93.184.216.34"), old, netip.MustParseAddr("2606:2800::1")), false, false, 0},
		{Query{Name: "evil.test", Keep: old}, nil, true, false, dns.RcodeNameError},
	} {
		before := l.pins.Len()
		a, err := l.Resolve(ctx, c.q)
		if err != nil || a.Denied != c.denied || a.Structural != c.structural || !slices.Equal(a.Addrs, c.want) || a.Rcode != c.rcode {
			t.Fatalf("%+v: %+v %v", c.q, a, err)
		}
		for _, x := range c.want {
			if !l.pins.Live(a.Name, x) || !l.kernel.passes(x.String()) {
				t.Fatalf("%+v: %v is not pinned", c.q, x)
			}
		}
		if len(c.want) == 0 && l.pins.Len() != before {
			t.Fatalf("%+v pinned something", c.q)
		}
		if c.denied && a.Reason == "" {
			t.Fatalf("%+v: no reason", c.q)
		}
	}
	if e := l.taken(); len(e) != 0 {
		t.Fatalf("Resolve wrote lines of its own: %+v", e)
	}
	for _, n := range []string{"", "a b", "127.1\x00", "[::1]"} {
		if a, err := l.Resolve(ctx, Query{Name: n, Proxy: true}); !errors.Is(err, ErrName) || !a.Denied {
			t.Fatal(n, a, err)
		}
	}
}

// A half that fails is not an empty half: the caller must not say NXDOMAIN.
func TestResolveHalfFailed(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.rcode["a.test. AAAA"] = dns.RcodeServerFailure
	if _, err := l.Resolve(context.Background(), Query{Name: "a.test"}); !errors.Is(err, ErrUpstream) {
		t.Fatal(err)
	}
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
	if a, err := l.Resolve(context.Background(), Query{Name: "a.test"}); err != nil || len(a.Addrs) != 1 {
		t.Fatal(a, err)
	}
}

func TestOperatorsTest(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34", "a.test. 60 IN A 10.0.0.1")
	ctx := context.Background()
	r, err := l.Test(ctx, "A.test", "")
	if err != nil || r.Verdict != "allow" || len(r.Answers) != 1 || len(r.Stripped) != 1 || r.Rule != "allow-a.test" || r.Upstream != upAddr.String() {
		t.Fatalf("%+v %v", r, err)
	}
	if r, _ = l.Test(ctx, "a.test", "A"); !r.Cached || r.TTL != 60 {
		t.Fatalf("%+v", r)
	}
	if r, _ = l.Test(ctx, "evil.test", "TYPE65280"); r.Verdict != "deny" || r.Rcode != "NXDOMAIN" || r.Rule != "default policy" {
		t.Fatalf("%+v", r)
	}
	if _, err = l.Test(ctx, "a.test", "NOPE"); err == nil {
		t.Fatal("unknown type")
	}
	if _, err = l.Test(ctx, "a b", "A"); !errors.Is(err, ErrName) {
		t.Fatal(err)
	}
	if w, err := l.Prewarm(ctx, "a.test"); err != nil || len(w) != 2 {
		t.Fatal(w, err)
	}
	if l.pins.Len() != 0 || len(l.kernel.cells) != 0 || len(l.taken()) != 0 {
		t.Fatal("a test had an effect")
	}
}

func TestCloseEndsExchanges(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.hook = func(ctx context.Context, _ netip.AddrPort) error { l.Close(); <-ctx.Done(); return ctx.Err() }
	l.wantAnswer(l.ask("a.test.", dns.TypeA), dns.RcodeServerFailure)
}

func BenchmarkCachedQuestion(b *testing.B) {
	l := newLab(b, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 300 IN A 93.184.216.34")
	m, _ := query("a.test.", dns.TypeA).Pack()
	for i := 0; b.Loop(); i++ {
		m[0], m[1] = byte(i>>8), byte(i)
		if l.ServeUDP(context.Background(), agent, gateway, m) == nil {
			b.Fatal("no reply")
		}
		if i%1000 == 0 {
			l.taken()
		}
	}
}

func BenchmarkDeniedQuestion(b *testing.B) {
	l := newLab(b, fakeRules(1, "a.test", ""))
	m, _ := query("evil.test.", dns.TypeA).Pack()
	for i := 0; b.Loop(); i++ {
		m[0], m[1] = byte(i>>8), byte(i)
		l.ServeUDP(context.Background(), agent, gateway, m)
		if i%1000 == 0 {
			l.taken()
		}
	}
}
