package netstack

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"outcall/netstack/egress"
	"outcall/netstack/hello"
	"outcall/policy"
)

func TestTLSAllowedAndDenied(t *testing.T) {
	for _, addr := range []netip.Addr{shared, shared6} {
		b := newBed(t, rule("a", "allow", allowA))
		b.pins.pin("a.test", addr)
		b.pins.pin("e.test", addr)
		dst := ap(addr, 443)
		srv := b.serve(tlsEcho(&tls.Config{}), dst)

		c := tls.Client(b.connect(dst), tlsClient("a.test"))
		roundTrip(t, c, "hello over TLS\n")
		c.Close()
		end := b.log.wait(t, "end", func(e policy.Event) bool { return e.Event == "end" })
		if end.BytesOut == 0 || end.BytesIn == 0 || end.Host != "a.test" {
			t.Errorf("end line %+v", end)
		}
		before := len(srv.text())

		err := tls.Client(b.connect(dst), tlsClient("e.test")).Handshake()
		if err == nil || !strings.Contains(err.Error(), "access denied") {
			t.Errorf("denied handshake: %v", err)
		}
		e := b.log.deny(t, "hello")
		if e.SNI != "e.test" || e.IP != addr.String() || e.Port != 443 {
			t.Errorf("deny line %+v", e)
		}
		if _, n, _ := b.log.find(func(x policy.Event) bool { return x.ID == e.ID && x.Verdict == "allow" && x.Layer == "flow" }); n != 1 {
			t.Errorf("no flow line with the denial's id %s", e.ID)
		}
		if got := len(srv.text()); got != before {
			t.Errorf("%d bytes of the denied flow arrived", got-before)
		}
	}
}

func TestRefusedAtSYN(t *testing.T) {
	b := newBed(t, rule("a", "allow", `(`+allowA+`) && network.port == 443`))
	b.pins.pin("a.test", shared)
	for _, dst := range []netip.AddrPort{ap(shared, 80), ap(netip.MustParseAddr("93.184.216.35"), 443), ap(shared6, 443),
		ap(gw4, 22), ap(gw6, 80), ap(netip.MustParseAddr("10.200.0.7"), 443), ap(netip.MustParseAddr("127.0.0.1"), 443),
		ap(netip.MustParseAddr("169.254.169.254"), 80)} {
		start := time.Now()
		if c, err := b.try(dst); err == nil {
			c.Close()
			t.Errorf("%s: connected", dst)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%s: refused after %s", dst, d)
		}
	}
	if n := b.log.denials(); n != 8 {
		t.Errorf("%d denials", n)
	}
	if n := b.dial.count(); n != 0 {
		t.Errorf("%d dials", n)
	}
}

func TestDialFailures(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA), func(_ *Config, w *timeouts) { w.dial = 200 * time.Millisecond })
	b.pins.pin("a.test", shared)
	b.dial.fail[ap(shared, 1)] = egress.Refused
	b.dial.fail[ap(shared, 2)] = egress.Unreachable
	b.dial.fail[ap(shared, 3)] = egress.Timeout
	for port, want := range map[uint16]string{1: "refused", 2: "no route|unreachable", 3: ""} {
		addr, p := full(ap(shared, port))
		ctx, cancel := b.timeout(600 * time.Millisecond)
		_, err := dialAgent(ctx, b, addr, p)
		cancel()
		if want == "" {
			if err == nil || !errors.Is(err, ctx.Err()) && !timedOut(err) {
				t.Errorf("port %d: %v, want silence", port, err)
			}
			continue
		}
		ok := false
		for w := range strings.SplitSeq(want, "|") {
			ok = ok || err != nil && strings.Contains(err.Error(), w)
		}
		if !ok {
			t.Errorf("port %d: %v, want %s", port, err, want)
		}
	}
}

// TestK10SharedAddress: a (allowed) and e (denied) on one address; nothing that
// asks for e arrives on any port.
func TestK10SharedAddress(t *testing.T) {
	helloE := clientHello(t, tlsClient("e.test"))
	for _, cond := range []string{`network.hostname == "a.test"`, `network.hostname == "a.test" || http.host == "a.test" || tls.sni == "a.test"`} {
		b := newBed(t, rule("a", "allow", cond))
		for _, port := range []uint16{443, 80, 8443, 22} {
			dst := ap(shared, port)
			b.pins.m[shared] = nil
			b.pins.pin("a.test", shared)
			b.pins.pin("e.test", shared)
			srv := b.serve(drain, dst)
			for name, send := range map[string]func(net.Conn){
				"hello":        func(c net.Conn) { c.Write(helloE) },
				"split hello":  func(c net.Conn) { writeSplit(c, helloE, 1) },
				"first byte":   func(c net.Conn) { c.Write(helloE[:1]) },
				"host":         func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\nHost: e.test\r\n\r\n") },
				"host split":   func(c net.Conn) { writeSplit(c, []byte("GET /x HTTP/1.1\r\nHost: e.test\r\n\r\n"), 1) },
				"partial head": func(c net.Conn) { io.WriteString(c, "POST / HTT") },
				"h2": func(c net.Conn) {
					io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
				},
				"http 0.9":   func(c net.Conn) { io.WriteString(c, "GET /admin\r\n") },
				"sslv2":      func(c net.Conn) { c.Write([]byte{0x80, 0x2e, 1, 0, 2, 0, 0x15}) },
				"proxy v1":   func(c net.Conn) { io.WriteString(c, "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\n") },
				"odd method": func(c net.Conn) { c.Write([]byte("\x00X /admin HTTP/1.1\r\nHost: e.test\r\n\r\n")) },
				"custom":     func(c net.Conn) { io.WriteString(c, "FROB /admin HTTP/1.1\r\nHost: e.test\r\n\r\n") },
			} {
				c := b.connect(dst)
				n := b.log.denials()
				send(c)
				drain(c) // until we are shut out
				b.log.wait(t, name+": a denial", func(policy.Event) bool { return b.denialsLocked() > n })
				c.Close()
				if got := srv.text(); got != "" {
					t.Errorf("%d %s: %q arrived", port, name, got)
				}
			}
		}
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 22)
	b.serve(func(c net.Conn) {
		_, _ = io.WriteString(c, "SSH-2.0-server\r\n")
		echo(c)
	}, dst)
	c := b.connect(dst)
	banner := make([]byte, 16)
	if _, err := io.ReadFull(c, banner); err != nil {
		t.Fatalf("the banner did not come: %v", err)
	}
	roundTrip(t, c, "SSH-2.0-x y\r\n")
	roundTrip(t, c, "\x00\x00\x00binary")
}

func TestRawProtocols(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 5432)
	b.serve(echo, dst)
	for _, first := range []string{"EHLO host\r\n", "get key\r\n", "*1\r\n$4\r\nPING\r\n", "CONNECT {\"verbose\":false}\r\n",
		"\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x10\x10\x00\x04MQTT\x04", "<?xml version='1.0'?><stream:stream>",
		"0032git-upload-pack /project.git\x00host=a.test\x00", "\x54\x00\x00\x01\x8d\xa6"} {
		c := b.connect(dst)
		roundTrip(t, c, first)
		roundTrip(t, c, "more\n")
		c.Close()
	}
}

func TestProvisionalHoldsTheClient(t *testing.T) {
	b := newBed(t, rule("b", "block", `tls.ech || http.path == "/x"`)+rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 25)
	srv := b.serve(func(c net.Conn) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		echo(c)
	}, dst)
	c := b.connect(dst)
	got := make([]byte, 11)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("the server's bytes do not pass: %v", err)
	}
	if srv.text() != "" {
		t.Fatal("something left before the verdict")
	}
	roundTrip(t, c, "EHLO h\r\n") // raw: neither tls.ech nor http.path can exist
	silent := b.connect(dst)
	drain(silent)
	e := b.log.deny(t, "raw")
	if !strings.Contains(e.Reason, "in time") {
		t.Errorf("reason %q", e.Reason)
	}
}

func TestOpenNeedsAPin(t *testing.T) {
	b := newBed(t, rule("a", "allow", `tls.sni == "a.test"`))
	dst := ap(shared, 443)
	srv := b.serve(tlsEcho(&tls.Config{}), dst)
	if _, err := b.try(dst); err == nil {
		t.Fatal("an open word without a pin connected")
	}
	b.pins.pin("a.test", shared)
	c := tls.Client(b.connect(dst), tlsClient("a.test"))
	roundTrip(t, c, "x\n")
	n := len(srv.text())
	raw := b.connect(dst)
	_, _ = io.WriteString(raw, "EHLO h\r\n")
	drain(raw)
	b.log.deny(t, "raw")
	if len(srv.text()) != n {
		t.Error("raw bytes left at an open word")
	}
}

func TestHelloRetryRequest(t *testing.T) {
	b := newBed(t, rule("a", "allow", `network.hostname == "a.test"`))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 443)
	b.serve(tlsEcho(&tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP521}}), dst)
	cfg := tlsClient("a.test")
	cfg.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP521}
	c := tls.Client(b.connect(dst), cfg)
	roundTrip(t, c, "after a retry\n")
	if !c.ConnectionState().HelloRetryRequest {
		t.Error("the handshake had no retry: choose other curves")
	}
}

func TestForgedSecondHello(t *testing.T) {
	b := newBed(t, rule("a", "allow", `network.hostname == "a.test"`))
	b.pins.pin("a.test", shared)
	first, second := clientHello(t, tlsClient("a.test")), clientHello(t, tlsClient("evil.test"))
	for i, pieces := range [][][]byte{{first, second}, {append(append([]byte(nil), first...), second...)},
		{first, second[:7], second[7:]}, {first, {0x14, 3, 3, 0, 1, 1}, second}} {
		dst := ap(shared, uint16(1000+i))
		srv := b.serve(drain, dst)
		c := b.connect(dst)
		for _, p := range pieces {
			_, _ = c.Write(p)
		}
		drain(c)
		b.log.wait(t, "deny", func(e policy.Event) bool { return denyAt("hello")(e) && e.Port == dst.Port() })
		if got := srv.text(); strings.Contains(got, "evil.test") {
			t.Errorf("case %d: the second hello arrived", i)
		}
	}
}

func TestT4BadNames(t *testing.T) {
	b := newBed(t, rule("a", "allow", `network.hostname == "a.test"`))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 443)
	srv := b.serve(drain, dst)
	for _, name := range []string{"", "1.2.3.4", "a.test\x00", strings.Repeat("a", 300)} {
		c := b.connect(dst)
		_, _ = c.Write(forgeHello(name))
		got, _ := io.ReadAll(c)
		if string(got) != string(hello.Alert()) {
			t.Errorf("%q: answer %x", name, got)
		}
	}
	if srv.text() != "" {
		t.Error("a hello without a good name arrived")
	}
}

func TestHalfCloseAndReset(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 9)
	b.serve(func(c net.Conn) {
		all, _ := io.ReadAll(c)
		_, _ = c.Write([]byte("got " + string(all)))
	}, dst)
	c := b.connect(dst)
	_, _ = io.WriteString(c, "to the end\n")
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "got to the end\n" {
		t.Errorf("%q, %v", got, err)
	}

	rst := ap(shared, 10)
	b.serve(func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 3))
		_ = c.(*tapped).Conn.(*net.TCPConn).SetLinger(0)
	}, rst)
	c = b.connect(rst)
	_, _ = io.WriteString(c, "hi\n")
	if _, err := io.ReadAll(c); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("a server's reset arrived as %v", err)
	}
}

func TestUnreadByAddress(t *testing.T) {
	b := newBed(t, rule("n", "allow", `cidr("93.184.216.0/24").contains(network.ip) && network.port == 443`))
	dst := ap(shared, 443)
	b.serve(echo, dst)
	c := b.connect(dst)
	roundTrip(t, c, "GET / HTTP/9\nHost: whatever\n") // not looked at
}

func TestExpiredPinIsRenewed(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	old := netip.MustParseAddr("93.184.216.99")
	b.pins.expired[old] = []string{"a.test"}
	dst := ap(old, 22)
	b.serve(echo, dst)
	roundTrip(t, b.connect(dst), "java\n")
	if q := b.names.asked; len(q) != 1 || q[0].Keep != old || !q[0].NeedAllow {
		t.Errorf("asked %+v", q)
	}
}

// A shared address had several names; which of them is meant the bytes tell.
func TestEveryExpiredNameIsRenewed(t *testing.T) {
	const both = `network.hostname in ["a.test", "e.test"] || dns.query in ["a.test", "e.test"]`
	b := newBed(t, rule("a", "allow", both))
	b.names.addrs["e.test"] = []netip.Addr{shared}
	dst := ap(shared, 443)
	b.serve(tlsEcho(&tls.Config{}), dst)
	b.pins.expired[shared] = []string{"e.test", "a.test"}
	roundTrip(t, tls.Client(b.connect(dst), tlsClient("a.test")), "x\n")

	// One of the names has run out while the other lives.
	b.pins.mu.Lock()
	b.pins.m[shared] = []policy.Candidate{{Name: "e.test"}}
	b.pins.mu.Unlock()
	roundTrip(t, tls.Client(b.connect(dst), tlsClient("a.test")), "x\n")
	b.pins.mu.Lock()
	held := b.pins.held
	b.pins.mu.Unlock()
	if held < 3 { // the second flow stands on e.test by its address and on a.test by its bytes
		t.Errorf("%d pins are held", held)
	}

	b.swap(load(t, rule("e", "allow", `network.hostname == "e.test" || dns.query == "e.test"`)))
	b.pins.mu.Lock()
	b.pins.m[shared] = []policy.Candidate{{Name: "e.test"}}
	b.pins.mu.Unlock()
	if tls.Client(b.connect(dst), tlsClient("a.test")).Handshake() == nil {
		t.Error("a name that the rules deny now came back to life")
	}
}

func TestObserve(t *testing.T) {
	b := newBed(t, rule("b", "block", `network.hostname == "e.test"`), func(c *Config, _ *timeouts) { c.Observe = true })
	b.pins.pin("e.test", shared)
	dst := ap(shared, 443)
	b.serve(tlsEcho(&tls.Config{}), dst)
	roundTrip(t, tls.Client(b.connect(dst), tlsClient("e.test")), "x\n")
	b.log.wait(t, "would_deny", func(e policy.Event) bool { return e.Verdict == "would_deny" && e.Layer == "flow" && e.Rule == "b" })
	// A name that is not pinned there stays a denial.
	if err := tls.Client(b.connect(dst), tlsClient("other.test")).Handshake(); err == nil {
		t.Error("an unpinned name passed in observe")
	}
	if e := b.log.deny(t, "hello"); !e.Structural {
		t.Errorf("%+v", e)
	}
}

func TestPanicIsADenial(t *testing.T) {
	b := newBed(t, rule("a", "allow", "true"))
	b.pins.panics = true
	if _, err := b.try(ap(shared, 443)); err == nil {
		t.Fatal("connected")
	}
	if e := b.log.deny(t, "flow"); !strings.Contains(e.Reason, "internal error") {
		t.Errorf("%+v", e)
	}
	b.pins.mu.Lock()
	b.pins.panics = false
	b.pins.mu.Unlock()
	b.pins.pin("a.test", shared)
	b.serve(echo, ap(shared, 22))
	roundTrip(t, b.connect(ap(shared, 22)), "still alive\n")
}

func TestReloadAndKill(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 22)
	b.serve(echo, dst)
	c1, c2 := b.connect(dst), b.connect(dst)
	roundTrip(t, c1, "one\n")
	roundTrip(t, c2, "two\n")
	fl := b.Flows()
	if len(fl) != 2 || fl[0].Rule != "a" || fl[0].Host != "a.test" {
		t.Fatalf("flows %+v", fl)
	}
	if !b.Kill(fl[0].ID) || b.Kill("d-none") {
		t.Error("Kill")
	}
	same := load(t, rule("a2", "allow", allowA))
	if n := b.Reload(t.Context(), b.current(), same); n != 0 {
		t.Errorf("%d flows ended by an equal set", n)
	}
	b.swap(same)
	none := load(t, rule("z", "block", "true"))
	if n := b.Reload(t.Context(), same, none); n != 1 {
		t.Errorf("%d flows ended by an empty set", n)
	}
	// From Reload on, and before the swap, the new set holds.
	if _, err := b.try(dst); err == nil {
		t.Error("connected under the new set")
	}
	for _, c := range []net.Conn{c1, c2} {
		if _, err := io.ReadAll(c); err == nil {
			t.Error("a revoked flow ended with FIN")
		}
	}
	b.log.wait(t, "reload denial", func(e policy.Event) bool { return strings.Contains(e.Reason, "reloaded") && e.Rule == "z" })
}
