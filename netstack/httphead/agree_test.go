package httphead

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"

	"outcall/policy/urlpath"
)

// agree demands that net/http reads a head which we accept, and what we send
// for it, as we do: the same host, path, query and framing. It may refuse what
// we accept only for the reasons in stricter.
func agree(t *testing.T, raw []byte) (accepted bool) {
	t.Helper()
	r, n, err := ParseRequest(raw)
	if err != nil {
		return false
	}
	theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		if !stricter(r, err) {
			t.Errorf("we accept %q, net/http does not: %v", raw[:n], err)
		}
	} else {
		same(t, raw[:n], r, theirs)
	}
	if r.Form == Tunnel {
		return true
	}
	sent := r.Append(nil, false)
	theirs, err = http.ReadRequest(bufio.NewReader(bytes.NewReader(sent)))
	if err != nil {
		if !stricter(r, err) {
			t.Errorf("we send %q, net/http does not take it: %v", sent, err)
		}
		return true
	}
	same(t, sent, r, theirs)
	if theirs.RequestURI != target(r) {
		t.Errorf("we judged %q and sent %q", target(r), theirs.RequestURI)
	}
	// What a handler of theirs sees is one of the readings that are judged.
	if !readAs(r.Path, theirs.URL.Path) {
		t.Errorf("we judged %q and %q, and a handler of net/http sees %q", r.Path, urlpath.Readings(r.Path), theirs.URL.Path)
	}
	return true
}

// stricter knows what net/http refuses although it can be read in one way only:
// a query with an escape that is none.
func stricter(r *Request, err error) bool {
	return strings.Contains(err.Error(), "invalid URL escape") && strings.Contains(r.Query, "%")
}

func target(r *Request) string {
	if r.HasQuery {
		return r.Path + "?" + r.Query
	}
	return r.Path
}

func same(t *testing.T, raw []byte, r *Request, theirs *http.Request) {
	t.Helper()
	if theirs.Method != r.Method || theirs.ProtoMajor != 1 || theirs.ProtoMinor != r.Minor {
		t.Errorf("%q: %s HTTP/1.%d, and for net/http %s %s", raw, r.Method, r.Minor, theirs.Method, theirs.Proto)
	}
	host := theirs.Host
	if r.Form == Tunnel {
		host = theirs.URL.Host
	}
	if a, err := ParseAuthority(host); err != nil || a.Host != r.Host.Host || a.PortOr(80) != r.Host.PortOr(80) && r.Form != Tunnel {
		t.Errorf("%q: host %q, and for net/http %q", raw, r.Host, host)
	}
	chunked := len(theirs.TransferEncoding) > 0
	if chunked != r.Body.Chunked || !chunked && theirs.ContentLength != r.Body.Length {
		t.Errorf("%q: body %+v, and for net/http %d %q", raw, r.Body, theirs.ContentLength, theirs.TransferEncoding)
	}
}

// readAs reports that an unescaped path is one of the readings of a judged one.
// Whether it has a slash at its end is no matter here: a server that unescapes
// first may see one that is escaped.
func readAs(judged, seen string) bool {
	clean := path.Clean(seen)
	for _, p := range append(urlpath.Readings(judged), judged) {
		if u, err := url.PathUnescape(p); err == nil && path.Clean(u) == clean {
			return true
		}
	}
	return false
}

// heads are shapes of requests as clients and attackers send them.
var heads = []string{
	"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"GET /a/./b/../%63//d%2fe;p=1?q=%20&x HTTP/1.1\r\nhost: A.Test.:80\r\nAccept: */*\r\nUser-Agent: x y\r\n\r\n",
	"GET http://a.test:80/x?y HTTP/1.1\r\nHost: a.test\r\nProxy-Connection: keep-alive\r\n\r\n",
	"GET http://[2001:db8::1]:8080/ HTTP/1.1\r\nHost: [2001:DB8::1]:8080\r\n\r\n",
	"POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
	"POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
	"PUT /p HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
	"GET /c HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"OPTIONS http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
	"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
	"GET /chat HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGVzdA==\r\n\r\n",
	"DELETE /d HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nCookie: a=b; c=d\r\nCookie: e\r\n\r\n",
	"HEAD /%E2%82%AC/%7euser HTTP/1.1\r\nHost: 192.0.2.1\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n",
	"PATCH /x HTTP/1.1\r\nHost: xn--nxasmq6b.test\r\nX-A: \xc3\xa4\r\nX-B:\r\nX-C: \t z \t\r\n\r\n",
}

// odds are the octets with which heads are broken.
var odds = []string{"\x00", "\t", "\n", "\r", "\r\n", "\x0b", "\x0c", " ", "\x7f", "\x85", "\xa0", "\xff", ":", ";", ",", "@", "#", "?", "%", "%00", "%2e",
	"%2f", "/", "\\", "..", "//", "[", "]", "_", "0", "+", "-", "\"", "\r\n ", "\r\nHost: e.test", "\r\nContent-Length: 1", "\r\nTransfer-Encoding: chunked",
	"\r\nTransfer-Encoding: identity", "\r\nConnection: host"}

// TestH1AgreesWithNetHTTP breaks each head at each place in each way, by an
// octet more, another octet, and one less. What we accept net/http accepts, and
// reads alike.
func TestH1AgreesWithNetHTTP(t *testing.T) {
	tried, accepted := 0, 0
	for _, h := range heads {
		if !agree(t, []byte(h)) {
			t.Errorf("refused: %q", h)
		}
		end := strings.Index(h, "\r\n\r\n") + 4
		for i := range end {
			for _, o := range append(odds, "") {
				for _, cut := range []int{0, 1} {
					tried++
					if agree(t, []byte(h[:i]+o+h[i+cut:])) {
						accepted++
					}
				}
			}
		}
	}
	if accepted == 0 || accepted == tried {
		t.Errorf("%d of %d heads were accepted", accepted, tried)
	}
}

// TestH1BodiesAgreeWithNetHTTP: bodies that we pass on are read by net/http to
// the same octets, also as we frame them anew, and end at the same place.
func TestH1BodiesAgreeWithNetHTTP(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
	const body = "5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX: y\r\n\r\n"
	const next = "GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n"
	for i := range len(body) {
		for _, o := range append(odds, "") {
			for _, cut := range []int{0, 1} {
				broken := body[:i] + o + body[i+cut:]
				br := bufio.NewReader(strings.NewReader(broken + next))
				ours, err := io.ReadAll(NewChunked(br))
				if err != nil {
					continue
				}
				rest, _ := io.ReadAll(br)
				tr := bufio.NewReader(strings.NewReader(head + broken + next))
				r, err := http.ReadRequest(tr)
				if err != nil {
					t.Fatal(err)
				}
				theirs, err := io.ReadAll(r.Body)
				after, _ := io.ReadAll(tr)
				if err != nil || !bytes.Equal(ours, theirs) || !bytes.Equal(rest, after) {
					t.Errorf("%q: %q then %q, and for net/http %q then %q, %v", broken, ours, rest, theirs, after, err)
				}
			}
		}
	}
}

// FuzzAgree is TestH1AgreesWithNetHTTP for any octets.
func FuzzAgree(f *testing.F) {
	for _, h := range heads {
		f.Add([]byte(h))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { agree(t, raw) })
}

// FuzzResponseAgrees: an answer that we pass on is read by net/http's client as
// we read it, also as we write it anew.
func FuzzResponseAgrees(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 204 No\r\n\r\n", "HTTP/1.0 200\nA: b\n\n",
		"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 2, 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n\r\n"} {
		f.Add([]byte(s), "GET")
	}
	f.Fuzz(func(t *testing.T, raw []byte, method string) {
		if method != "HEAD" {
			method = "GET"
		}
		r, _, err := ParseResponse(raw, method)
		if err != nil || r.Status < 200 {
			return
		}
		sent := r.Append(nil, r.Body, r.Close)
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(sent)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q became %q: %v", raw, sent, err)
		}
		length := fmt.Sprint(theirs.ContentLength, len(theirs.TransferEncoding) > 0)
		want := fmt.Sprint(r.Body.Length, false)
		switch {
		case r.Body.Chunked:
			want = fmt.Sprint(-1, true)
		case method == "HEAD" || r.Status == 204 || r.Status == 304:
			return // a length that is told, of a body that does not come
		}
		if theirs.StatusCode != r.Status || length != want {
			t.Fatalf("%q became %q: %d %s, want %s", raw, sent, theirs.StatusCode, length, want)
		}
	})
}
