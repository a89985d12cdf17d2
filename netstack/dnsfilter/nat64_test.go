package dnsfilter

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"outcall/policy"
)

// natLab is a lab under real rules whose view of the host is the filter's own.
func natLab(t *testing.T, allow ...string) *lab {
	l := realLab(t, load(t, 1, "", allow...))
	l.cfg.Host = func() *policy.Host {
		h := *realHost
		h.NAT64 = l.NAT64()
		return &h
	}
	return l
}

// D10: in a network with NAT64, of whatever prefix, an answer that leads to a
// restricted IPv4 address is stripped.
func TestD10NAT64OfThisNetwork(t *testing.T) {
	l := natLab(t, "api.allowed.test", "ok.allowed.test")
	l.zone.put("ipv4only.arpa. AAAA", "ipv4only.arpa. 60 IN AAAA 2a00:64::c000:aa", "ipv4only.arpa. 60 IN AAAA 2a00:64::c000:ab")
	l.zone.put("api.allowed.test. AAAA", "api.allowed.test. 60 IN AAAA 2a00:64::7f00:1")
	l.zone.put("ok.allowed.test. AAAA", "ok.allowed.test. 60 IN AAAA 2a00:64::5db8:d822")
	if r := l.ask("api.allowed.test.", dns.TypeAAAA); r.Rcode != dns.RcodeServerFailure || len(r.Answer) != 0 {
		t.Errorf("loopback behind NAT64: %v", r)
	}
	if l.pins.Live("api.allowed.test", netip.MustParseAddr("2a00:64::7f00:1")) {
		t.Error("it is pinned")
	}
	if r := l.ask("ok.allowed.test.", dns.TypeAAAA); r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 {
		t.Errorf("a public address behind NAT64: %v", r)
	}
	n := 0
	for _, raw := range l.zone.asked {
		m := new(dns.Msg)
		if m.Unpack(raw) == nil && sameName(lower(m.Question[0].Name), ipv4Only) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the prefix was asked for %d times", n)
	}
}

func lower(s string) string { return dns.CanonicalName(s) }

// Nothing is asked for where no IPv6 address is to be judged, and a resolver
// that fails is left alone for a minute, without failing the answer.
func TestNAT64IsAskedForSparingly(t *testing.T) {
	l := natLab(t, "api.allowed.test")
	l.zone.put("api.allowed.test. A", "api.allowed.test. 60 IN A 93.184.216.34")
	l.ask("api.allowed.test.", dns.TypeA)
	l.ask("denied.test.", dns.TypeAAAA)
	if len(l.zone.asked) != 1 {
		t.Errorf("%d questions", len(l.zone.asked))
	}
	l.zone.put("api.allowed.test. AAAA", "api.allowed.test. 0 IN AAAA 2606:2800:220:1::1")
	l.zone.rcode["ipv4only.arpa. AAAA"] = dns.RcodeServerFailure
	for range 3 {
		if r := l.ask("api.allowed.test.", dns.TypeAAAA); r.Rcode != dns.RcodeSuccess {
			t.Fatal(r)
		}
	}
	if len(l.zone.asked) != 1+3+rounds*len(l.up.servers) {
		t.Errorf("%d questions", len(l.zone.asked))
	}
}

// A resolver that is silent about the prefix holds an answer up for a bounded
// time, once.
func TestNAT64Silence(t *testing.T) {
	l := natLab(t, "api.allowed.test")
	l.zone.put("api.allowed.test. AAAA", "api.allowed.test. 0 IN AAAA 2606:2800:220:1::1")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.zone.hook = func(ctx context.Context, _ netip.AddrPort) error {
		<-ctx.Done()
		return errors.New("silent")
	}
	l.LearnNAT64(ctx) // the caller's own end, too
	l.zone.mu.Lock()
	l.zone.hook = nil
	l.zone.mu.Unlock()
	if r := l.ask("api.allowed.test.", dns.TypeAAAA); r.Rcode != dns.RcodeSuccess {
		t.Error(r)
	}
}

func TestNAT64Prefixes(t *testing.T) {
	for text, want := range map[string]string{
		"64:ff9b::c000:aa": "64:ff9b::/96", "2a00:1:2:3:c0:0:aa00:0": "2a00:1:2:3::/64", "2a00:1:2:c0:0:aa::": "2a00:1:2::/56",
		"2a00:1:2:c000:0:ab00::": "2a00:1:2::/48", "2a00:1:c0:0:aa::": "2a00:1::/40", "2a00:1:c000:ab::": "2a00:1::/32",
		"2a00:1::c000:ac": "", "192.0.0.170": "",
	} {
		got := nat64Prefixes([]netip.Addr{netip.MustParseAddr(text)})
		if want == "" && len(got) != 0 || want != "" && !slices.Contains(got, netip.MustParsePrefix(want)) {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
}
