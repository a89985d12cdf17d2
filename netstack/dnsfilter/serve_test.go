package dnsfilter

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestAllowedNameIsPinnedAndAnswered(t *testing.T) {
	l := newLab(t, fakeRules(1, "api.allowed.test", ""))
	l.zone.put("api.allowed.test. A", "API.allowed.test. 3600 IN A 93.184.216.34", "other.test. 60 IN A 6.6.6.6")
	r := l.ask("Api.Allowed.TEST.", dns.TypeA)
	l.wantAnswer(r, dns.RcodeSuccess, "A 93.184.216.34")
	if h := r.Answer[0].Header(); h.Name != "Api.Allowed.TEST." || h.Ttl != 300 {
		t.Fatalf("owner %s ttl %d", h.Name, h.Ttl)
	}
	if !l.pins.Live("api.allowed.test", l.pins.List()[0].Addr) || !l.kernel.passes("93.184.216.34") || l.kernel.passes("6.6.6.6") {
		t.Fatal("not pinned")
	}
	l.wantEvents("verdict allow api.allowed.test A allow-api.allowed.test")
	if !r.RecursionAvailable || r.Authoritative || r.AuthenticatedData {
		t.Fatal("flags")
	}
}

// D1: a denied name never leaves, and the answer says why.
func TestD1DeniedNameNeverLeaves(t *testing.T) {
	l := newLab(t, fakeRules(1, "api.allowed.test", "tracker.test"))
	for _, name := range []string{"canary.evil.test.", "tracker.test.", "evilallowed.test.", "api.allowed.test.evil.test."} {
		r := l.ask(name, dns.TypeA)
		l.wantAnswer(r, dns.RcodeNameError)
		e := l.taken()
		if len(e) != 1 || e[0].Verdict != "deny" || e[0].Structural {
			t.Fatalf("%+v", e)
		}
		code, text := ede(r)
		if code != int(dns.ExtendedErrorCodeBlocked) || text != "outcall: "+e[0].Rule+" "+e[0].ID || !strings.HasPrefix(e[0].ID, "d-") {
			t.Fatalf("EDE %d %q, id %s", code, text, e[0].ID)
		}
		if len(r.Ns) != 1 || r.Ns[0].Header().Rrtype != dns.TypeSOA {
			t.Fatal("no SOA")
		}
	}
	if l.zone.count() != 0 {
		t.Fatal("a denied question reached the upstream")
	}
}

func TestFlagsOfTheClient(t *testing.T) {
	l := newLab(t, fakeRules(1, "a.test", ""))
	l.zone.put("a.test. A", "a.test. 60 IN A 93.184.216.34", "a.test. 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 a.test. AAAA")
	m := query("a.test.", dns.TypeA)
	m.IsEdns0().SetDo()
	m.CheckingDisabled = true
	r := l.send(m)
	l.wantAnswer(r, dns.RcodeSuccess, "A 93.184.216.34")
	if !r.IsEdns0().Do() || !r.CheckingDisabled || !r.RecursionDesired || r.IsEdns0().UDPSize() != MaxUDPReply {
		t.Fatal(r)
	}
	m = query("a.test.", dns.TypeA)
	m.RecursionDesired = false
	if r = l.send(m); r.IsEdns0().Do() || r.RecursionDesired {
		t.Fatal(r)
	}
}
