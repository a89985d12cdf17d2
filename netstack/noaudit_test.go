package netstack

import (
	"bufio"
	"errors"
	"testing"

	"outcall/policy"
)

// What cannot be written down is denied, on every way and also in observe, and
// allowed again from when it can be.
func TestNoAuditIsADenial(t *testing.T) {
	for _, observe := range []bool{false, true} {
		rules := rule("a", "allow", allowA)
		if observe {
			rules = rule("b", "block", allowA)
		}
		b := newBed(t, rules, func(c *Config, _ *timeouts) { c.Observe = observe })
		b.pins.pin("a.test", shared)
		dst := ap(shared, 22)
		srv := b.serve(drain, dst)
		b.log.refuse(errors.New("no space"))
		if c, err := b.try(dst); err == nil {
			c.Close()
			t.Errorf("observe %t: connected", observe)
		}
		c, br := b.proxied()
		if code, _, h := ask(t, c, br, "CONNECT", connectTo("a.test:22")); code != 403 || h.Get("X-Outcall-Block-Reason") == "" {
			t.Errorf("observe %t: CONNECT: %d", observe, code)
		}
		if n := b.dial.count(); n != 0 || srv.text() != "" {
			t.Errorf("observe %t: %d dials, %q arrived", observe, n, srv.text())
		}
		// Both lines of an attempt wait under one id.
		e := b.log.wait(t, "the denial", func(e policy.Event) bool { return e.Layer == "flow" && e.Reason == policy.NoAudit })
		if !e.Structural || e.Verdict != "deny" {
			t.Errorf("%+v", e)
		}
		b.log.wait(t, "its first line", func(x policy.Event) bool { return x.ID == e.ID && x.Verdict != "deny" })
		b.log.refuse(nil)
		b.connect(dst)
	}
}

// A request on a connection that stands is an attempt of its own.
func TestNoAuditDeniesTheNextRequest(t *testing.T) {
	b, srv, dst := webBed(t, rule("a", "allow", allowA))
	c := b.connect(dst)
	br := bufio.NewReader(c)
	if code, _, _ := ask(t, c, br, "GET", "GET /one HTTP/1.1\r\nHost: a.test\r\n\r\n"); code != 200 {
		t.Fatalf("%d", code)
	}
	n := len(srv.text())
	b.log.refuse(errors.New("no space"))
	if code, _, _ := ask(t, c, br, "GET", "GET /two HTTP/1.1\r\nHost: a.test\r\n\r\n"); code != 403 {
		t.Errorf("%d", code)
	}
	if len(srv.text()) != n {
		t.Error("a request arrived that is in no line")
	}
}
