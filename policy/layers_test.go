package policy

import (
	"strings"
	"testing"
)

// TestLayers is the table of contract 2.3: K known, L later, H hidden, - absent.
func TestLayers(t *testing.T) {
	const table = `
dns.query          K - - - - - -
dns.record_type    K - - - - - -
network.hostname   L K K K K K K
network.ip         L K K K K K -
network.port       L K K K K K K
network.protocol   L K K K K K K
http.host          L L K K K - K
http.scheme        L L K L K - K
http.method        L L K K K - K
http.path          L L H L K - K
http.query         L L H L K - K
http.headers       L L H L K - K
http.body_size     L L H L K - K
tls.sni            L L K L - - -
tls.alpn           L L K L - - -
tls.ech            L L K L - - -
tls.version        L L K L - - -
agent.name         K K K K K K K
session.name       K K K K K K K
process.exe        H H H H H H H
process.name       H H H H H H H
process.args       H H H H H H H
run.tool           - - - - - - K
run.args           - - - - - - K
run.flags          - - - - - - K
run.cwd            - - - - - - K
run.context        - - - - - - K
docker.image       - - - - - - -
`
	flow := flowFacts(pub, 443, TCP)
	flow.SetName("a.test")
	run := NewFacts(LayerRun, who)
	run.SetRun(Run{Tool: "network_call"})
	run.SetCall(Call{Host: "a.test", Port: 443, Proto: TCP, Scheme: "https", HTTP: &HTTP{Method: "GET", Path: "/"}})
	facts := []*Facts{dnsFacts("a.test", "A"), flow, helloFacts(pub, 443, "a.test"), connectFacts("a.test", 443, pub),
		requestFacts(pub, 80, HTTP{Host: "a.test", Method: "GET", Path: "/"}), rawFacts(pub, 22, TCP, "a.test"), run}
	letters := map[string]State{"K": Known, "L": Later, "H": Hidden, "-": Absent}
	for _, line := range strings.Split(strings.TrimSpace(table), "\n") {
		cols := strings.Fields(line)
		x := fieldByName[cols[0]]
		for i, f := range facts {
			if f.State(x) != letters[cols[i+1]] {
				t.Errorf("%s at %s is %s, want %s", x, f.Layer(), f.State(x), letters[cols[i+1]])
			}
		}
	}
	if s := connectFacts("a.test", 443, "").State(NetworkIP); s != Later {
		t.Errorf("network.ip at connect before it is resolved is %s", s)
	}
	icmp := flowFacts(pub, 0, ICMP)
	for _, x := range []Field{NetworkPort, HTTPHost, TLSSNI, HTTPBodySize} {
		if icmp.State(x) != Absent {
			t.Errorf("%s of ICMP is %s", x, icmp.State(x))
		}
	}
	bare := helloFacts(pub, 443, "")
	for _, x := range []Field{TLSSNI, HTTPHost, NetworkHostname} {
		if bare.State(x) != Absent {
			t.Errorf("%s of a hello without a name is %s", x, bare.State(x))
		}
	}
}

// Beyond the cost limit an allow does not match and a block does.
func TestC6CostLimit(t *testing.T) {
	headers := map[string]string{}
	for i := range 600 {
		headers[strings.Repeat("h", i+1)] = "v"
	}
	f := requestFacts(pub, 80, HTTP{Host: "a.test", Method: "GET", Headers: headers})
	const bomb = `http.headers.exists(a, http.headers.exists(b, http.headers.exists(c, a + b == c + "x")))`
	if o := rules(t, "allow !"+bomb).Step(f); o.Word != Deny {
		t.Errorf("an allow beyond the limit: %s", o.Word)
	}
	if o := rules(t, "block "+bomb, "allow true").Step(f); o.Word != Deny || !strings.Contains(o.Reason, "could not be evaluated") {
		t.Errorf("a block beyond the limit: %s (%s)", o.Word, o.Reason)
	}
	if o := rules(t, `allow http.headers.exists(a, a == "h")`).Step(f); o.Word != Allow {
		t.Errorf("below the limit: %s (%s)", o.Word, o.Reason)
	}
}
