package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// What the wire does with datagrams: read, unread, and where none goes out.
func TestExplainDatagrams(t *testing.T) {
	yaml := "version: \"1\"\nrules:\n" +
		"  - {id: q, action: allow, condition: 'dns.query == \"q.test\" || http.host == \"q.test\"'}\n" +
		"  - {id: p, action: allow, condition: 'dns.query == \"p.test\" || network.hostname == \"p.test\" && network.protocol == \"icmp\"'}\n" +
		"  - {id: d, action: allow, condition: 'dns.query == \"d.test\"', egress: {mode: direct_ip, ports: [53000]}}\n"
	s, err := Load([]Source{{Path: "t.yaml", Data: []byte(yaml)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ target, out, verdict, has, smallest string }{
		{"udp://q.test:443", "", VerdictDepends, "if the datagram is QUIC", ""},
		{"udp://d.test:53000", "", VerdictAllow, "relay unread", ""},
		{"udp://p.test:443", "", VerdictDeny, "deny", `network.protocol == "udp" && network.port == 443`},
		{"icmp://p.test", "", VerdictAllow, "pass", ""},
		{"icmp://q.test", "", VerdictDeny, "deny", `network.protocol == "icmp"`},
		{"icmp://" + pub, "", VerdictDeny, "deny", `network.ip == "` + pub + `" && network.protocol == "icmp"`},
		{"udp://" + pub + ":9", "", VerdictDeny, "deny", `network.protocol == "udp" && network.port == 9`},
		{"icmp://p.test", "icmp cannot go out: here", VerdictDeny, "icmp cannot go out: here", ""},
		{"udp://d.test:53000", "udp cannot go out: here", VerdictDeny, "udp cannot go out: here", ""},
	} {
		q := ExplainQuery{Target: c.target, IP: netip.MustParseAddr(pub)}
		if c.out != "" {
			q.CannotGoOut = func(Proto, string, netip.AddrPort) string { return c.out }
		}
		x, err := s.Explain(q)
		if err != nil {
			t.Fatal(err)
		}
		if x.Verdict != c.verdict || !strings.Contains(x.String(), c.has) || !strings.Contains(x.Smallest, c.smallest) {
			t.Errorf("%s: %s", c.target, x)
		}
	}
	for _, bad := range []string{"icmp://a.test:9", "icmp://a.test/x", "udp://a.test"} {
		if _, err := s.Explain(ExplainQuery{Target: bad}); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}
