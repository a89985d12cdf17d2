package dnsfilter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// K12: whatever the client puts into its question, the upstream sees the
// question that we would compose ourselves.
func TestK12NothingOfTheClientsReachesTheUpstream(t *testing.T) {
	for name, change := range map[string]func(m *dns.Msg){
		"plain":      func(*dns.Msg) {},
		"case":       func(m *dns.Msg) { m.Question[0].Name = "aPi.aLLoWed.tEsT." },
		"no EDNS":    func(m *dns.Msg) { m.Extra = nil },
		"DO, CD, AD": func(m *dns.Msg) { m.IsEdns0().SetDo(); m.CheckingDisabled, m.AuthenticatedData = true, true },
		"no RD":      func(m *dns.Msg) { m.RecursionDesired = false },
		"size":       func(m *dns.Msg) { m.IsEdns0().SetUDPSize(65535) },
		"Z bits, AA": func(m *dns.Msg) { m.Zero, m.Authoritative = true, true },
		"ECS": func(m *dns.Msg) {
			option(m, &dns.EDNS0_SUBNET{Family: 1, SourceNetmask: 32, Address: net.IP{1, 2, 3, 4}})
		},
		"cookie":     func(m *dns.Msg) { option(m, &dns.EDNS0_COOKIE{Cookie: "0123456789abcdef"}) },
		"65001":      func(m *dns.Msg) { option(m, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("canary")}) },
		"padding":    func(m *dns.Msg) { option(m, &dns.EDNS0_PADDING{Padding: []byte("canary")}) },
		"flags of Z": func(m *dns.Msg) { m.IsEdns0().SetZ(0x1fff) },
		"another id": func(m *dns.Msg) { m.Id = 0xbeef },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, fakeRules(1, "api.allowed.test", ""))
			l.zone.put("api.allowed.test. A", "api.allowed.test. 60 IN A 93.184.216.34")
			m := query("api.allowed.test.", dns.TypeA)
			change(m)
			if l.wantAnswer(l.send(m), dns.RcodeSuccess, "A 93.184.216.34"); l.zone.count() != 1 {
				t.Fatal("not one question")
			}
			got := l.zone.asked[0]
			want := compose(cacheKey{"api.allowed.test", dns.TypeA}, true).wire
			// Ids and letter case are random; all else is equal.
			if !bytes.Equal(bytes.ToLower(got[2:]), bytes.ToLower(want[2:])) {
				t.Fatalf("upstream saw\n%x, we would compose\n%x", got, want)
			}
			if bytes.Contains(got, []byte("canary")) || got[0] == 0xbe && got[1] == 0xef {
				t.Fatal("something of the client's is in it")
			}
		})
	}
}

func option(m *dns.Msg, o dns.EDNS0) {
	opt := m.IsEdns0()
	opt.Option = append(opt.Option, o)
}

func TestComposeIsRandom(t *testing.T) {
	ids, names := map[uint16]bool{}, map[string]bool{}
	for range 100 {
		a := compose(cacheKey{"a-long-enough-name.test", 1}, true)
		ids[a.id], names[a.name] = true, true
	}
	if len(ids) < 90 || len(names) < 90 {
		t.Fatalf("%d ids, %d letter cases of 100", len(ids), len(names))
	}
}

// Replies that do not answer our question are not used.
func TestForgedReplies(t *testing.T) {
	for name, forge := range map[string]func(*dns.Msg, bool){
		"id":           func(m *dns.Msg, _ bool) { m.Id++ },
		"a question":   func(m *dns.Msg, _ bool) { m.Response = false },
		"name":         func(m *dns.Msg, _ bool) { m.Question[0].Name = "api.evil.test." },
		"type":         func(m *dns.Msg, _ bool) { m.Question[0].Qtype = dns.TypeAAAA },
		"class":        func(m *dns.Msg, _ bool) { m.Question[0].Qclass = dns.ClassCHAOS },
		"opcode":       func(m *dns.Msg, _ bool) { m.Opcode = dns.OpcodeNotify },
		"no question":  func(m *dns.Msg, _ bool) { m.Question = nil },
		"two":          func(m *dns.Msg, _ bool) { m.Question = append(m.Question, m.Question[0]) },
		"record class": func(m *dns.Msg, _ bool) { m.Answer[0].Header().Class = dns.ClassCHAOS },
		"owner":        func(m *dns.Msg, _ bool) { m.Answer[0].Header().Name = "x.test." },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, fakeRules(1, "api.allowed.test", ""))
			l.zone.put("api.allowed.test. A", "api.allowed.test. 60 IN A 6.6.6.6")
			l.zone.mangle = forge
			if r := l.ask("api.allowed.test.", dns.TypeA); len(r.Answer) > 0 || l.pins.Len() != 0 {
				t.Fatalf("used: %v", r)
			}
		})
	}
}

func TestLetterCaseNotEchoedMeansTCP(t *testing.T) {
	l := newLab(t, fakeRules(1, "a-name-with-many-letters.test", ""))
	l.zone.put("a-name-with-many-letters.test. A", "a-name-with-many-letters.test. 60 IN A 93.184.216.34")
	l.zone.mangle = func(m *dns.Msg, tcp bool) {
		m.Question[0].Name = strings.ToLower(m.Question[0].Name)
		if !tcp {
			m.Answer = nil // what a forger would say must not count
		}
	}
	l.wantAnswer(l.ask("a-name-with-many-letters.test.", dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
	if fmt.Sprint(l.zone.tcp) != "[false true]" {
		t.Fatal(l.zone.tcp)
	}
}

func TestTruncatedMeansTCP(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
	l.zone.mangle = func(m *dns.Msg, tcp bool) {
		if m.Truncated = !tcp; m.Truncated {
			m.Answer = nil
		}
	}
	l.wantAnswer(l.ask("a.test.", dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
}

func TestServerWithoutEDNS(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
	l.zone.refuseEDNS = true
	l.wantAnswer(l.ask("a.test.", dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
	if l.zone.count() != 2 {
		t.Fatal(l.zone.count())
	}
}

func TestFailover(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test b.test", ""), func(c *Config) { c.Upstreams = append(c.Upstreams, upSecond) })
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
	l.zone.put("b.test. A", "b.test. 60 IN A 93.184.216.35")
	l.zone.hook = func(_ context.Context, s netip.AddrPort) error {
		if s == upAddr {
			return errors.New("connection refused")
		}
		return nil
	}
	l.wantAnswer(l.ask("a.test.", dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
	l.wantAnswer(l.ask("b.test.", dns.TypeA), dns.RcodeSuccess, "A 93.184.216.35")
	if fmt.Sprint(l.zone.server) != fmt.Sprint([]netip.AddrPort{upAddr, upSecond, upSecond}) {
		t.Fatal("the good server was not remembered:", l.zone.server)
	}
	if s := l.Stats(); s.Upstreams[0].Failed != 1 || s.Upstreams[1].Sent != 2 {
		t.Fatalf("%+v", s.Upstreams)
	}
}

func TestUpstreamFailures(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*lab)
		code   uint16
	}{
		"SERVFAIL":  {func(l *lab) { l.zone.rcode["a.test. A"] = dns.RcodeServerFailure }, dns.ExtendedErrorCodeNetworkError},
		"REFUSED":   {func(l *lab) { l.zone.rcode["a.test. A"] = dns.RcodeRefused }, dns.ExtendedErrorCodeNetworkError},
		"no server": {func(l *lab) { l.Filter.up.servers = nil }, dns.ExtendedErrorCodeNoReachableAuthority},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, fakeRules(1, "a.test", ""))
			c.change(l)
			r := l.ask("a.test.", dns.TypeA)
			l.wantAnswer(r, dns.RcodeServerFailure)
			if code, _ := ede(r); code != int(c.code) {
				t.Fatalf("EDE %d", code)
			}
			l.wantEvents("verdict allow a.test A allow-a.test")
			if _, err := l.Resolve(context.Background(), Query{Name: "a.test"}); err == nil {
				t.Fatal("Resolve without error")
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, fakeRules(1, "a.test", ""))
		l.zone.hook = func(ctx context.Context, _ netip.AddrPort) error { <-ctx.Done(); return ctx.Err() }
		start := time.Now()
		_, err := l.Resolve(context.Background(), Query{Name: "a.test"})
		if !errors.Is(err, ErrTimeout) || time.Since(start) > AnswerTimeout {
			t.Fatal(err, time.Since(start))
		}
	})
}

// Equal questions under way share one exchange, and the bound on exchanges
// makes others wait, not fail.
func TestCoalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, fakeRules(1, "a.test", ""))
		l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
		release := make(chan struct{})
		l.zone.hook = func(context.Context, netip.AddrPort) error { <-release; return nil }
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				m := query("a.test.", dns.TypeA)
				m.Id = uint16(i)
				l.wantAnswer(l.send(m), dns.RcodeSuccess, "A 93.184.216.34")
			})
		}
		synctest.Wait()
		if n := l.Stats().InFlight; n != 20 {
			t.Errorf("%d questions in flight", n)
		}
		close(release)
		wg.Wait()
		if l.zone.count() != 1 {
			t.Fatalf("%d questions upstream", l.zone.count())
		}
	})
}

func TestExchangesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range MaxUpstream + 20 {
			names = append(names, fmt.Sprintf("n%d.test", i))
		}
		l := newLab(t, fakeRules(1, strings.Join(names, " "), ""))
		var now, most atomic.Int64
		l.zone.hook = func(context.Context, netip.AddrPort) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second) // virtual time
			now.Add(-1)
			return nil
		}
		var wg sync.WaitGroup
		for _, n := range names {
			wg.Go(func() { l.ask(n+".", dns.TypeA) })
		}
		wg.Wait()
		if most.Load() != MaxUpstream || l.zone.count() != len(names) {
			t.Fatalf("%d at once, %d in all", most.Load(), l.zone.count())
		}
	})
}

// The real exchanger against a real server on loopback.
func TestSockets(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ports := map[string]bool{}
	var mu sync.Mutex
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		mu.Lock()
		ports[w.RemoteAddr().String()] = true
		mu.Unlock()
		m := new(dns.Msg).SetReply(q)
		_, overTCP := w.RemoteAddr().(*net.TCPAddr)
		if strings.HasPrefix(strings.ToLower(q.Question[0].Name), "big") && !overTCP {
			m.Truncated = true
		} else {
			rr, _ := dns.NewRR("x. 60 IN A 93.184.216.34")
			rr.Header().Name = q.Question[0].Name
			m.Answer = append(m.Answer, rr)
		}
		bad := m.Copy()
		bad.Id++
		bad.Answer = nil
		_ = w.WriteMsg(bad) // a guess that comes first is waited out
		if overTCP {
			return
		}
		_ = w.WriteMsg(m)
	})
	tcpH := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		rr, _ := dns.NewRR("x. 60 IN A 93.184.216.34")
		rr.Header().Name = q.Question[0].Name
		m.Answer = append(m.Answer, rr)
		_ = w.WriteMsg(m)
	})
	udp, tcp := &dns.Server{PacketConn: pc, Handler: h}, &dns.Server{Listener: ln, Handler: tcpH}
	for _, s := range []*dns.Server{udp, tcp} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		defer s.Shutdown()
	}
	l := newLab(t, fakeRules(1, "a.test big.test c.test", ""), func(c *Config) {
		c.Exchanger = Sockets{}
		c.Upstreams = []netip.AddrPort{netip.MustParseAddrPort(pc.LocalAddr().String())}
	})
	for _, n := range []string{"a.test.", "big.test.", "c.test."} {
		l.wantAnswer(l.ask(n, dns.TypeA), dns.RcodeSuccess, "A 93.184.216.34")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ports) != 3 {
		t.Fatalf("source ports were reused: %v", ports)
	}
}

func TestSocketsErrors(t *testing.T) {
	// A server that never says what is asked: the exchange ends at its bound.
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	addr := netip.MustParseAddrPort(pc.LocalAddr().String())
	go func() {
		b := make([]byte, 512)
		_, from, err := pc.ReadFrom(b)
		for i := 0; err == nil && i < maxForeign; i++ {
			_, err = pc.WriteTo([]byte("guess"), from)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = Sockets{}.Exchange(ctx, addr, false, []byte("q"), func([]byte) bool { return false })
	if err == nil || !strings.Contains(err.Error(), "64 datagrams") {
		t.Fatal(err)
	}
	// Cancellation ends a wait at once.
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err = (Sockets{}).Exchange(ctx, addr, false, []byte("q"), nil); err == nil {
		t.Fatal("no error")
	}
	// Nobody listens.
	pc.Close()
	ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, tcp := range []bool{false, true} {
		if _, err = (Sockets{}).Exchange(ctx, addr, tcp, []byte("q"), nil); err == nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
	}
}
