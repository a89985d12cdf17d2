package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// curl speaks each version of HTTP over TCP, over both families, with and
// without the proxy; HTTP/2 without TLS is refused in words that it shows, or
// goes on as HTTP/1.1 where it asks first.
func TestCurlMatrix(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	type try struct{ flags, scheme, want string }
	tries := []try{
		{"--http1.0", "http", "200 1.1 HTTP/1.0"}, {"--http1.1", "http", "200 1.1 HTTP/1.1"}, {"--http2", "http", "200 1.1 HTTP/1.1"},
		{"--http1.1", "https", "200 1.1 HTTP/1.1"}, {"--http2", "https", "200 2 HTTP/2.0"},
		{"--http2-prior-knowledge", "https", "200 2 HTTP/2.0"},
		{"--tls-max 1.2 --http1.1", "https", "200 1.1 HTTP/1.1"}, {"--http1.1 -H Expect:100-continue -d body", "http", "200 1.1 HTTP/1.1"},
		{"--http1.1 -H Transfer-Encoding:chunked -d body", "http", "200 1.1 HTTP/1.1"}, {"--http1.1 -r 0-3", "http", "200 1.1 HTTP/1.1"},
		{"--http1.1 -I", "http", "200 1.1 HTTP/1.1"}, {"--http1.1 --compressed", "http", "200 1.1 HTTP/1.1"},
	}
	var script strings.Builder
	var names []string
	for _, family := range []string{"-4 --noproxy *", "-6 --noproxy *", "", "-p"} {
		for _, c := range tries {
			if family == "-p" && c.scheme == "https" {
				continue // a tunnel in any case
			}
			names = append(names, family+" "+c.flags+" "+c.scheme)
			fmt.Fprintf(&script, "curl -sS -m 20 %s %s -o /dev/null -w '%%{http_code} %%{http_version} %s\\n' %s://%s/%d\n",
				strings.ReplaceAll(family, "*", "'*'"), c.flags, strings.ReplaceAll(c.want, " ", "_"), c.scheme, a, len(names))
		}
	}
	r := b.Sandbox(harness.Allow(a), "sh", "-c", script.String())
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if len(lines) != len(names) {
		t.Fatalf("%d answers to %d requests: %s %s", len(lines), len(names), r.Stdout, r.Stderr)
	}
	proto := map[string]string{}
	for _, q := range b.Origins.Requests() {
		proto[q.URI] = q.Proto
	}
	for i, l := range lines {
		w := strings.Fields(l)
		want := strings.Split(w[len(w)-1], "_")
		if got := []string{w[0], w[1], proto[fmt.Sprintf("/%d", i+1)]}; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v: %s", names[i], got, want, r.Stderr)
		}
	}

	r = b.Sandbox(harness.Allow(a), "sh", "-c", "curl -sS -m 20 --noproxy '*' -v --http2-prior-knowledge http://"+a+"/h2c")
	if r.Code == 0 || r.Code == 28 {
		t.Errorf("HTTP/2 without TLS: exit code %d", r.Code)
	}
	e := b.OneDenial(t, r.Name, "/curl", nil)
	if e.Layer != "request" || !e.Structural || !strings.Contains(e.Reason, "HTTP/2 without TLS") {
		t.Errorf("HTTP/2 without TLS: %s", e)
	}
	mustContain(t, "what curl -v shows", r.Stderr, "GOAWAY, error=13")
	for _, q := range b.Origins.Requests() {
		if q.URI == "/h2c" {
			t.Errorf("HTTP/2 without TLS arrived: %+v", q)
		}
	}
}
