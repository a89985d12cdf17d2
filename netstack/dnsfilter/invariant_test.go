package dnsfilter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/miekg/dns"

	"outcall/policy"
)

// TestWhatIsAnsweredIsPinned: whatever the upstream says, an address that the
// agent is shown is pinned to the name that it asked for, in the kernel too,
// and is nobody's private address.
func TestWhatIsAnsweredIsPinned(t *testing.T) {
	l := realLab(t, load(t, 1, `
  - {id: no-block, condition: 'domain(dns.query, "block.test")', action: block}
`, ".allowed.test"))
	r := rand.New(rand.NewPCG(3, 4))
	names := []string{"a.allowed.test.", "b.allowed.test.", "c.other.test.", "x.block.test.", "d.other.test."}
	addrs := []string{"93.184.216.34", "93.184.216.35", "10.0.0.1", "127.0.0.1", "169.254.169.254", "1.1.1.1"}
	shown := 0
	for range 3000 {
		var rrs []string
		for range r.IntN(6) {
			owner := names[r.IntN(len(names))]
			if r.IntN(2) == 0 {
				rrs = append(rrs, owner+" 0 IN CNAME "+names[r.IntN(len(names))])
			} else {
				rrs = append(rrs, owner+" 0 IN A "+addrs[r.IntN(len(addrs))])
			}
		}
		name := names[r.IntN(len(names))]
		l.zone.put(name+" A", rrs...)
		m := l.ask(name, dns.TypeA)
		normal, _ := Normalize(name)
		for _, rr := range m.Answer {
			a, ok := addrOf(rr)
			class, _ := policy.Classify(a, nil)
			if !ok || class != policy.Global || !l.pins.Live(normal, a) || !l.kernel.passes(a.String()) || rr.Header().Name != name {
				t.Fatalf("%s from %q: shown %v", name, rrs, rr)
			}
			shown++
		}
	}
	if shown < 100 {
		t.Fatal("the test shows nothing:", shown)
	}
	for _, p := range l.pins.List() {
		if p.Name != "a.allowed.test" && p.Name != "b.allowed.test" {
			t.Fatalf("%s is pinned", p.Name)
		}
	}
}

// An answer waits for the kernel, also that of a second asker, who could be
// answered from the cache.
func TestAnswerWaitsForTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, fakeRules(1, "a.test", ""))
		l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34")
		release := make(chan struct{})
		l.kernel.before = func() { <-release }
		replies := make(chan *dns.Msg, 2)
		for range 2 {
			go func() { replies <- l.send(query("a.test.", dns.TypeA)) }()
			synctest.Wait() // until it waits for the kernel, or for the one before
		}
		if len(replies) != 0 || l.Stats().Cache.Hits != 1 {
			t.Errorf("%d answered before the kernel, %d cache hits", len(replies), l.Stats().Cache.Hits)
		}
		if len(l.pins.Candidates(netip.MustParseAddr("93.184.216.34"))) != 0 {
			t.Error("a pin is visible before the kernel has it")
		}
		close(release)
		for range 2 {
			l.wantAnswer(<-replies, 0, "A 93.184.216.34")
		}
	})
}

// K15 at scale: questions while rule sets come and go; what the last one
// denies is nowhere afterwards.
func TestK15QuestionsDuringReloads(t *testing.T) {
	l := realLab(t, load(t, 1, "", "a.test", "b.test"))
	for i, n := range []string{"a.test", "b.test", "c.test"} {
		l.zone.put(n+". A", fmt.Sprintf("%s. 0 IN A 93.184.216.%d", n, i+1))
	}
	ctx := context.Background()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := []string{"a.test.", "b.test.", "c.test."}[(i+g)%3]
				m := query(name, dns.TypeA)
				r := l.send(m)
				if r.Rcode == dns.RcodeServerFailure {
					if _, text := ede(r); text == "" {
						t.Error("a failure without a reason")
					}
				}
				if _, err := l.Resolve(ctx, Query{Name: name, Proxy: g == 0}); err != nil && !errors.Is(err, ErrUpstream) {
					t.Error(err)
				}
				l.taken()
			}
		})
	}
	allow := [][]string{{"a.test"}, {"b.test", "c.test:22"}, {"a.test", "b.test"}, {}}
	for i := range 60 {
		set := allow[i%len(allow)]
		if i == 59 {
			set = []string{"c.test:22"}
		}
		next := load(t, uint64(i+10), "", set...)
		err := l.pins.Reload(ctx, l.Rules(next), func() {
			l.mu.Lock()
			l.rules = rulesetOf(next)
			l.mu.Unlock()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	for _, p := range l.pins.List() {
		if !p.Proxy && p.Name != "c.test" {
			t.Errorf("%s is pinned", p.Name)
		}
		if p.Generation != 69 {
			t.Errorf("%s has generation %d", p.Name, p.Generation)
		}
	}
	for c := range l.kernel.cells {
		if c.PortLow != 22 || c.PortHigh != 22 {
			t.Errorf("the kernel still passes %v", c)
		}
	}
}

// D14: a flood grows nothing without bound.
func TestD14Flood(t *testing.T) {
	if testing.Short() {
		t.Skip("10,000 questions")
	}
	l := realLab(t, load(t, 1, "", ".allowed.test"))
	for i := range 10_000 {
		name := fmt.Sprintf("n%d.allowed.test.", i)
		if i%2 == 0 {
			name = fmt.Sprintf("n%d.evil.test.", i)
		} else {
			l.zone.put(name+" A", fmt.Sprintf("%s 300 IN A 93.%d.%d.1", name, 100+i/65536, i>>8&255))
		}
		l.ask(name, dns.TypeA)
		delete(l.zone.rrs, name+" A")
		l.zone.asked = nil
		if i%1000 == 0 {
			l.taken()
		}
	}
	if n := l.pins.Len(); n > 4096 {
		t.Fatal(n, "pins")
	}
	if c := l.Stats().Cache; c.Entries > CacheEntries || c.Bytes > CacheBytes {
		t.Fatalf("%+v", c)
	}
	if n := len(l.Filter.recent.byKey); n > MaxJoined {
		t.Fatal(n)
	}
}
