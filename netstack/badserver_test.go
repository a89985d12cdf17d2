package netstack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"outcall/netstack/httphead"
	"outcall/policy"
)

// TestH1ServerThatMisbehaves: whatever a server answers, the request behind it
// is judged, and what cannot be passed on is told or ends the connection.
func TestH1ServerThatMisbehaves(t *testing.T) {
	whole := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, c := range map[string]struct{ method, answer, want string }{
		"both framings":         {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 502 "},
		"two lengths":           {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 502 "},
		"a negative length":     {"GET", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", "HTTP/1.1 502 "},
		"another coding":        {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 502 "},
		"no HTTP":               {"GET", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 502 "},
		"NUL in a field":        {"GET", "HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", "HTTP/1.1 502 "},
		"a folded field":        {"GET", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", "HTTP/1.1 502 "},
		"endless head":          {"GET", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 20_000), "HTTP/1.1 502 "},
		"a flood of 1xx":        {"GET", strings.Repeat("HTTP/1.1 103 X\r\n\r\n", 1000) + whole, "HTTP/1.1 103 "},
		"a switch unasked":      {"GET", "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 502 "},
		"two answers":           {"GET", whole + whole, "HTTP/1.1 200 "},
		"an answer in a body":   {"GET", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n" + whole, "HTTP/1.1 204 "},
		"a length of nothing":   {"GET", "HTTP/1.1 204 No\r\nContent-Length: 40\r\n\r\n" + whole, "HTTP/1.1 204 "},
		"304 with a body":       {"GET", "HTTP/1.1 304 Not\r\nContent-Length: 40\r\n\r\n" + whole, "HTTP/1.1 304 "},
		"HEAD with a body":      {"HEAD", whole, "HTTP/1.1 200 "},
		"a broken chunk":        {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", "HTTP/1.1 200 "},
		"a chunk without end":   {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("f", 5000), "HTTP/1.1 200 "},
		"splitting in a reason": {"GET", "HTTP/1.1 200 OK\rHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 502 "},
		"a body cut short":      {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok", "HTTP/1.1 200 "},
	} {
		for _, way := range ways {
			b, _, dst := webBed(t, rule("b", "block", `http.path == "/admin"`)+rule("a", "allow", allowA))
			srv := b.serve(func(conn net.Conn) {
				br := bufio.NewReader(conn)
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				_, _ = io.WriteString(conn, c.answer)
				if name != "a body cut short" {
					_, _ = io.Copy(io.Discard, br) // until we are shut out
				}
			}, dst)
			to, target := dst, ""
			if way == "proxy" {
				to, target = ap(gw4, 8080), "http://a.test"
			}
			conn := b.connect(to)
			send := func(method, path string) {
				fmt.Fprintf(conn, "%s %s%s HTTP/1.1\r\nHost: a.test\r\n\r\n", method, target, path)
			}
			send(c.method, "/first")
			send("GET", "/admin")
			got, err := io.ReadAll(io.LimitReader(conn, 1<<20))
			var timeout net.Error
			if !strings.HasPrefix(string(got), c.want) || errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("%s, %s: %.120q, %v", name, way, got, err)
			}
			if strings.Contains(srv.text(), "admin") {
				t.Errorf("%s, %s: the blocked request arrived", name, way)
			}
			if n := strings.Count(string(got), "HTTP/1.1 200"); n > 1 {
				t.Errorf("%s, %s: %d answers to one request: %q", name, way, n, got)
			}
			conn.Close()
		}
	}
}

// TestH1BodyThatIsARequest: a body that a server might not read never stands
// where its next request would.
func TestH1BodyThatIsARequest(t *testing.T) {
	inner := "GET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n"
	b, _, dst := webBed(t, rule("b", "block", `http.path == "/admin"`)+rule("a", "allow", allowA))
	// A server that answers each head and knows no bodies.
	var mu = make(chan struct{}, 1)
	var acted []string
	b.serve(func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			mu <- struct{}{}
			acted = append(acted, r.Method+" "+r.URL.Path)
			<-mu
			status := "200 OK"
			if r.Header.Get("Expect") != "" {
				status = "417 No"
			}
			fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", status)
			if r.Close {
				return
			}
		}
	}, dst)
	for _, raw := range []string{
		fmt.Sprintf("GET /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
		fmt.Sprintf("DELETE /b HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
		fmt.Sprintf("POST /c HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner),
	} {
		c := b.connect(dst)
		br := bufio.NewReader(c)
		code, _, _ := ask(t, c, br, "GET", raw)
		if rest, err := io.ReadAll(br); code != 200 && code != 417 || err != nil || len(rest) != 0 {
			t.Errorf("%q: %d, then %q, %v", raw, code, rest, err)
		}
	}
	mu <- struct{}{}
	if !slices.Equal(acted, []string{"GET /a", "DELETE /b", "POST /c"}) {
		t.Errorf("the server acted on %q", acted)
	}
}

// TestH1ConnectionsOfTwoNames: two allowed names of one address never share a
// connection to it, since a server may look at the first Host alone.
func TestH1ConnectionsOfTwoNames(t *testing.T) {
	for _, way := range ways {
		b := newBed(t, rule("a", "allow", allowA)+rule("e", "allow", `network.hostname == "e.test" || dns.query == "e.test"`))
		b.names.addrs["e.test"] = b.names.addrs["a.test"]
		b.pins.pin("a.test", shared)
		b.pins.pin("e.test", shared)
		b.serve(func(c net.Conn) {
			br := bufio.NewReader(c)
			var first string
			for {
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				if first == "" {
					first = r.Host
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(first), first)
			}
		}, ap(shared, 80))
		to := ap(shared, 80)
		if way == "proxy" {
			to = ap(gw4, 8080)
		}
		c := b.connect(to)
		br := bufio.NewReader(c)
		for _, host := range []string{"a.test", "e.test", "e.test", "a.test"} {
			target := "/"
			if way == "proxy" {
				target = "http://" + host + "/"
			}
			if code, body, _ := ask(t, c, br, "GET", "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); code != 200 || body != host {
				t.Errorf("%s: %s was answered by %q, %d", way, host, body, code)
			}
		}
	}
}

// TestHTTP2WithPriorKnowledge: refused in HTTP/2, so that its client can tell why.
func TestHTTP2WithPriorKnowledge(t *testing.T) {
	b, srv, dst := webBed(t, rule("a", "allow", allowA))
	c := b.connect(dst)
	_, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	got, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(got), "\x00\x00\x00\x04\x00\x00\x00\x00\x00") || !strings.Contains(string(got), "\x00\x00\x00\x0dBlocked by outcall: ") ||
		!strings.Contains(string(got), httphead.ErrHTTP2.Error()) {
		t.Errorf("%q, %v", got, err)
	}
	e := b.log.deny(t, "request")
	if !e.Structural || e.Reason != httphead.ErrHTTP2.Error() || srv.text() != "" {
		t.Errorf("%+v, %q arrived", e, srv.text())
	}
}

// TestH3EveryReadingIsJudged: an allow by path holds for all that a server may
// read there, and the upstream gets what was judged.
func TestH3EveryReadingIsJudged(t *testing.T) {
	b, srv, dst := webBed(t, rule("n", "allow", `dns.query == "a.test"`)+
		rule("a", "allow", `network.hostname == "a.test" && (http.path.startsWith("/repos/myorg/") || http.path.startsWith("/@s")) && !http.query.contains("drop")`))
	for path, want := range map[string]string{
		"/repos/myorg/x":                     "/repos/myorg/x",
		"/repos//myorg/./x":                  "/repos/myorg/x",
		"/repos/%6dyorg/x%2fy":               "/repos/myorg/x%2Fy",
		"/@s%2fp":                            "/@s%2Fp",
		"/repos/myorg/x;v=1":                 "/repos/myorg/x;v=1",
		"/repos/myorg/x?a=%64":               "/repos/myorg/x?a=%64",
		"/repos/myorg-evil/x":                "",
		"/repos/myorg":                       "",
		"/repos/MyOrg/x":                     "",
		"/repos/myorg/../evil/x":             "",
		"/repos/myorg/%2e%2e/evil/x":         "",
		"/repos/myorg/x%2f..%2f..%2fevil":    "",
		"/repos/myorg/%252e%252e/evil":       "",
		"/repos/myorg/x/..%252f..%252f..%2f": "",
		"/repos/myorg;/../../evil":           "",
		"/repos;x/myorg/x":                   "",
		"/repos/myorg/x?a=%64rop":            "",
		"/repos/myorg/%00":                   "",
		"/repos/myorg/\u2025/evil":           "/repos/myorg/%E2%80%A5/evil",
		"/repos/myorg/\uff0e\uff0e/evil":     "/repos/myorg/%EF%BC%8E%EF%BC%8E/evil",
	} {
		before := srv.text()
		c := b.connect(dst)
		code, _, _ := ask(t, c, bufio.NewReader(c), "GET", "GET "+path+" HTTP/1.1\r\nHost: a.test\r\n\r\n")
		line, _, _ := strings.Cut(strings.TrimPrefix(srv.text(), before), "\r\n")
		switch {
		case want != "" && (code != 200 || line != "GET "+want+" HTTP/1.1"):
			t.Errorf("%s: %d, %q arrived", path, code, line)
		case want == "" && (code != 403 && code != 400 || line != ""):
			t.Errorf("%s: %d, %q arrived", path, code, line)
		}
		c.Close()
	}
	e := b.log.wait(t, "the reading in the reason", func(e policy.Event) bool { return strings.Contains(e.Reason, "may read the path as /") })
	if e.Verdict != "deny" || e.Layer != "request" {
		t.Errorf("%+v", e)
	}
}
