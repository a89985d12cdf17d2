package netstack

import (
	"crypto/tls"
	"testing"

	"outcall/policy"
)

// The end line tells what the bytes were: who reads the log alone can then
// write the narrowest rule.
func TestEndTellsWhatTheBytesWere(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	ended := func(port uint16) policy.Event {
		return b.log.wait(t, "end", func(e policy.Event) bool { return e.Event == "end" && e.Port == port })
	}

	b.serve(tlsEcho(&tls.Config{}), ap(shared, 443))
	c := tls.Client(b.connect(ap(shared, 443)), tlsClient("a.test"))
	roundTrip(t, c, "x\n")
	c.Close()
	if e := ended(443); e.Layer != "hello" || e.SNI != "a.test" {
		t.Errorf("TLS: %+v", e)
	}

	b.serve(echo, ap(shared, 22))
	r := b.connect(ap(shared, 22))
	roundTrip(t, r, "neither TLS nor HTTP\n")
	r.Close()
	if e := ended(22); e.Layer != "raw" || e.SNI != "" {
		t.Errorf("raw: %+v", e)
	}
}

// What enforce denies is would_deny in observe, also where the name does not
// resolve, and where it is the question that no rule allows: it must not look
// like an allow.
func TestObservedConnectIsNoAllow(t *testing.T) {
	for _, c := range []struct{ name, rules, target string }{
		{"no rule", "", "a.test:443"},
		{"no rule, and no address", "", "none.test:443"},
		{"no rule for the question", rule("sni", "allow", `tls.sni == "a.test"`), "a.test:443"},
		{"a block for the question", rule("q", "block", `dns.query == "a.test"`) + rule("a", "allow", `http.host == "a.test"`), "a.test:443"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := c.rules
			if rules == "" {
				rules = rule("none", "block", "false")
			}
			enforced := newBed(t, rules)
			conn, br := enforced.proxied()
			if code, _, _ := ask(t, conn, br, "CONNECT", connectTo(c.target)); code != 403 {
				t.Fatalf("enforce answers %d", code)
			}
			b := newBed(t, rules, func(c *Config, _ *timeouts) { c.Observe = true })
			b.names.observe = true
			b.serve(tlsEcho(&tls.Config{}), ap(shared, 443))
			conn, br = b.proxied()
			code, _, _ := ask(t, conn, br, "CONNECT", connectTo(c.target))
			e := b.log.wait(t, "connect", func(e policy.Event) bool { return e.Layer == "connect" })
			if e.Verdict != "would_deny" || e.Rule == "" || e.Reason == "" {
				t.Errorf("answer %d, %+v", code, e)
			}
			if c.target == "a.test:443" && code != 200 {
				t.Errorf("it is not let through: %d", code)
			}
		})
	}
}
