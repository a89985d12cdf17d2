package policy

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func explain(t testing.TB, s *Snapshot, target string, addrs ...string) *Explanation {
	t.Helper()
	x, err := s.Explain(ExplainQuery{Target: target, Who: who, Resolve: func(string) (out []netip.Addr, err error) {
		for _, a := range addrs {
			out = append(out, netip.MustParseAddr(a))
		}
		return out, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestExplainVerdicts(t *testing.T) {
	host := allow(t, "api.allowed.test")
	for _, c := range []struct {
		name     string
		s        *Snapshot
		target   string
		addr     string
		verdict  string
		smallest string // a part of it
	}{
		{"allowed", host, "https://api.allowed.test/v1", pub, VerdictAllow, ""},
		{"allowed http", host, "http://api.allowed.test/v1?q=1", pub, VerdictAllow, ""},
		{"other name", host, "https://evil.test/", pub, VerdictDeny, "evil.test"},
		{"other port", host, "https://api.allowed.test:8443/", pub, VerdictDeny, "api.allowed.test:8443"},
		{"tls only", host, "api.allowed.test:443", pub, VerdictDepends, "api.allowed.test:443"},
		{"ssh", host, "tcp://api.allowed.test:22", pub, VerdictDeny, "api.allowed.test:22"},
		{"ssh allowed", allow(t, "api.allowed.test:22"), "api.allowed.test:22", pub, VerdictAllow, ""},
		{"quic", host, "udp://api.allowed.test:443", pub, VerdictDepends, `network.protocol == "udp"`},
		{"address", host, "tcp://93.184.216.34:443", "", VerdictDeny, "93.184.216.34:443"},
		{"IPv6 address", host, "https://[2606:4700::1]/", "", VerdictDeny, "[2606:4700::1]:443"},
		{"loopback", host, "127.0.0.1:5432", "", VerdictDeny, "127.0.0.1:5432"},
		{"rebound", host, "https://api.allowed.test/", "127.0.0.1", VerdictDeny, ""},
		{"private", host, "https://api.allowed.test/", "10.0.0.1", VerdictDeny, "allow_private_ips: true"},
		{"private, no rule yet", nil, "https://db.test/", "10.0.0.1", VerdictDeny, "db.test"}, // its address is not asked for
		{"path in disguise", rules(t, `block http.path.startsWith("/admin/")`, `allow network.hostname == "a.test" || dns.query == "a.test"`),
			"http://a.test/x/../admin%2Fx", pub, VerdictDeny, ""},
		{"path with parameters", rules(t, `block http.path == "/admin"`, `allow network.hostname == "a.test" || dns.query == "a.test"`),
			"http://a.test/%61dmin;x=1", pub, VerdictDeny, ""},
		{"other path", rules(t, `block http.path == "/admin"`, `allow dns.query == "a.test" || network.hostname == "a.test"`), "http://a.test/admins%2Fx;y", pub, VerdictAllow, ""},
		{"question", host, "dns://api.allowed.test", "", VerdictAllow, ""},
		{"question of a type", host, "dns://api.allowed.test?type=TXT", "", VerdictDeny, `dns.record_type == "TXT"`},
		{"blocked", rules(t, `block http.path == "/x"`, `allow dns.query == "a.test" || network.hostname == "a.test"`), "https://a.test/", pub, VerdictDeny, ""},
		{"not blocked in plain", rules(t, `block http.path == "/x"`, `allow dns.query == "a.test" || network.hostname == "a.test"`), "http://a.test/y", pub, VerdictAllow, ""},
		{"program", rules(t, `allow (dns.query == "a.test" || http.host == "a.test") && process.exe == "/usr/bin/curl"`), "https://a.test/", pub, VerdictDepends, "a.test"},
		{"nothing", nil, "https://a.test/", pub, VerdictDeny, "a.test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := explain(t, c.s, c.target, strings.Fields(c.addr)...)
			if x.Verdict != c.verdict {
				t.Errorf("got %s, want %s\n%s", x.Verdict, c.verdict, x)
			}
			if (c.smallest == "") != (x.Smallest == "") || !strings.Contains(x.Smallest, c.smallest) {
				t.Errorf("smallest %q, want %q\n%s", x.Smallest, c.smallest, x)
			}
			if _, err := json.Marshal(x); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExplainText(t *testing.T) {
	s := allow(t, "api.allowed.test:443")
	got := explain(t, s, "https://api.allowed.test:8443/", pub).String()
	for _, want := range []string{
		"https://api.allowed.test:8443/: deny", "direct: deny", "proxy: deny",
		"dns      allow → answer: allowed by rule cli-1 (--allow:6)",
		"flow     deny → refuse: no rule allows it",
		"not rule cli-1 (--allow:6): network.port is 8443, its ports are 443",
		"would be allowed by: --allow api.allowed.test:8443",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestExplainValues: each comparison of the rule that decides is told with what
// it gave.
func TestExplainValues(t *testing.T) {
	s := rules(t, `block domain(tls.sni, "evil.test") || http.path.matches("^/x")`,
		`allow dns.query in ["a.test", "b.test"] || http.host == "a.test" && network.port != 22 && !(network.port > 1000) && size(process.args) > 3 || !http.host.endsWith(".b.test") && network.port >= 443`)
	got := explain(t, s, "https://a.test/", pub).String()
	for _, want := range []string{
		`dns.query in ["a.test", "b.test"] is true`, `http.host == "a.test" is later`, `network.port != 22 is later`,
		`domain(tls.sni, "evil.test") is false`, `http.path.matches("^/x") is hidden`, `size(process.args) > 3 is hidden`,
		`!http.host.endsWith(".b.test") is later`, `network.port >= 443 is later`, `network.port < 1001 is later`, `dns.query in ["a.test", "b.test"] is absent`,
	} {
		if !strings.Contains(got, "           "+want+"\n") {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestExplainTargetErrors(t *testing.T) {
	for _, target := range []string{"", "a.test", "ftp://a.test/", "a.test:0", "a.test:65536", "https://u:p@a.test/", "https://127.1/", "https://0x7f.1/", "dns://1.2.3.4", "tcp://a.test:1/x", "https://a..b/"} {
		if x, err := (&Snapshot{}).Explain(ExplainQuery{Target: target}); err == nil {
			t.Errorf("%q: %v", target, x)
		}
	}
}

// TestExplainCountsLivePins: a flow to an address is judged for every name that
// is pinned there, and so is what is said of it.
func TestExplainCountsLivePins(t *testing.T) {
	pins := map[string][]Candidate{pub: cand("b.test", "a.test")}
	s := rules(t, `allow dns.query == "a.test" || tls.sni == "a.test"`, `allow dns.query == "b.test" || (network.hostname == "b.test" && network.port == 22)`,
		`allow network.port == 8443`)
	for target, want := range map[string]string{
		"tcp://a.test:22":               VerdictDepends, // raw passes for b.test, TLS must name one of them
		"tcp://93.184.216.34:22":        VerdictDepends,
		"https://93.184.216.34:8443/":   VerdictDeny, // a ClientHello without a name
		"https://93.184.216.35:8443/":   VerdictAllow,
		"https://a.test/":               VerdictAllow,
		"tcp://unpinned.allowed.test:9": VerdictDeny,
	} {
		x, err := s.Explain(ExplainQuery{Target: target, Who: who, IP: netip.MustParseAddr(pub),
			Pinned: func(a netip.Addr) []Candidate { return pins[a.String()] }})
		if err != nil || x.Verdict != want {
			t.Errorf("%s: %v, want %s\n%s", target, err, want, x)
		}
	}
}

// TestExplainAsksOnlyWhereThePathWould: where no question would leave, none
// does by asking for an explanation, nor for its proposals and trials.
func TestExplainAsksOnlyWhereThePathWould(t *testing.T) {
	for _, s := range []*Snapshot{
		allow(t, "a.test:22"),
		rules(t, `block dns.query == "evil.test"`, `allow http.host == "evil.test"`),
		rules(t, `allow tls.sni == "evil.test"`),
		rules(t, `allow (dns.query == "evil.test" || http.host == "evil.test") && process.exe == "/usr/bin/curl"`),
	} {
		q := ExplainQuery{Target: "https://evil.test/", Resolve: func(n string) ([]netip.Addr, error) {
			t.Errorf("asked for %s", n)
			return nil, nil
		}}
		if x, err := s.Explain(q); err != nil || x.Verdict == VerdictAllow {
			t.Error(x, err)
		}
	}
}
