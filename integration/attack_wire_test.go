package integration

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// clientHello returns the record of a ClientHello as crypto/tls makes it.
func clientHello(t *testing.T, cfg *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		defer near.Close()
		_ = tls.Client(near, cfg).Handshake() // ends when far is closed
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(far, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(far, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// inRecords cuts one handshake record into records of size octets.
func inRecords(rec []byte, size int) (out []byte) {
	for body := rec[5:]; len(body) > 0; {
		n := min(size, len(body))
		out = append(append(out, 0x16, 3, 1, byte(n>>8), byte(n)), body[:n]...)
		body = body[n:]
	}
	return out
}

// T4, T8, K10: however a ClientHello is cut, its name is read; what has none,
// or can be read in two ways, does not leave.
func TestHellosInPieces(t *testing.T) {
	b := harness.New(t)
	const a, e = "shared.allowed.test", "shared.evil.test"
	good := clientHello(t, &tls.Config{ServerName: a})
	bad := clientHello(t, &tls.Config{ServerName: e})
	none := clientHello(t, &tls.Config{InsecureSkipVerify: true})
	sslv2 := []byte{0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80, 3, 0, 0x80, 7, 0, 0xc0, 6, 0, 0x40, 2, 0, 0x80, 4, 0, 0x80, 0, 0, 4,
		0, 0, 9, 0, 0, 0x64, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	cut := func(b []byte, at ...int) (out [][]byte) {
		last := 0
		for _, i := range append(at, len(b)) {
			out, last = append(out, b[last:i]), i
		}
		return out
	}
	cases := []struct {
		what  string
		parts [][]byte
		ok    bool
	}{
		{"whole", cut(good), true},
		{"in the record header", cut(good, 1, 3), true},
		{"in the handshake header", cut(good, 5, 7), true},
		{"in the middle", cut(good, 60, len(good)-1), true},
		{"records of one octet", cut(inRecords(good, 1)), true},
		{"records of 37, cut", cut(inRecords(good, 37), 4, 100), true},
		{"the other name", cut(bad), false},
		{"the other name in records of one octet", cut(inRecords(bad, 1)), false},
		{"the other name, cut", cut(bad, 1, 60), false},
		{"the other name late in records", cut(inRecords(bad, 37), 4, 100), false},
		{"no name", cut(none), false},
		{"SSLv2", cut(sslv2), false},
		{"SSLv2, cut", cut(sslv2, 1, 3), false},
		{"an empty record first", cut(append([]byte{0x16, 3, 1, 0, 0}, bad...)), false},
		{"an alert of no version", cut(append([]byte{0x15, 1, 1, 0, 2, 1, 90}, bad...), 2), false},
		{"an alert first", cut(append([]byte{0x15, 3, 1, 0, 2, 1, 90}, bad...)), false},
		{"half a hello", cut(bad[:len(bad)/2]), false},
	}
	addrs := b.AddrsOf(a)
	for i, c := range cases {
		m := b.Mark()
		words := []string{"bytes", at(addrs[i%2], 443)}
		for _, p := range c.parts {
			words = append(words, hex.EncodeToString(p))
		}
		flags := append(harness.Allow(a, a+":443"), "--no-proxy")
		r := b.Sandbox(flags, "sh", "-c", harness.Probe+" dns udp 10.200.0.1:53 A "+a+"; "+harness.Probe+" dns udp 10.200.0.1:53 AAAA "+a+"; "+harness.Probe+" "+strings.Join(words, " "))
		lines := r.Lines(t)
		if len(lines) != 3 {
			t.Fatalf("%s: %+v", c.what, r)
		}
		served := lines[2].OK && len(lines[2].Data) > 0 && lines[2].Data[0] == 0x16
		left := 0
		for _, f := range b.Since(t, m) {
			if f.Proto == "tcp" {
				left += len(f.Payload)
			}
		}
		if served != c.ok || (left > 0) != c.ok {
			t.Errorf("%s: served %v, %d octets left: %q %s", c.what, served, left, lines[2].Data, lines[2].Err)
		}
		if !c.ok && c.what != "half a hello" {
			b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Layer == "hello" || e.Layer == "raw" })
		}
	}
}

// T9, K10: what follows the judged hello cannot bring another name.
func TestSecondHello(t *testing.T) {
	b := harness.New(t)
	const a, e = "shared.allowed.test", "shared.evil.test"
	good, bad := clientHello(t, &tls.Config{ServerName: a}), clientHello(t, &tls.Config{ServerName: e})
	early := []byte{0x17, 3, 3, 0, 4, 'd', 'a', 't', 'a'}
	k := b.Canary(t)
	word := clientHello(t, &tls.Config{ServerName: k.Word + ".test"})
	for what, parts := range map[string][][]byte{
		"in one write":       {append(good[:len(good):len(good)], word...)},
		"in two":             {good, word},
		"behind early data":  {append(append(good[:len(good):len(good)], early...), word...)},
		"cut in the middle":  {append(good[:len(good):len(good)], word[:40]...), word[40:]},
		"in small records":   {append(good[:len(good):len(good)], inRecords(word, 3)...)},
		"of the other name":  {append(good[:len(good):len(good)], bad...)},
		"behind a short one": {append(good[:len(good):len(good)], 0x16, 3, 1, 0, 0), word},
	} {
		words := []string{"bytes", a + ":443"}
		for _, p := range parts {
			words = append(words, hex.EncodeToString(p))
		}
		b.Attempts(append(harness.Allow(a, a+":443"), "--no-proxy"), words...)
		// A server that has answered the first hello for good reads no second
		// one: then it may arrive, as any octets may. No server may act on it.
		for _, h := range b.Origins.Hellos() {
			if h.SNI != a {
				t.Errorf("%s: a server was asked for %s", what, h.SNI)
			}
		}
	}
}

// H1, H3, H11: under a block on a path, no server sees a request below it, in
// whatever way the request is written.
func TestRequestsThatSmuggle(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	rules := b.Rules("smuggle.yaml", "  - id: no-admin\n    priority: 1\n    condition: 'http.path == \"/admin\" || http.path.startsWith(\"/admin/\")'\n    action: block\n"+allowRule(a))
	host := "Host: " + a + "\r\n"
	inner := "GET /admin HTTP/1.1\r\n" + host + "\r\n"
	chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner)
	requests := []string{
		"GET /admin HTTP/1.1\r\n" + host + "\r\n",
		"GET //admin HTTP/1.1\r\n" + host + "\r\n",
		"GET /x/../admin HTTP/1.1\r\n" + host + "\r\n",
		"GET /x/%2e%2e/admin HTTP/1.1\r\n" + host + "\r\n",
		"GET /%61dmin HTTP/1.1\r\n" + host + "\r\n",
		"GET /./admin/ HTTP/1.1\r\n" + host + "\r\n",
		"GET /x%2f..%2fadmin HTTP/1.1\r\n" + host + "\r\n",
		"GET /admin%00 HTTP/1.1\r\n" + host + "\r\n",
		"GET /admin;x=1 HTTP/1.1\r\n" + host + "\r\n",
		"GET \\admin HTTP/1.1\r\n" + host + "\r\n",
		"GET /admin#x HTTP/1.1\r\n" + host + "\r\n",
		"GET http://" + a + "/admin HTTP/1.1\r\n" + host + "\r\n",
		"POST /a HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\n" + host + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + chunk,
		"POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\n" + host + "X: y\r\n Content-Length: 0\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\n" + host + "Content-Length: +0\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\n" + host + "X: y\nContent-Length: 0\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;\n" + inner + "\r\n0\r\n\r\n",
		"POST /a HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"GET /a HTTP/1.1\r\n" + host + "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + inner,
		"GET /a HTTP/1.1\r\n" + host + "Upgrade: x\r\nConnection: upgrade\r\n\r\n" + inner,
		"GET /a HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n" + inner,
		"GET /a HTTP/1.1\r\n" + host + "\r\n" + inner,
		"CONNECT " + a + ":80 HTTP/1.1\r\n" + host + "\r\n" + inner,
		"GET /admin\r\n", "\r\nGET /admin HTTP/1.1\r\n" + host + "\r\n", " GET /admin HTTP/1.1\r\n" + host + "\r\n",
		"get /admin http/1.1\r\n" + host + "\r\n", "GET\t/admin\tHTTP/1.1\r\n" + host + "\r\n", "FOO /admin HTTP/1.1\r\n" + host + "\r\n",
		"GET /admin HTTP/1.1\n" + host + "\n", "GET /admin HTTP/2.0\r\n" + host + "\r\n", "GET  /admin HTTP/1.1\r\n" + host + "\r\n",
	}
	for _, way := range []string{a + ":80", "[" + b.V6(t, a).String() + "]:80"} {
		script := harness.Probe + " dns udp 10.200.0.1:53 AAAA " + a + "\n"
		for _, q := range requests {
			script += harness.Probe + " bytes " + way + " " + hex.EncodeToString([]byte(q)) + " &\n"
		}
		r := b.Sandbox([]string{"-q", "--no-proxy", "--rules", rules}, "sh", "-c", script+"wait\n")
		if n := len(r.Lines(t)); n != len(requests)+1 {
			t.Errorf("%d attempts: %s", n, r.Stderr)
		}
	}
	seen := 0
	for _, q := range b.Origins.Requests() {
		seen++
		if p := path.Clean(strings.ToLower(q.URI)); strings.HasPrefix(p, "/admin") && p != "/admin;x=1" || q.Host != a {
			t.Errorf("arrived: %s %s %s", q.Method, q.URI, q.Host)
		}
	}
	if seen == 0 {
		t.Error("no request arrived at all")
	}
}

// N2, N10, N11, N12: addresses and ports that nobody allowed, over TCP and
// UDP: nothing leaves, each is refused at once and has its line.
func TestAddressesThatNobodyAllowed(t *testing.T) {
	b := harness.New(t)
	a4, a6 := b.V4(t, "api.allowed.test"), b.V6(t, "api.allowed.test")
	targets := []string{at(a4, 22), at(a4, 80), at(a4, 8443), at(a6, 22), at(a6, 8443), at(a4, 444), at(a6, 442)}
	for _, s := range []string{"93.184.216.34", "10.0.2.2", "10.200.0.1", "10.200.0.3", "10.200.0.254", "172.17.0.1", "192.168.1.1", "100.64.0.1", "100.100.100.200",
		"168.63.129.16", "192.0.0.192", "169.254.169.254", "2606:4700::1", "fd00:ec2::254", "fd0c:a11::1", "fd0c:a11::3", "fd0c:a11::fe", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001::1"} {
		targets = append(targets, at(netip.MustParseAddr(s), 443))
	}
	m := b.Mark()
	script := harness.Probe + " dns udp 10.200.0.1:53 A api.allowed.test; " + harness.Probe + " dns udp 10.200.0.1:53 AAAA api.allowed.test\n"
	for range 2 {
		script += harness.Probe + " tcp x " + strings.Join(targets, " ") + "; " + harness.Probe + " udp x " + strings.Join(targets, " ") + "\n"
	}
	r := b.Sandbox(append(harness.Allow("api.allowed.test:443"), "--no-proxy"), "sh", "-c", script)
	best := map[string]float64{}
	for _, l := range r.Lines(t)[2:] {
		if l.OK {
			t.Errorf("%+v", l)
		}
		k := l.Op + " " + l.Target
		if was, ok := best[k]; !ok || l.MS < was {
			best[k] = l.MS
		}
	}
	for k, ms := range best {
		if ms > prompt {
			t.Errorf("%s: refused after %.1f ms", k, ms)
		}
	}
	lines := map[string]int{}
	for _, e := range b.Denials(t, r.Name, nil) {
		if e.Layer == "flow" {
			lines[e.Protocol+" "+at(netip.MustParseAddr(e.IP), e.Port)] += max(e.Count, 1)
			if e.Process == nil || !strings.HasSuffix(e.Process.Exe, "/probe") {
				t.Errorf("no process: %s", e)
			}
		}
	}
	for k := range best {
		if lines[k] != 2 {
			t.Errorf("%s: %d attempts in the audit, not 2", k, lines[k])
		}
	}
	b.MustBeQuiet(t, m, onlyQuestions(b.World))
}
