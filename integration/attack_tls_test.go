package integration

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// A sent is one attempt of a batch: what is written to a server, in parts.
type sent struct {
	what  string
	to    string // address:port, or a name's; "tunnel name:port" goes through CONNECT
	parts [][]byte
	ok    bool // it may arrive
}

// batch runs all attempts at once in one session and returns the session's
// result and the probe's line of each attempt.
func batch(t *testing.T, b *harness.Bed, flags []string, names []string, list []sent) (harness.Result, []harness.Line) {
	t.Helper()
	var script strings.Builder
	for _, n := range names { // the addresses that follow are these names'
		fmt.Fprintf(&script, "%[1]s dns udp 10.200.0.1:53 A %[2]s >/dev/null; %[1]s dns udp 10.200.0.1:53 AAAA %[2]s >/dev/null\n", harness.Probe, n)
	}
	script.WriteString("mkdir /tmp/batch\n")
	for i, s := range list {
		var words string
		for _, p := range s.parts {
			words += " '" + hex.EncodeToString(p) + "'"
		}
		to, tunnel := strings.CutPrefix(s.to, "tunnel ")
		line := harness.Probe + " bytes " + to + words
		if tunnel {
			line = harness.Probe + " connect 10.200.0.1:8080 'CONNECT " + to + " HTTP/1.1'" + words
		}
		fmt.Fprintf(&script, "%s >/tmp/batch/%03d &\n", line, i)
		if i%16 == 15 {
			script.WriteString("wait\n")
		}
	}
	r := b.Sandbox(flags, "sh", "-c", script.String()+"wait\ncat /tmp/batch/*\n")
	lines := r.Lines(t)
	if len(lines) != len(list) {
		t.Fatalf("%d answers to %d attempts: %s %s", len(lines), len(list), r.Stdout, r.Stderr)
	}
	return r, lines
}

// forged is a ClientHello with any server_name extension; mark stands in its
// ALPN, so that it can be found on the wire.
func forged(mark string, serverName []byte) []byte {
	vec := func(n int, b ...[]byte) []byte {
		all := bytes.Join(b, nil)
		size := binary.BigEndian.AppendUint32(nil, uint32(len(all)))
		return append(size[4-n:], all...)
	}
	ext := func(typ byte, b []byte) []byte { return append([]byte{0, typ}, vec(2, b)...) }
	exts := ext(16, vec(2, vec(1, []byte(mark))))
	if serverName != nil {
		exts = append(ext(0, serverName), exts...)
	}
	body := append(append([]byte{3, 3}, make([]byte, 32)...), 0, 0, 2, 0xc0, 0x2f, 1, 0)
	msg := append([]byte{1}, vec(3, append(body, vec(2, exts)...))...)
	return append([]byte{0x16, 3, 1}, vec(2, msg)...)
}

// names is the body of a server_name extension.
func serverNames(list ...string) []byte {
	var all []byte
	for _, n := range list {
		all = append(append(all, 0, byte(len(n)>>8), byte(len(n))), n...)
	}
	return append([]byte{byte(len(all) >> 8), byte(len(all))}, all...)
}

const accessDenied = "\x15\x03\x03\x00\x02\x02\x31"

// T4: server names that are none, or that two servers could read differently.
func TestT4ServerNames(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	var list []sent
	var words []*world.Canary
	for _, c := range []struct {
		what string
		sni  []byte
		ok   bool
	}{
		{"none", nil, false},
		{"empty extension", []byte{}, false},
		{"empty list", serverNames(), false},
		{"empty name", serverNames(""), false},
		{"an IPv4 address", serverNames(b.V4(t, a).String()), false},
		{"an IPv6 address", serverNames(b.V6(t, a).String()), false},
		{"two names", serverNames(a, a), false},
		{"two names, of which one is another", serverNames(a, "evil.test"), false},
		{"NUL inside", serverNames(a + "\x00.evil.test"), false},
		{"NUL at the end", serverNames(a + "\x00"), false},
		{"invalid UTF-8", serverNames("api.allowed.test\xff\xfe"), false},
		{"256 octets", serverNames(strings.Repeat("a.", 120) + a), false},
		{"a label of 64 octets", serverNames(strings.Repeat("a", 64) + "." + a), false},
		{"another name", serverNames("evil.test"), false},
		{"below the name", serverNames("x." + a), false},
		{"trailing dot", serverNames(a + "."), true},
		{"upper case", serverNames("API.Allowed.TEST"), true},
	} {
		for _, to := range []string{at(b.V4(t, a), 443), at(b.V6(t, a), 443), "tunnel " + a + ":443"} {
			k := b.Canary(t)
			words = append(words, k)
			list = append(list, sent{c.what + " to " + to, to, [][]byte{forged(k.Word, c.sni)}, c.ok})
		}
	}
	r, lines := batch(t, b, harness.Allow(a), []string{a}, list)
	denied := 0
	for i, s := range list {
		if words[i].Arrived() != s.ok {
			t.Errorf("T4: %s arrived: %v: %+v", s.what, !s.ok, lines[i])
		}
		if got := strings.HasSuffix(lines[i].Data, accessDenied); got == s.ok {
			t.Errorf("T4: %s: answered %q %s", s.what, lines[i].Data, lines[i].Err)
		}
		if !s.ok {
			denied++
		}
	}
	if n := count(b.Denials(t, r.Name, func(e harness.Event) bool { return e.Layer == "hello" })); n != denied {
		t.Errorf("T4: %d denials of %d attempts", n, denied)
	}
}

// count is the number of attempts that lines stand for.
func count(list []harness.Event) (n int) {
	for _, e := range list {
		n += max(e.Count, 1)
	}
	return n
}

// echConfig is an ECHConfigList with one key that nobody holds.
func echConfig(t *testing.T, public string) []byte {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	vec := func(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
	body := append([]byte{1, 0, 0x20}, vec(k.PublicKey().Bytes())...)
	body = append(append(body, vec([]byte{0, 1, 0, 1})...), 0, byte(len(public)))
	body = append(append(body, public...), 0, 0)
	return vec(append([]byte{0xfe, 0x0d}, vec(body)...))
}

// T6: a ClientHello inside a ClientHello. The outer name is held to the rules;
// GREASE cannot be told from it and works; a rule on tls.ech refuses both.
func TestT6EncryptedHello(t *testing.T) {
	b := harness.New(t)
	const a, browser = "api.allowed.test", "client.allowed.test"
	b.DNS.Set(browser, world.Records{Addrs: b.AddrsOf(a), TTL: -1})
	inner := func(public string) []byte {
		return clientHello(t, &tls.Config{ServerName: "inner.evil.test", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfig(t, public)})
	}
	grease, err := os.ReadFile("../netstack/hello/testdata/clients/chromium.bin")
	if err != nil {
		t.Fatal(err)
	}
	name := allowRule(a) + allowRule(browser)
	strict := "  - id: no-ech\n    priority: 1\n    condition: 'tls.ech'\n    action: block\n"
	for _, c := range []struct {
		mode, rules string
		ech         bool // may pass
	}{{"default", name, true}, {"strict", strict + name, false}} {
		rules := b.Rules(c.mode+".yaml", c.rules)
		var list []sent
		for _, to := range []string{at(b.V4(t, a), 443), at(b.V6(t, a), 443), "tunnel " + a + ":443"} {
			list = append(list,
				sent{"T6a: the outer name of a provider", to, [][]byte{inner("cloudflare-ech.test")}, false},
				sent{"T6b: an allowed outer name", to, [][]byte{inner(a)}, c.ech},
				sent{"T6c: a browser's GREASE", to, [][]byte{grease}, c.ech},
				sent{"no ECH at all", to, [][]byte{clientHello(t, &tls.Config{ServerName: a})}, true})
		}
		m := len(b.Origins.Hellos())
		r, lines := batch(t, b, []string{"-q", "--rules", rules}, []string{a, browser}, list)
		denied, passed := 0, 0
		for i, s := range list {
			answer := lines[i].Data[strings.IndexByte(lines[i].Data, '\n')+1:]
			if s.ok != (strings.HasPrefix(answer, "\x16") || len(answer) > 0 && !strings.HasSuffix(answer, accessDenied)) {
				t.Errorf("%s, %s: answered %q %s", c.mode, s.what, lines[i].Data, lines[i].Err)
			}
			if s.ok {
				passed++
			} else {
				denied++
			}
		}
		seen := b.Origins.Hellos()[m:]
		for _, h := range seen {
			if h.SNI != a && h.SNI != browser {
				t.Errorf("%s: a hello for %s arrived", c.mode, h.SNI)
			}
		}
		if len(seen) != passed {
			t.Errorf("%s: %d hellos arrived, not %d", c.mode, len(seen), passed)
		}
		if n := count(b.Denials(t, r.Name, func(e harness.Event) bool { return e.Layer == "hello" })); n != denied {
			t.Errorf("%s: %d denials of %d attempts", c.mode, n, denied)
		}
	}
}

// T8: handshakes of another kind, and words that ask for one, are refused
// unless a rule opens the port for any protocol.
func TestT8OtherHandshakes(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	v4, v6 := b.V4(t, a), b.V6(t, a)
	k := b.Canary(t)
	var list []sent
	for what, p := range map[string]string{
		"SSLv2":             "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80" + k.Word,
		"SSLv2 for TLS":     "\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00\x80" + k.Word,
		"TLS 1.0, no name":  string(forged(k.Word, nil)),
		"DTLS 1.2":          "\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40\x01\x00\x00\x34" + k.Word,
		"DTLS 1.0":          "\x16\xfe\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40\x01\x00\x00\x34" + k.Word,
		"SMTP STARTTLS":     "EHLO " + k.Word + "\r\nSTARTTLS\r\n",
		"IMAP STARTTLS":     "a STARTTLS " + k.Word + "\r\n",
		"FTP AUTH TLS":      "AUTH TLS " + k.Word + "\r\n",
		"POP STLS":          "STLS " + k.Word + "\r\n",
		"PostgreSQL wants":  "\x00\x00\x00\x08\x04\xd2\x16\x2f" + k.Word,
		"an alert at first": "\x15\x03\x01\x00\x02\x01\x5a" + string(forged(k.Word, serverNames(a))),
	} {
		for _, to := range []string{at(v4, 443), at(v6, 443), at(v4, 80), "tunnel " + a + ":443"} {
			list = append(list, sent{what + " to " + to, to, [][]byte{[]byte(p)}, false})
		}
	}
	for _, port := range []uint16{25, 143, 5432, 21, 110} {
		list = append(list, sent{"STARTTLS", at(v4, port), [][]byte{[]byte("EHLO " + k.Word + "\r\n")}, false},
			sent{"STARTTLS", at(v6, port), [][]byte{[]byte("EHLO " + k.Word + "\r\n")}, false})
	}
	r, lines := batch(t, b, harness.Allow(a), []string{a}, list)
	for i, l := range lines {
		if _, answer, tunnel := strings.Cut(l.Data, "\n"); l.OK && (tunnel && answer != "" && answer != accessDenied || !tunnel && l.Data != accessDenied) {
			t.Errorf("T8: %s: %+v", list[i].what, l)
		}
	}
	k.MustNotArrive(t)
	if n := count(b.Denials(t, r.Name, nil)); n != len(list) {
		t.Errorf("T8: %d denials of %d attempts", n, len(list))
	}
	// A rule for the port says that any protocol may pass by this name.
	open := a + ":" + port(b.Ports.Echo)
	list = nil
	for _, w := range []string{"EHLO host\r\nSTARTTLS\r\n", "\x00\x00\x00\x08\x04\xd2\x16\x2f", "a STARTTLS\r\n"} {
		for _, to := range []netip.Addr{v4, v6} {
			list = append(list, sent{w, at(to, b.Ports.Echo), [][]byte{[]byte(w)}, true})
		}
	}
	_, lines = batch(t, b, harness.Allow(open), []string{a}, list)
	for i, l := range lines {
		if !strings.HasPrefix(l.Data, list[i].what[:5]) {
			t.Errorf("T8: %q under a rule for the port: %+v", list[i].what, l)
		}
	}
}

// K10: a hello for the other name that comes late, or whose first octet comes
// early, on every port and in both families.
func TestK10LateHello(t *testing.T) {
	b := harness.New(t)
	const a, e = "shared.allowed.test", "shared.evil.test"
	other, own := clientHello(t, &tls.Config{ServerName: e}), clientHello(t, &tls.Config{ServerName: a})
	var list []sent
	flags := []string{"-q", "--no-proxy"}
	for _, port := range []uint16{443, 80, 8443, 22} {
		flags = append(flags, "-a", fmt.Sprintf("%s:%d", a, port))
		for _, to := range b.AddrsOf(a) {
			silence := make([][]byte, 11) // each is 300 ms
			list = append(list, sent{"after 3 s", at(to, port), append(silence, other), false},
				sent{"in two parts", at(to, port), append([][]byte{other[:1], nil, nil, nil, nil, nil, nil}, other[1:]), false})
			if port == 443 {
				list = append(list, sent{"the name itself after 3 s", at(to, port), append(silence[:11:11], own), true})
			}
		}
	}
	r, lines := batch(t, b, flags, []string{a}, list)
	denied := 0
	for i, s := range list {
		if s.ok != strings.HasPrefix(lines[i].Data, "\x16") {
			t.Errorf("K10: %s to %s: %q %s", s.what, s.to, lines[i].Data, lines[i].Err)
		}
		if !s.ok {
			denied++
		}
	}
	for _, h := range b.Origins.Hellos() {
		if h.SNI != a {
			t.Errorf("K10: a hello for %s arrived", h.SNI)
		}
	}
	if n := count(b.Denials(t, r.Name, func(e harness.Event) bool { return e.Layer == "hello" })); n != denied {
		t.Errorf("K10: %d denials of %d attempts", n, denied)
	}
}
