package netstack

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A site is an ordinary server of Go behind a.test:80, and its client inside.
type site struct {
	b     *bed
	conns atomic.Int32 // that the server accepted
	gone  chan struct{}
	step  chan struct{}
	*http.Client
}

// ways are how a client reaches a site.
var ways = []string{"transparent", "proxy"}

func newSite(t *testing.T, way string) *site {
	b := newBed(t, rule("a", "allow", allowA), func(_ *Config, w *timeouts) {
		w.first, w.linger = patience, patience // a busy machine must not make a difference
	})
	b.pins.pin("a.test", shared)
	s := &site{b: b, gone: make(chan struct{}, 1), step: make(chan struct{})}
	srv := httptest.NewUnstartedServer(s.mux())
	srv.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			s.conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	b.dial.to[ap(shared, 80)] = srv.Listener.Addr().String()
	tr := &http.Transport{ExpectContinueTimeout: patience, DisableCompression: true, DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		if to, err := netip.ParseAddrPort(addr); err == nil {
			return b.try(to) // the proxy
		}
		return b.try(ap(shared, 80))
	}}
	if way == "proxy" {
		tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: ap(gw4, 8080).String()})
	}
	s.Client = &http.Client{Transport: tr}
	t.Cleanup(tr.CloseIdleConnections)
	return s
}

var document = bytes.Repeat([]byte("0123456789abcdef"), 8<<10)

func (s *site) mux() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Framing", fmt.Sprint(r.ContentLength, r.TransferEncoding))
		_, _ = io.Copy(w, r.Body)
	})
	m.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
	})
	m.HandleFunc("/no", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "not wanted", http.StatusExpectationFailed)
	})
	m.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		_, _ = io.WriteString(w, "late")
	})
	m.HandleFunc("/document", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"one"`)
		http.ServeContent(w, r, "d.bin", time.Time{}, bytes.NewReader(document))
	})
	m.HandleFunc("/none", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	m.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%v %q", r.Trailer, r.Header["Te"])
		w.Header().Set("X-Sum", "42")
	})
	m.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		for _, part := range []string{"one", "two"} {
			_, _ = io.WriteString(w, part)
			w.(http.Flusher).Flush()
			<-s.step
		}
	})
	m.HandleFunc("/wait", func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		s.gone <- struct{}{}
	})
	m.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(document)
		_ = z.Close()
	})
	m.HandleFunc("/fields", func(w http.ResponseWriter, r *http.Request) {
		for _, v := range r.Header["X-Many"] {
			w.Header().Add("Set-Cookie", v+"=1")
		}
		w.Header().Set("X-Long", strings.Repeat("x", 30<<10))
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("Upgrade", "h2c")
		fmt.Fprintf(w, "%q %q %q", r.Header["X-Many"], r.Header["Proxy-Connection"], r.Header["Upgrade"])
	})
	m.HandleFunc("/close", func(w http.ResponseWriter, r *http.Request) {
		c, buf, _ := w.(http.Hijacker).Hijack()
		_, _ = buf.WriteString("HTTP/1.1 200 OK\r\n\r\nto the end")
		_ = buf.Flush()
		_ = c.Close()
	})
	m.HandleFunc("/full", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "too much", http.StatusRequestEntityTooLarge)
	})
	return m
}

// do sends a request and returns its answer, whole.
func (s *site) do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := s.Do(r)
	if err != nil {
		t.Errorf("%s %s: %v", r.Method, r.URL, err)
		return &http.Response{}, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s %s: body: %v", r.Method, r.URL, err)
	}
	return resp, string(body)
}

func asking(t *testing.T, method, path string, body io.Reader, fields ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, "http://a.test"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return r
}

// TestConformance: Go's own client and server do not notice that we stand
// between them.
func TestConformance(t *testing.T) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			s := newSite(t, way)
			s.plain(t)
			s.bodies(t)
			s.ranges(t)
			// The proxy sends what cannot be repeated on a connection of its own.
			if n := s.conns.Load(); n > 1 && way == "transparent" || n > 10 {
				t.Errorf("%d connections to the server for requests that could share one", n)
			}
			s.interim(t)
			s.streams(t)
			s.ends(t)
		})
	}
}

func (s *site) plain(t *testing.T) {
	resp, body := s.do(t, asking(t, "GET", "/fields?a=%20b", nil, "X-Many", "a", "X-Many", "b", "X-Many", "ä"))
	if c := resp.Header["Set-Cookie"]; body != `["a" "b" "ä"] [] []` || len(c) != 3 || len(resp.Header.Get("X-Long")) != 30<<10 {
		t.Errorf("fields: %q %q", body, c)
	}
	if resp.Header.Get("Keep-Alive") != "" || resp.Header.Get("Upgrade") != "" {
		t.Errorf("hop-by-hop fields of the answer: %v", resp.Header)
	}
	resp, body = s.do(t, asking(t, "HEAD", "/document", nil))
	if resp.StatusCode != 200 || resp.ContentLength != int64(len(document)) || body != "" {
		t.Errorf("HEAD: %d, %d", resp.StatusCode, resp.ContentLength)
	}
	resp, _ = s.do(t, asking(t, "GET", "/none", nil))
	if resp.StatusCode != 204 {
		t.Errorf("204: %d", resp.StatusCode)
	}
	_, body = s.do(t, asking(t, "GET", "/gzip", nil, "Accept-Encoding", "gzip"))
	if z, err := gzip.NewReader(strings.NewReader(body)); err != nil {
		t.Errorf("gzip: %v", err)
	} else if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, document) {
		t.Errorf("gzip: %d octets, %v", len(got), err)
	}
}

func (s *site) bodies(t *testing.T) {
	big := bytes.Repeat([]byte("body of some length "), 100_000)
	want := fmt.Sprintf("%d %x", len(big), sha256.Sum256(big))
	if _, got := s.do(t, asking(t, "POST", "/sum", bytes.NewReader(big))); got != want {
		t.Errorf("a body with its length: %s", got)
	}
	if _, got := s.do(t, asking(t, "PUT", "/sum", struct{ io.Reader }{bytes.NewReader(big)})); got != want {
		t.Errorf("a chunked body: %s", got)
	}
	for body, framing := range map[io.Reader]string{
		strings.NewReader("some"): "4 []", struct{ io.Reader }{strings.NewReader("some")}: "-1 [chunked]", http.NoBody: "0 []",
	} {
		resp, got := s.do(t, asking(t, "POST", "/echo", body))
		if resp.Header.Get("X-Framing") != framing || body != http.NoBody && got != "some" {
			t.Errorf("%s: %q %s", framing, got, resp.Header.Get("X-Framing"))
		}
	}
}

func (s *site) ranges(t *testing.T) {
	resp, got := s.do(t, asking(t, "GET", "/document", nil, "Range", "bytes=16-31"))
	if resp.StatusCode != 206 || got != string(document[16:32]) || resp.Header.Get("Content-Range") == "" {
		t.Errorf("a range: %d %q", resp.StatusCode, got)
	}
	resp, got = s.do(t, asking(t, "GET", "/document", nil, "Range", "bytes=0-1,4-5"))
	if resp.StatusCode != 206 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "multipart/byteranges") || !strings.Contains(got, "01\r\n--") {
		t.Errorf("two ranges: %d %q", resp.StatusCode, got)
	}
	resp, _ = s.do(t, asking(t, "GET", "/document", nil, "Range", "bytes=9999999-"))
	if resp.StatusCode != 416 {
		t.Errorf("a range beyond the end: %d", resp.StatusCode)
	}
	resp, got = s.do(t, asking(t, "GET", "/document", nil, "If-None-Match", `"one"`))
	if resp.StatusCode != 304 || got != "" {
		t.Errorf("304: %d %q", resp.StatusCode, got)
	}
}

func (s *site) interim(t *testing.T) {
	var seen []int
	r := asking(t, "GET", "/hints", nil)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error { seen = append(seen, code); return nil }}))
	resp, got := s.do(t, r)
	if fmt.Sprint(seen) != "[103 102]" || got != "late" || resp.Header.Get("Link") == "" {
		t.Errorf("interim answers: %v %q", seen, got)
	}
	if _, got := s.do(t, asking(t, "POST", "/echo", strings.NewReader("asked for"), "Expect", "100-continue")); got != "asked for" {
		t.Errorf("Expect: %q", got)
	}
	read := &counted{r: strings.NewReader("not asked for")}
	resp, got = s.do(t, asking(t, "POST", "/no", read, "Expect", "100-continue"))
	if resp.StatusCode != 417 || !strings.HasPrefix(got, "not wanted") || read.n.Load() != 0 {
		t.Errorf("417: %d %q, %d octets of the body were taken", resp.StatusCode, got, read.n.Load())
	}
	r = asking(t, "POST", "/trailers", strings.NewReader("x"), "TE", "trailers")
	r.ContentLength, r.Trailer = -1, http.Header{"X-Late": {"1"}}
	resp, got = s.do(t, r)
	if got != `map[] ["trailers"]` || resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailers: %q, %v", got, resp.Trailer)
	}
}

type counted struct {
	r io.Reader
	n atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

func (s *site) streams(t *testing.T) {
	resp, err := s.Do(asking(t, "GET", "/stream", nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"one", "two"} {
		got := make([]byte, 3)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != part {
			t.Errorf("streamed: %q, %v", got, err)
		}
		s.step <- struct{}{}
	}
	resp.Body.Close()

	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := s.Do(asking(t, "GET", "/wait", nil).WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	select {
	case <-s.gone:
	case <-time.After(patience):
		t.Error("the server did not see that its client has gone")
	}
}

func (s *site) ends(t *testing.T) {
	if _, got := s.do(t, asking(t, "GET", "/close", nil)); got != "to the end" {
		t.Errorf("an answer that ends with the connection: %q", got)
	}
	// An answer to a body that was not read ends the connection.
	resp, err := s.Do(asking(t, "POST", "/full", io.LimitReader(zeros{}, 64<<20)))
	if err == nil {
		if resp.StatusCode != 413 {
			t.Errorf("an early answer: %d", resp.StatusCode)
		}
		resp.Body.Close()
	} else if !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") && !strings.Contains(err.Error(), "closed") {
		t.Errorf("an early answer: %v", err)
	}
	if _, got := s.do(t, asking(t, "POST", "/echo", strings.NewReader("after that"))); got != "after that" {
		t.Errorf("the next request: %q", got)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
