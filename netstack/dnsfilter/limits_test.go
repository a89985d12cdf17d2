package dnsfilter

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"outcall/netstack/pin"
	"outcall/policy"
)

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

// Beyond the bound of its grants a rule's answer is given and pinned, without
// a grant, and the audit tells.
func TestGrantsAreBounded(t *testing.T) {
	rules := fakeRules(1, "many.test", "")
	rules.grants = func(_ *policy.Facts, a netip.Addr) (out []policy.Grant) {
		for port := range uint16(pin.MaxGrants / 2) {
			out = append(out, policy.Grant{Rule: "ssh", Proto: policy.TCP, Port: port + 1})
		}
		return out
	}
	l := newLab(t, rules)
	for i, want := range []int{pin.MaxGrants / 2, pin.MaxGrants / 2, 0} {
		addr := fmt.Sprintf("93.184.216.%d", i+1)
		l.zone.put("many.test. A", "many.test. 0 IN A "+addr)
		l.wantAnswer(l.ask("many.test.", dns.TypeA), dns.RcodeSuccess, "A "+addr)
		c := l.pins.Candidates(netip.MustParseAddr(addr))
		if len(c) != 1 || len(c[0].Grants) != want {
			t.Fatalf("%s: %v", addr, c)
		}
		told := slices.ContainsFunc(l.taken(), func(e policy.Event) bool {
			return e.Event == "limit" && e.Reason == "more than 256 direct_ip grants of rule ssh"
		})
		if told != (want == 0) {
			t.Fatalf("%s: a limit event: %v", addr, told)
		}
	}
}
