package dnsfilter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
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

// While the audit cannot be written no question leaves, also of the proxy's,
// whose line is written elsewhere, and of a retransmission.
func TestNoAuditIsADenial(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
	m := query("a.test.", dns.TypeA)
	l.mu.Lock()
	l.fail = errors.New("no space")
	l.mu.Unlock()
	for range 2 {
		l.wantAnswer(l.send(m), dns.RcodeNameError)
	}
	l.wantEvents("verdict allow a.test A allow-a.test", "verdict deny a.test A structural")
	if a, err := l.Resolve(context.Background(), Query{Name: "a.test", Proxy: true}); err != nil || !a.Denied || !a.Structural {
		t.Errorf("%+v, %v", a, err)
	}
	if n := l.zone.count(); n != 0 || l.kernel.passes("93.184.216.34") {
		t.Errorf("%d questions left", n)
	}
	l.mu.Lock()
	l.fail = nil
	l.mu.Unlock()
	m.Id++
	l.wantAnswer(l.send(m), dns.RcodeSuccess, "A 93.184.216.34")
}
