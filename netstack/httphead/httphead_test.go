package httphead

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	for s, want := range map[string]Kind{
		"": More, "\r\n": More, "G": More, "GET": More, "GET ": More, "GET k": More, "GET h": More, "SSH-2.0-x y": More, "FOO x HTTP/1.1": More,
		"GET /": HTTP, "get /x": HTTP, "GET *": HTTP, "GET HttP": HTTP, "GET\t/": HTTP, "\r\n \tGET /": HTTP, "GET\r/": HTTP,
		"OPTIONS *": HTTP, "PRI * HTTP/2.0": HTTP, "FOO x HTTP/1.1\r\n": HTTP, "x http/9 \r\n": HTTP, "HTTP/1.1\n": HTTP,
		"SSH-2.0-x y\r\n": Raw, "EHLO host\r\n": Raw, "get key\r\n": Raw, "CONNECT {\"a\":1}\r\n": Raw, "*1\r\n": Raw,
		"OPTIONS rtsp://x RTSP/1.0\r\n": Raw, "CONNECT\n": Raw,
		"\x00\x00\x00\x08": Doubt, "<?xml": Doubt, "0032git /p\x00": Doubt, "\x10\x10": Doubt,
		"PROXY TCP4 1.1.1.1": Proxy, "\r\n\r\n\x00\r\nQUIT\n": Proxy,
	} {
		if got := Classify([]byte(s), false); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
	for s, want := range map[string]Kind{"": Raw, "GET /admin": HTTP, "SSH": Raw, "x HTTP/1.1": HTTP} {
		if got := Classify([]byte(s), true); got != want {
			t.Errorf("%q at the end: %d, want %d", s, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	for s, want := range map[string]bool{
		"\x00X /admin HTTP/1.1\r\nHost: e\r\n": true, "<x> / hTTp/1.1 \n": true, "\x00X / HTTP/1.1\r": true,
		"\x00\x01binary\nGET / HTTP/1.1\n": false, "<stream:stream to='HTTP/'>\n": false, "\x00HTTP\n": false,
	} {
		for n := 1; n <= len(s); n++ {
			l, got := &Line{}, false
			for i := 0; i < len(s) && !got; i += n {
				got = l.HTTP([]byte(s[i:min(len(s), i+n)]))
			}
			if got != want {
				t.Errorf("%q by %d: %v", s, n, got)
			}
		}
	}
}

func TestRequestHead(t *testing.T) {
	r, n, err := ParseRequest([]byte("GET http://A.test:8080?x HTTP/1.1\r\nhost: a.test.:8080\r\nConnection: close, X-A\r\nX-A: 1\r\nB: 2\r\nB: 3\r\n\r\nrest"))
	if err != nil || n != 101 {
		t.Fatalf("%d, %v", n, err)
	}
	if r.Form != Absolute || r.Host.Host != "a.test" || r.Host.Port != 8080 || r.Path != "/" || r.Query != "x" || !r.Close {
		t.Errorf("%+v", r)
	}
	if got := string(r.Append(nil, false)); got != "GET /?x HTTP/1.1\r\nHost: a.test:8080\r\nB: 2\r\nB: 3\r\n\r\n" {
		t.Errorf("%q", got)
	}
	if m := r.Headers(); m["b"] != "2, 3" || m["x-a"] != "" {
		t.Errorf("%v", m)
	}
	if _, _, err := ParseRequest([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); !errors.Is(err, ErrHTTP2) {
		t.Errorf("preface: %v", err)
	}
	many := "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("A: b\r\n", MaxFields) + "\r\n"
	if _, _, err := ParseRequest([]byte(many)); err == nil {
		t.Error("more fields than the limit")
	}
	if _, _, err := ParseRequest([]byte("GET / HTTP/1.1\r\nA: " + strings.Repeat("x", MaxHead))); !errors.Is(err, ErrTooLong) {
		t.Errorf("long head: %v", err)
	}
}

func TestResponseHead(t *testing.T) {
	for raw, want := range map[string]Body{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n":                         {Length: 5},
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n":                {Chunked: true},
		"HTTP/1.1 200\r\n\r\n":                                                 {Length: -1},
		"HTTP/1.1 204 No\r\n\r\n":                                              {},
		"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n":                        {},
		"HTTP/1.0 200 OK\r\n\r\n":                                              {Length: -1},
		"HTTP/1.1 999 Denied\r\n\r\n":                                          {Length: -1},
		"HTTP/1.1 200 OK\nA: b\r\nContent-Length: 5\n\n":                       {Length: 5},
		"HTTP/1.1 200 OK\r\nContent-Length: 5\nA: b\n\r\n":                     {Length: 5},
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5, 5\r\n\r\n": {Length: 5},
	} {
		r, n, err := ParseResponse([]byte(raw), "GET")
		if err != nil || n != len(raw) || r.Body != want {
			t.Errorf("%q: %+v, %v", raw, r, err)
		}
	}
	for _, raw := range []string{"HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 099 X\r\n\r\n", "\nHTTP/1.1 200 OK\n\n", "x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"} {
		if r, _, err := ParseResponse([]byte(raw), "GET"); err == nil {
			t.Errorf("%q: %+v", raw, r)
		}
	}
}

// TestH1NoBodyThatCouldBeNext: what a method gives no meaning goes on a
// connection of its own, and an expectation without a body not at all.
func TestH1NoBodyThatCouldBeNext(t *testing.T) {
	for raw, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n":    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n": "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n":              "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers, x\r\n\r\n":      "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
	} {
		r, _, err := ParseRequest([]byte(raw))
		if err != nil || string(r.Append(nil, false)) != want {
			t.Errorf("%q: %v: %q", raw, err, r.Append(nil, false))
		}
	}
	for _, raw := range []string{"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\ncontent_length: 3\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\n\r\n"} {
		if r, _, err := ParseRequest([]byte(raw)); err == nil {
			t.Errorf("%q: %+v", raw, r)
		}
	}
}

func TestChunked(t *testing.T) {
	for in, want := range map[string]string{
		"3\r\nabc\r\n0\r\n\r\nnext": "abc", "0\r\n\r\n": "", "1;x=\"y\"\r\na\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n": "a0123456789",
	} {
		br := bufio.NewReader(strings.NewReader(in))
		got, err := io.ReadAll(NewChunked(br))
		if err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		if rest, _ := io.ReadAll(br); strings.HasSuffix(in, "next") != (string(rest) == "next") {
			t.Errorf("%q: %q is left", in, rest)
		}
	}
	for _, in := range []string{"", "3\r\nab", "x\r\n", "-1\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n", "3\r\nabcd\r\n0\r\n\r\n",
		"1000000000000000\r\n", " 3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n", "3\r\nabc0\r\n\r\n", "0\r\nbad trailer\r\n\r\n",
		"0\r\n" + strings.Repeat("A: b\r\n", 2000) + "\r\n", "1;" + strings.Repeat("x", 2000) + "\r\na\r\n0\r\n\r\n"} {
		if got, err := io.ReadAll(NewChunked(bufio.NewReader(strings.NewReader(in)))); err == nil {
			t.Errorf("%.40q: %q", in, got)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
		"POST http://a/x?y HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := ParseRequest(b)
		if err != nil {
			return
		}
		if n <= 0 || n > len(b) || n > MaxHead {
			t.Fatalf("length %d of %d", n, len(b))
		}
		if Classify(b[:n], false) != HTTP {
			t.Fatalf("%q is a request and was not classified so", b[:n])
		}
		if r.Form == Tunnel {
			return
		}
		// What is sent is read back as what was judged, and stays so.
		out := r.Append(nil, false)
		again, m, err := ParseRequest(out)
		if err != nil || m != len(out) {
			t.Fatalf("%q became %q: %v", b[:n], out, err)
		}
		if again.Method != r.Method || again.Path != r.Path || again.Query != r.Query || again.Host != r.Host || again.Body != r.Body {
			t.Fatalf("%+v became %+v", r, again)
		}
		if !bytes.Equal(again.Append(nil, false), out) {
			t.Fatalf("%q is not stable", out)
		}
	})
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := ParseResponse(b, "GET")
		if err != nil {
			return
		}
		out := r.Append(nil, r.Body, false)
		if g, _, err := ParseResponse(out, "GET"); err != nil || n > len(b) || g.Status != r.Status || g.Body != r.Body {
			t.Fatalf("%q became %q: %v", b[:n], out, err)
		}
	})
}

func FuzzChunked(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := io.ReadAll(NewChunked(bufio.NewReader(bytes.NewReader(b))))
		if err == nil && len(got) > len(b) {
			t.Fatal("longer than its input")
		}
	})
}
