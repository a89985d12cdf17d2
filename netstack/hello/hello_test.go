package hello

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// real returns the first records of a real client.
func real(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	cfg.InsecureSkipVerify = true
	c, s := net.Pipe()
	defer s.Close()
	go func() { _ = tls.Client(c, cfg).Handshake(); c.Close() }()
	head := make([]byte, 5)
	if _, err := io.ReadFull(s, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(s, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// resplit carries the same message in records of n octets.
func resplit(b []byte, n int) (out []byte) {
	for msg := b[5:]; len(msg) > 0; {
		k := min(n, len(msg))
		out = append(out, 0x16, 3, 1, byte(k>>8), byte(k))
		out = append(out, msg[:k]...)
		msg = msg[k:]
	}
	return out
}

func u16(b ...byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }

func ext(typ uint16, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, typ), u16(body...)...)
}

// forge makes a ClientHello with these extensions.
func forge(exts ...[]byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	body = append(body, u16(bytes.Join(exts, nil)...)...)
	msg := append([]byte{1, 0}, u16(body...)...)
	return append([]byte{0x16, 3, 1}, u16(msg...)...)
}

func sni(name string) []byte {
	return ext(0, u16(append([]byte{0}, u16([]byte(name)...)...)...)...)
}

func TestParseRealClients(t *testing.T) {
	b := real(t, &tls.Config{ServerName: "Api.Allowed.Test.", NextProtos: []string{"h2", "http/1.1"}})
	for _, wire := range [][]byte{b, resplit(b, 1), resplit(b, 100), append(bytes.Clone(b), 0x17, 3, 3, 0, 1, 0)} {
		h, n, err := Parse(wire)
		if err != nil {
			t.Fatal(err)
		}
		if h.SNI != "api.allowed.test" || len(h.ALPN) != 2 || h.Version != "1.3" || h.ECH {
			t.Errorf("%+v", h)
		}
		if n > len(wire) || n < len(b) {
			t.Errorf("length %d", n)
		}
	}
	for i := range b {
		if _, _, err := Parse(b[:i]); !errors.Is(err, ErrShort) {
			t.Fatalf("%d octets: %v", i, err)
		}
	}
	h, _, err := Parse(real(t, &tls.Config{ServerName: "a.test", MaxVersion: tls.VersionTLS12}))
	if err != nil || h.Version != "1.2" {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := sni("a.test")
	two := ext(0, u16(append(append([]byte{0}, u16([]byte("a.test")...)...), append([]byte{0}, u16([]byte("b.test")...)...)...)...)...)
	for name, b := range map[string][]byte{
		"two names":        forge(two),
		"name twice":       forge(good, good),
		"empty list":       forge(ext(0, 0, 0)),
		"empty name":       forge(sni("")),
		"address":          forge(sni("1.2.3.4")),
		"v6 address":       forge(sni("::1")),
		"number":           forge(sni("2130706433")),
		"hex":              forge(sni("0x7f.1")),
		"NUL":              forge(sni("a.test\x00")),
		"UTF-8":            forge(sni("ä.test")),
		"space":            forge(sni("a .test")),
		"star":             forge(sni("*.test")),
		"long":             forge(sni(strings.Repeat("a.", 130))),
		"long label":       forge(sni(strings.Repeat("a", 64) + ".test")),
		"empty label":      forge(sni("a..test")),
		"dots":             forge(sni("a.test..")),
		"cut extension":    forge(good[:len(good)-1]),
		"other type":       forge(ext(0, u16(1, 0, 1, 'a')...)),
		"bad ALPN":         forge(good, ext(16, 0, 1, 0)),
		"bad versions":     forge(good, ext(43, 1, 3)),
		"server hello":     {0x16, 3, 1, 0, 5, 2, 0, 0, 1, 0},
		"empty message":    {0x16, 3, 1, 0, 4, 1, 0, 0, 0},
		"empty record":     {0x16, 3, 1, 0, 0},
		"long record":      {0x16, 3, 1, 0x40, 1},
		"version":          {0x16, 2, 0},
		"other record":     append(resplit(forge(good), 9)[:14], 0x17, 3, 3),
		"two messages":     {0x16, 3, 1, 0, 10, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0},
		"too long":         {0x16, 3, 1, 0, 4, 1, 0, 0x40, 0},
		"not a handshake":  {0x17, 3, 3},
		"trailing garbage": append([]byte{0x16, 3, 1}, u16(append([]byte{1, 0}, u16(append(forge(good)[9:], 0)...)...)...)...),
	} {
		if h, _, err := Parse(b); err == nil || errors.Is(err, ErrShort) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	if _, _, err := Parse([]byte{0x16, 3, 1, 0, 4, 1, 0, 0x40, 0}); !errors.Is(err, ErrTooLong) {
		t.Errorf("limit: %v", err)
	}
	h, _, err := Parse(forge(good, ext(0xfe0d, 0)))
	if err != nil || !h.ECH {
		t.Errorf("ECH: %+v, %v", h, err)
	}
}

func TestIsTLS(t *testing.T) {
	for s, want := range map[string][2]bool{
		"": {false, true}, "\x16": {true, false}, "GET": {false, false}, "\x80": {false, true}, "\x80\x2e\x01\x00\x02": {true, false},
		"\x80\x2e\x01\x03": {true, false}, "\x80\x2e\x02": {false, false}, "\x80\x2e\x01\x00": {false, true}, "\x80\x2e\x01\x00\x09": {false, false},
		"\x15\x03\x01\x00\x02\x01\x5a": {true, false}, "\x15\x01\x01\x00\x02": {true, false}, "\x15\x03": {false, true},
		"\x15\x03\x00\x01": {false, false}, // a MySQL client's login
	} {
		if yes, more := IsTLS([]byte(s)); [2]bool{yes, more} != want {
			t.Errorf("%x: %v %v", s, yes, more)
		}
	}
}

// TestWatch feeds the client's bytes after the first hello in every split.
func TestWatch(t *testing.T) {
	first := forge(sni("a.test"))
	h, _, err := Parse(first)
	if err != nil {
		t.Fatal(err)
	}
	ccs, data := []byte{0x14, 3, 3, 0, 1, 1}, []byte{0x17, 3, 3, 0, 3, 1, 2, 3}
	other := []byte{0x16, 3, 3, 0, 5, 16, 0, 0, 1, 0}
	for name, c := range map[string]struct {
		b    []byte
		fail bool
	}{
		"tls 1.3":      {bytes.Join([][]byte{ccs, data, data}, nil), false},
		"tls 1.2":      {bytes.Join([][]byte{other, ccs, {0x16, 3, 3, 0, 4, 1, 9, 9, 9}}, nil), false},
		"same":         {bytes.Join([][]byte{ccs, first, data}, nil), false},
		"other name":   {bytes.Join([][]byte{ccs, forge(sni("b.test")), data}, nil), true},
		"no name":      {bytes.Join([][]byte{data, forge(ext(23))}, nil), true},
		"with ECH":     {forge(sni("a.test"), ext(0xfe0d, 0)), true},
		"with ALPN":    {forge(sni("a.test"), ext(16, 0, 3, 2, 'h', '2')), true},
		"split hello":  {resplit(forge(sni("b.test")), 7), true},
		"broken hello": {[]byte{0x16, 3, 3, 0, 4, 1, 0, 0, 0}, true},
	} {
		for n := 1; n <= len(c.b); n++ {
			w := NewWatch(h)
			var out []byte
			var err error
			for i := 0; i < len(c.b) && err == nil; i += n {
				var p []byte
				p, err = w.Client(c.b[i:min(len(c.b), i+n)])
				out = append(out, p...)
			}
			if c.fail != (err != nil) {
				t.Fatalf("%s by %d: %v", name, n, err)
			}
			if !c.fail && !bytes.Equal(out, c.b) {
				t.Fatalf("%s by %d: %x passed of %x", name, n, out, c.b)
			}
			if c.fail && bytes.Contains(out, []byte("b.test")) {
				t.Fatalf("%s by %d: the other name passed", name, n)
			}
		}
	}
	w := NewWatch(h)
	sh := append([]byte{0x16, 3, 3, 0, 80, 2, 0, 0, 76, 3, 3}, make([]byte, 74)...)
	w.Server(sh[:20])
	w.Server(sh[20:])
	if _, err := w.Client(forge(sni("b.test"))); err != nil {
		t.Errorf("after a real ServerHello the watch is over: %v", err)
	}
	w = NewWatch(h)
	copy(sh[11:], helloRetry)
	w.Server(sh)
	if _, err := w.Client(forge(sni("b.test"))); !errors.Is(err, ErrSecondHello) {
		t.Errorf("after a retry: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(real(f, &tls.Config{ServerName: "a.test", NextProtos: []string{"h2"}}))
	f.Add(forge(sni("a.test"), ext(0xfe0d, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Parse(b)
		if err != nil {
			return
		}
		if n <= 0 || n > len(b) || n > MaxWire {
			t.Fatalf("length %d of %d", n, len(b))
		}
		if h.SNI != "" {
			if c, err := CanonicalName(h.SNI); err != nil || c != h.SNI {
				t.Fatalf("name %q is not canonical: %v", h.SNI, err)
			}
		}
		for i := max(0, n-64); i < n; i++ { // no prefix may be a different hello
			if g, _, err := Parse(b[:i]); err == nil {
				t.Fatalf("prefix of %d octets is %+v", i, g)
			}
		}
	})
}

func FuzzWatch(f *testing.F) {
	first := forge(sni("a.test"))
	f.Add(forge(sni("b.test")), uint8(3))
	f.Add(first, uint8(1))
	h, _, _ := Parse(first)
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		w, n := NewWatch(h), int(step)+1
		total := 0
		for i := 0; i < len(b); i += n {
			p, err := w.Client(b[i:min(len(b), i+n)])
			if err != nil {
				return
			}
			if !bytes.HasPrefix(b[total:], p) {
				t.Fatal("other bytes passed")
			}
			total += len(p)
		}
		if g, _, err := Parse(b[:total]); err == nil && !g.Same(h) {
			t.Fatalf("passed a different hello %+v", g)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	wire := real(b, &tls.Config{ServerName: "api.allowed.test", NextProtos: []string{"h2", "http/1.1"}})
	b.ReportAllocs()
	b.SetBytes(int64(len(wire)))
	for b.Loop() {
		if _, _, err := Parse(wire); err != nil {
			b.Fatal(err)
		}
	}
}
