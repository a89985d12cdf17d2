package netstack

import (
	"crypto/tls"
	"io"
	"net/netip"
	"testing"
	"time"

	"outcall/netstack/egress"
	"outcall/policy"
)

// A client of the proxy leaves it to us which address of a name it reaches:
// one that does not answer, of either family, costs it a moment only.
func TestProxyPassesSilentAddresses(t *testing.T) {
	silent, refuses := netip.MustParseAddr("2606:2800::35"), netip.MustParseAddr("93.184.216.42")
	b := newBed(t, rule("a", "allow", allowA))
	b.names.addrs["a.test"] = []netip.Addr{silent, refuses, shared, shared6}
	b.dial.mute = map[netip.AddrPort]bool{ap(silent, 443): true, ap(silent, 80): true}
	b.dial.fail[ap(refuses, 443)], b.dial.fail[ap(refuses, 80)] = egress.Refused, egress.Refused
	b.serve(tlsEcho(&tls.Config{}), ap(shared, 443))
	b.serve(webServer, ap(shared, 80))
	start := time.Now()
	c, br := b.proxied()
	if code, _, _ := ask(t, c, br, "CONNECT", connectTo("a.test:443")); code != 200 {
		t.Fatalf("CONNECT: %d", code)
	}
	tc := tls.Client(c, tlsClient("a.test"))
	roundTrip(t, tc, "by the second address\n")
	if f := b.Flows(); len(f) != 1 || f[0].Dst != ap(shared, 443) {
		t.Errorf("the flow goes to the address that answered: %+v", f)
	}
	tc.Close()
	c, br = b.proxied()
	if code, body, _ := ask(t, c, br, "GET", "GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n"); code != 200 || body != "GET /x " {
		t.Errorf("%d %q", code, body)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("two requests took %v", took)
	}
	b.dial.mu.Lock()
	defer b.dial.mu.Unlock()
	if b.dial.left != 2 {
		t.Errorf("%d dials of the silent address were given up, not 2", b.dial.left)
	}
}

// Where no address answers the client hears of the first one's fate.
func TestProxyTellsOfTheFirstAddress(t *testing.T) {
	one, two := netip.MustParseAddr("93.184.216.42"), netip.MustParseAddr("93.184.216.43")
	b := newBed(t, rule("a", "allow", allowA), func(_ *Config, times *timeouts) { times.dial = time.Second })
	b.names.addrs["a.test"] = []netip.Addr{one, two}
	b.dial.mute = map[netip.AddrPort]bool{ap(one, 443): true, ap(two, 80): true}
	for target, want := range map[string]int{"a.test:443": 504, "a.test:80": 502} {
		c, br := b.proxied()
		if code, body, _ := ask(t, c, br, "CONNECT", connectTo(target)); code != want {
			t.Errorf("%s: %d %q, want %d", target, code, body, want)
		}
	}
}

// Dials beside another one of the same flow are bounded for the session; where
// there is no room, one address is tried after the other.
func TestDialsBesideAreBounded(t *testing.T) {
	one := netip.MustParseAddr("93.184.216.42")
	b := newBed(t, rule("a", "allow", allowA), func(_ *Config, times *timeouts) { times.dial = 2 * time.Second })
	b.names.addrs["a.test"] = []netip.Addr{one, shared}
	b.dial.mute = map[netip.AddrPort]bool{ap(one, 80): true}
	b.serve(webServer, ap(shared, 80))
	for range maxBeside {
		b.beside <- struct{}{}
	}
	start := time.Now()
	c, br := b.proxied()
	if code, body, _ := ask(t, c, br, "GET", "GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n"); code != 200 || time.Since(start) < time.Second {
		t.Errorf("without room: %d %q after %v", code, body, time.Since(start))
	}
	<-b.beside
	for range 2 { // the slot is given back
		start = time.Now()
		c, br = b.proxied()
		if code, body, _ := ask(t, c, br, "GET", "GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n"); code != 200 || time.Since(start) > time.Second {
			t.Errorf("with room for one: %d %q after %v", code, body, time.Since(start))
		}
	}
}

// A reload while several addresses are dialled holds for each of them.
func TestReloadWhileTheProxyDials(t *testing.T) {
	one, two := netip.MustParseAddr("93.184.216.42"), netip.MustParseAddr("93.184.216.43")
	b := newBed(t, rule("a", "allow", allowA))
	b.names.addrs["a.test"] = []netip.Addr{one, two}
	b.dial.mute = map[netip.AddrPort]bool{ap(one, 80): true, ap(two, 80): true}
	c, _ := b.proxied()
	if _, err := io.WriteString(c, connectTo("a.test:80")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); b.dial.count() < 2 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if n := b.dial.count(); n != 2 {
		t.Fatalf("%d addresses are dialled", n)
	}
	next := load(t, rule("no", "block", `network.ip == "`+one.String()+`"`)+rule("a", "allow", allowA))
	if n := b.Reload(t.Context(), b.current(), next); n != 1 {
		t.Errorf("%d flows were ended", n)
	}
	b.swap(next)
	e := b.log.wait(t, "denial", func(e policy.Event) bool { return e.Verdict == "deny" && e.Rule == "no" })
	if e.Layer != "connect" {
		t.Errorf("%+v", e)
	}
}
