package netstack

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"outcall/netstack/egress"
	"outcall/policy"
)

// origin is an ordinary HTTP server behind one address.
func webServer(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if r.Header.Get("Upgrade") == "websocket" {
			fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(c, br)
			return
		}
		if r.Header.Get("Expect") != "" {
			fmt.Fprint(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		body, _ := io.ReadAll(r.Body)
		out := fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body)
		if r.URL.Path == "/chunked" {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(out), out)
			continue
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(out))
		if r.Method != "HEAD" {
			fmt.Fprint(c, out)
		}
	}
}

// ask sends raw bytes and reads one response.
func ask(t testing.TB, c net.Conn, br *bufio.Reader, method, raw string) (int, string, http.Header) {
	t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatalf("write: %v", err)
	}
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	if method == "CONNECT" && resp.StatusCode == 200 {
		return 200, "", resp.Header
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: body: %v", raw, err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func webBed(t testing.TB, rules string) (*bed, *server, netip.AddrPort) {
	b := newBed(t, rules)
	b.pins.pin("a.test", shared)
	b.pins.pin("e.test", shared)
	dst := ap(shared, 80)
	return b, b.serve(webServer, dst), dst
}

func TestHTTPKeepAlive(t *testing.T) {
	b, srv, dst := webBed(t, rule("b", "block", `http.path.startsWith("/secret")`)+rule("a", "allow", allowA))
	c := b.connect(dst)
	br := bufio.NewReader(c)
	for _, q := range []struct{ method, raw, want string }{
		{"GET", "GET /one?q=1 HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: Basic c2VjcmV0\r\n\r\n", "GET /one?q=1 "},
		{"POST", "POST /two HTTP/1.1\r\nHost: A.TEST:80\r\nContent-Length: 4\r\n\r\nbody", "POST /two body"},
		{"POST", "POST /chunked HTTP/1.1\r\nHost: a.test.\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n", "POST /chunked abcde"},
		{"PUT", "PUT /x HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", "PUT /x hi"},
		{"HEAD", "HEAD /h HTTP/1.1\r\nHost: a.test\r\n\r\n", ""},
		{"OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", "OPTIONS * "},
		{"GET", "GET /a/./b/../%63//d%2fe HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /a/c/d%2Fe "},
	} {
		code, body, _ := ask(t, c, br, q.method, q.raw)
		for code == 100 {
			code, body, _ = ask(t, c, br, q.method, "")
		}
		if code != 200 || body != q.want {
			t.Errorf("%q: %d %q, want %q", q.raw, code, body, q.want)
		}
	}
	got := srv.text()
	for _, not := range []string{"X-Hop", "Proxy-Authorization", "T: 1", "x=y"} {
		if strings.Contains(got, not) {
			t.Errorf("%q reached the origin", not)
		}
	}
	e := b.log.wait(t, "request line", func(e policy.Event) bool { return e.Layer == "request" && e.Path == "/two" })
	if e.Verdict != "allow" || e.Method != "POST" || e.Host != "a.test" {
		t.Errorf("%+v", e)
	}
	code, body, h := ask(t, c, br, "GET", "GET /x/%2e%2e/secret/key HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if code != 403 || h.Get("X-Outcall-Block-Reason") != "b" || !strings.HasPrefix(body, "Blocked by outcall: b (d-") {
		t.Errorf("%d %q %v", code, body, h)
	}
	if strings.Contains(srv.text(), "secret") {
		t.Error("the denied request arrived")
	}
}

// TestH1H11Smuggling: what can be read in two ways is answered 400, or judged
// as what a tolerant server would take it for; nothing of it arrives.
func TestH1H11Smuggling(t *testing.T) {
	b, srv, dst := webBed(t, rule("b", "block", `http.path == "/admin"`)+rule("a", "allow", allowA))
	good := "GET /first HTTP/1.1\r\nHost: a.test\r\n\r\n"
	for _, raw := range []string{
		"GET /admin HTTP/1.1\r\nHost: e.test\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /admin\r\n",
		"\r\nGET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		" GET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /admin HTTP/1.1\nHost: a.test\n\n",
		"get /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET\t/admin\tHTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /admin http/1.1\r\nHost: a.test\r\n\r\n",
		"GET /admin HTTP/1.2\r\nHost: a.test\r\n\r\n",
		"GET  /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET //admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /%61dmin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /x/..;/admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /admin%00 HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /..\\admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /%c0%afadmin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET http://a.test/admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET http://e.test/admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET http://u@a.test/admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a.test\r\nhost: e.test\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost:\r\n\r\n",
		"GET /admin HTTP/1.1\r\n\r\n",
		"GET /admin HTTP/1.0\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a.test:81\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a.test, e.test\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: u@a.test\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a\x00.test\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: 93.184.216.34\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost : a.test\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a.test\r\n X: folded\r\n\r\n",
		"POST /admin HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST /admin HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"POST /admin HTTP/1.1\r\nHost: a.test\r\nContent-Length: +3\r\n\r\nabc",
		"POST /admin HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"POST /admin HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
		"POST /admin HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a.test\r\nConnection: host\r\n\r\n",
		"GET /admin HTTP/1.1\r\nHost: a.test\r\nExpect: magic\r\n\r\n",
		"FROB /admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"TRACE /admin HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc",
		"GET /%2561dmin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /x%2f..%2fadmin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /x/%252e%252e/admin HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /admin;x=1 HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET /%2Fadmin HTTP/1.1\r\nHost: a.test\r\n\r\n",
	} {
		for _, second := range []bool{false, true} {
			c := b.connect(dst)
			br := bufio.NewReader(c)
			want := ""
			if second {
				before := srv.text()
				if code, _, _ := ask(t, c, br, "GET", good); code != 200 {
					t.Fatalf("the good request: %d", code)
				}
				want = before + "GET /first HTTP/1.1\r\nHost: a.test\r\n\r\n"
			} else {
				want = srv.text()
			}
			code, _, _ := ask(t, c, br, "GET", raw)
			if code != 400 && code != 403 {
				t.Errorf("%q (second %v): %d", raw, second, code)
			}
			if got := srv.text(); got != want {
				t.Errorf("%q arrived: %q", raw, strings.TrimPrefix(got, want))
			}
			c.Close()
		}
	}
}

func TestPipelinedRequestsAreJudgedOneByOne(t *testing.T) {
	b, srv, dst := webBed(t, rule("a", "allow", allowA))
	c := b.connect(dst)
	br := bufio.NewReader(c)
	code, _, _ := ask(t, c, br, "GET", "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: e.test\r\n\r\nGET /3 HTTP/1.1\r\nHost: a.test\r\n\r\n")
	code2, _, _ := ask(t, c, br, "GET", "")
	if code != 200 || code2 != 403 {
		t.Errorf("%d, %d", code, code2)
	}
	if got := srv.text(); strings.Contains(got, "/2") || strings.Contains(got, "/3") {
		t.Errorf("arrived: %q", got)
	}
}

func TestWebSocket(t *testing.T) {
	b, _, dst := webBed(t, rule("b", "block", `http.path == "/no"`)+rule("a", "allow", allowA))
	ws := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
	}
	c := b.connect(dst)
	br := bufio.NewReader(c)
	if code, _, _ := ask(t, c, br, "GET", ws("/ok")); code != 101 {
		t.Fatalf("upgrade: %d", code)
	}
	roundTrip(t, struct {
		io.Reader
		io.Writer
	}{br, c}, "GET /admin HTTP/1.1\r\nHost: e.test\r\n\r\n") // frames are not requests
	c = b.connect(dst)
	if code, _, _ := ask(t, c, bufio.NewReader(c), "GET", ws("/no")); code != 403 {
		t.Errorf("denied upgrade: %d", code)
	}
}

func TestServerMustNotSwitchUnasked(t *testing.T) {
	b, _, dst := webBed(t, rule("a", "allow", allowA))
	b.serve(func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		drain(c)
	}, dst)
	c := b.connect(dst)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
	if got, _ := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.1 502 ") || !strings.Contains(string(got), "switches protocols") {
		t.Errorf("%q", got)
	}
}

// proxied opens a connection to the explicit proxy.
func (b *bed) proxied() (net.Conn, *bufio.Reader) {
	c := b.connect(ap(gw4, 8080))
	return c, bufio.NewReader(c)
}

func connectTo(target string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"
}

func TestProxyConnect(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA))
	b.pins.pin("e.test", shared)
	srv := b.serve(tlsEcho(&tls.Config{}), ap(shared, 443))
	c, br := b.proxied()
	if code, _, _ := ask(t, c, br, "CONNECT", connectTo("A.test.:443")); code != 200 {
		t.Fatalf("CONNECT: %d", code)
	}
	tc := tls.Client(c, tlsClient("a.test"))
	roundTrip(t, tc, "through the tunnel\n")
	tc.Close()
	e := b.log.wait(t, "connect", func(e policy.Event) bool { return e.Layer == "connect" && e.Verdict == "allow" })
	if e.Host != "a.test" || e.IP != shared.String() || e.Rule != "a" {
		t.Errorf("%+v", e)
	}
	b.log.wait(t, "end", func(e policy.Event) bool { return e.Event == "end" })
	n := len(srv.text())

	c, br = b.proxied()
	ask(t, c, br, "CONNECT", connectTo("a.test:443"))
	if err := tls.Client(c, tlsClient("e.test")).Handshake(); err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("denied SNI in a tunnel: %v", err)
	}
	c, br = b.proxied()
	ask(t, c, br, "CONNECT", connectTo("a.test:443"))
	if code, _, _ := ask(t, c, br, "GET", "GET / HTTP/1.1\r\nHost: e.test\r\n\r\n"); code != 403 {
		t.Errorf("plain HTTP in a tunnel: %d", code)
	}
	c, br = b.proxied()
	code, body, h := ask(t, c, br, "CONNECT", connectTo("e.test:443"))
	if code != 403 || h.Get("X-Outcall-Block-Reason") != policy.DefaultPolicy || !strings.Contains(body, "Blocked by outcall: default policy (d-") {
		t.Errorf("%d %q %v", code, body, h)
	}
	if len(srv.text()) != n {
		t.Error("denied bytes arrived")
	}
	for _, q := range b.names.asked {
		if q.Name == "e.test" {
			t.Error("a denied name was asked for")
		}
	}
}

// TestK13Targets: what is not one canonical target is refused, and what is
// reaches its verdict.
func TestK13Targets(t *testing.T) {
	b := newBed(t, rule("all", "allow", "true"))
	b.names.addrs["host.outcall.internal"] = []netip.Addr{netip.MustParseAddr("10.200.0.254")}
	for _, target := range []string{"127.1:443", "0x7f.1:443", "0x7f000001:80", "2130706433:80", "0:80", "0177.0.0.1:80",
		"[::ffff:a9fe:a9fe]:80", "[::ffff:169.254.169.254]:80", "[fe80::1%25eth0]:80", "[fe80::1%eth0]:80", "a.test:0", "a.test:65616",
		"a.test:-1", "a.test", "u@a.test:443", "u:p@a.test:443", "10.200.0.1:8080", "[fd0c:a11::1]:8080", "host.outcall.internal:80",
		"169.254.169.254:80", "127.0.0.1:80", "[::1]:80", "a\x00.test:443", "a%00.test:443", "a..test:443", "a.test..:443", ".a.test:443",
		"a.test:443/x", "a.test:443?x", "[::1:80", "::1:80", "", ":443", "*:443", "0.0.0.0:80", "[::]:80"} {
		for _, raw := range []string{connectTo(target), "GET http://" + target + "/ HTTP/1.1\r\nHost: " + target + "\r\n\r\n"} {
			if strings.HasPrefix(raw, "GET") && (target == "a.test" || strings.HasPrefix(target, "a.test:443")) {
				continue // a good URL
			}
			c, br := b.proxied()
			if code, _, _ := ask(t, c, br, "CONNECT", raw); code != 400 && code != 403 {
				t.Errorf("%q: %d", raw, code)
			}
			c.Close()
		}
	}
	if n := b.dial.count(); n != 0 {
		t.Errorf("%d dials: %v", n, b.dial.dialed)
	}
}

func TestProxyAbsoluteForm(t *testing.T) {
	b := newBed(t, rule("b", "block", `http.path == "/secret"`)+rule("a", "allow", allowA)+rule("c", "allow", `network.hostname == "c.test"`))
	b.names.addrs["c.test"] = []netip.Addr{netip.MustParseAddr("93.184.216.40"), netip.MustParseAddr("93.184.216.41")}
	srv := b.serve(webServer, ap(shared, 80), ap(netip.MustParseAddr("93.184.216.41"), 8000))
	c, br := b.proxied()
	for _, q := range []struct{ url, host, want string }{
		{"http://a.test/x?y", "a.test", "GET /x?y "},
		{"http://A.TEST:80/again", "a.test", "GET /again "},
		{"http://c.test:8000/other", "c.test:8000", "GET /other "}, // its first address refuses
		{"http://a.test", "a.test", "GET / "},
	} {
		code, body, _ := ask(t, c, br, "GET", "GET "+q.url+" HTTP/1.1\r\nHost: "+q.host+"\r\nProxy-Connection: keep-alive\r\n\r\n")
		if code != 200 || body != q.want {
			t.Errorf("%s: %d %q", q.url, code, body)
		}
	}
	if strings.Contains(srv.text(), "http://") || strings.Contains(srv.text(), "Proxy-") {
		t.Error("the proxy's form reached the origin")
	}
	if code, _, _ := ask(t, c, br, "GET", "GET http://a.test/secret HTTP/1.1\r\nHost: a.test\r\n\r\n"); code != 403 {
		t.Errorf("blocked path: %d", code)
	}
}

func TestProxyAnswers(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA)+rule("n", "allow", `network.hostname == "none.test"`)+rule("h", "allow", `http.path == "/p"`))
	b.dial.fail[ap(shared, 81)] = egress.Timeout
	b.dial.fail[ap(shared, 82)] = egress.Refused
	for raw, want := range map[string]int{
		"GET /outcall-health HTTP/1.1\r\nHost: 10.200.0.1:8080\r\n\r\n":                       200,
		"GET http://10.200.0.1:8080/outcall-health HTTP/1.1\r\nHost: 10.200.0.1:8080\r\n\r\n": 200,
		"GET http://10.200.0.1:8080/ HTTP/1.1\r\nHost: 10.200.0.1:8080\r\n\r\n":               403,
		"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n":                                              400,
		"nonsense\r\n\r\n":                                                                    400,
		"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n":                                400,
		"GET http://none.test/ HTTP/1.1\r\nHost: none.test\r\n\r\n":                           502,
		connectTo("a.test:81"):                                                                504,
		connectTo("a.test:82"):                                                                502,
		// open at request, and the dns layer does not answer for the name
		connectTo("unknown.test:80"): 403,
	} {
		c, br := b.proxied()
		code, body, _ := ask(t, c, br, "GET", raw)
		if code != want {
			t.Errorf("%q: %d %q, want %d", raw, code, body, want)
		}
		c.Close()
	}
	if st := b.Stats().Proxy; st.Requests == 0 || st.Blocked == 0 {
		t.Errorf("%+v", st)
	}
}

func TestHTTPLimits(t *testing.T) {
	b, srv, dst := webBed(t, rule("a", "allow", allowA))
	c := b.connect(dst)
	if code, _, _ := ask(t, c, bufio.NewReader(c), "GET", "GET / HTTP/1.1\r\nHost: a.test\r\nX: "+strings.Repeat("x", 65<<10)+"\r\n\r\n"); code != 431 {
		t.Errorf("a head of 65 KiB: %d", code)
	}
	c = b.connect(dst)
	if code, _, _ := ask(t, c, bufio.NewReader(c), "GET", "GET / HTTP/1.1\r\nHost: a.test\r\n"); code != 408 {
		t.Errorf("an endless head: %d", code)
	}
	c = b.connect(dst)
	head := "GET / HTTP/1.1\r\nHost: a.test\r\nX: " + strings.Repeat("x", 60<<10) + "\r\n\r\n"
	if code, _, _ := ask(t, c, bufio.NewReader(c), "GET", head); code != 200 {
		t.Errorf("a head of 60 KiB: %d", code)
	}
	if n := strings.Count(srv.text(), "GET"); n != 1 {
		t.Errorf("%d requests arrived", n)
	}
}

func TestProxyIdleEnds(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowA), func(_ *Config, w *timeouts) { w.idle = 50 * time.Millisecond })
	c, _ := b.proxied()
	if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}
