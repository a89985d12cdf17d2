package netstack

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outcall/netstack/hello"
	"outcall/policy"
)

// TestT1TunnelOfAnotherName: a tunnel to one name carries another one only if
// that is allowed and pinned to the same address.
func TestT1TunnelOfAnotherName(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA)+rule("e", "allow", `network.hostname in ["e.test", "far.test"]`))
	b.pins.pin("e.test", shared)
	b.pins.pin("far.test", netip.MustParseAddr("93.184.216.99"))
	srv := b.serve(tlsEcho(&tls.Config{}), ap(shared, 443))
	for name, ok := range map[string]bool{"a.test": true, "e.test": true, "far.test": false, "none.test": false} {
		c, br := b.proxied()
		if code, _, _ := ask(t, c, br, "CONNECT", connectTo("a.test:443")); code != 200 {
			t.Fatalf("CONNECT: %d", code)
		}
		tc := tls.Client(c, tlsClient(name))
		if err := tc.Handshake(); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "access denied") {
			t.Errorf("%s: %v", name, err)
		}
		if !ok && strings.Contains(srv.text(), name) {
			t.Errorf("%s arrived", name)
		}
		c.Close()
	}
}

// TestHelloLimits: 16 KiB and the time from the first octet on.
func TestHelloLimits(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("a.test", shared)
	dst := ap(shared, 443)
	srv := b.serve(drain, dst)
	for what, msg := range map[string]struct {
		wire   []byte
		reason string
	}{
		"too long":      {[]byte{0x16, 3, 1, 0x40, 0, 1, 0, 0x40, 0}, hello.ErrTooLong.Error()},
		"never whole":   {clientHello(t, tlsClient("a.test"))[:60], "not complete in time"},
		"one octet":     {[]byte{0x16}, "not complete in time"},
		"empty records": {[]byte{0x16, 3, 1, 0, 0}, "empty handshake record"},
	} {
		wire := msg.wire
		if what == "too long" {
			wire = append(wire, make([]byte, hello.MaxMessage)...)
		}
		c := b.connect(dst)
		_, _ = c.Write(wire)
		_, _ = io.ReadAll(c)
		b.log.wait(t, what, func(e policy.Event) bool { return e.Verdict == "deny" && strings.Contains(e.Reason, msg.reason) })
		c.Close()
	}
	if srv.text() != "" {
		t.Error("a part of a hello arrived")
	}
}

// TestT6ClientsPass: what browsers and others send is relayed as it came, GREASE
// ECH included, in any pieces; a rule on tls.ech refuses it.
func TestT6ClientsPass(t *testing.T) {
	files, err := filepath.Glob("hello/testdata/clients/*.bin")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	name := rule("a", "allow", `network.hostname == "client.allowed.test"`)
	for _, strict := range []bool{false, true} {
		rules := name
		if strict {
			rules = rule("no-ech", "block", "tls.ech") + name
		}
		b := newBed(t, rules)
		b.pins.pin("client.allowed.test", shared)
		b.pins.pin("client.allowed.test", shared6)
		for i, file := range files {
			wire, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dst := ap([]netip.Addr{shared, shared6}[i%2], uint16(4000+i))
			srv := b.serve(echo, dst)
			c := b.connect(dst)
			writeSplit(c, wire, 200)
			nameless, ech := strings.Contains(file, "noservername"), strings.Contains(file, "chromium")
			got := make([]byte, len(wire))
			if nameless || ech && strict {
				if got, _ := io.ReadAll(c); !bytes.Equal(got, hello.Alert()) || srv.text() != "" {
					t.Errorf("%s, strict %v: %x, %d octets arrived", file, strict, got, len(srv.text()))
				}
			} else if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, wire) {
				t.Errorf("%s, strict %v: %v, %d octets arrived", file, strict, err, len(srv.text()))
			}
			c.Close()
		}
	}
}

// TestHTTPIdleEnds: between two requests there is a limit, on both sides.
func TestHTTPIdleEnds(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA), func(_ *Config, w *timeouts) { w.idle, w.first = 200*time.Millisecond, patience })
	b.pins.pin("a.test", shared)
	dst := ap(shared, 80)
	ended := make(chan struct{})
	b.serve(func(c net.Conn) {
		defer close(ended)
		webServer(c)
	}, dst)
	c := b.connect(dst)
	br := bufio.NewReader(c)
	if code, _, _ := ask(t, c, br, "GET", "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"); code != 200 {
		t.Fatalf("%d", code)
	}
	if got, err := io.ReadAll(br); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the server's connection lives on")
	}
}
