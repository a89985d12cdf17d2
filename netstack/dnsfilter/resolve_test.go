package dnsfilter

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

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
