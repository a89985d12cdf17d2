package integration

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// A k11Way sends a canary to a name in one form; layer is where its content
// is judged. NAME, WORD, ECHO and HEX (of the raw line) are filled in.
type k11Way struct{ layer, what, script string }

var k11Ways = []k11Way{
	{"hello", "TLS", "curl -sS --max-time 10 --noproxy '*' -H 'X: WORD' https://NAME/p"},
	{"hello", "TLS v6", "curl -6 -sS --max-time 10 --noproxy '*' -H 'X: WORD' https://NAME/p"},
	{"hello", "tunnel of TLS", "curl -sS --max-time 10 https://NAME/p"},
	{"request", "HTTP", "curl -sS --max-time 10 --noproxy '*' http://NAME/WORD"},
	{"request", "HTTP v6", "curl -6 -sS --max-time 10 --noproxy '*' http://NAME/WORD"},
	{"request", "absolute form", "curl -sS --max-time 10 http://NAME/WORD"},
	{"request", "tunnel of HTTP", "curl -sS --max-time 10 -p http://NAME/WORD"},
	{"raw", "raw", harness.Probe + " tcp 'EHLO WORD\r\n' NAME:ECHO"},
	{"raw", "tunnel of raw", harness.Probe + " connect 10.200.0.1:8080 'CONNECT NAME:ECHO HTTP/1.1' HEX"},
}

// k11Fields are conditions and the layers at which they are true of what the
// ways send, with everything visible: there, and nowhere else, they may allow.
var k11Fields = map[string]string{
	`http.path != "/admin"`: "request", `!http.path.matches("^/admin")`: "request", `http.headers.all(k, k != "x-evil")`: "request",
	`http.query == ""`: "request", `!has(http.query)`: "request", `http.body_size < 1`: "request", `http.scheme != "https"`: "request",
	`tls.sni != "evil.test"`: "hello", `!tls.ech`: "hello", `!("h3" in tls.alpn)`: "hello", `tls.alpn.all(a, a != "h3")`: "hello", `tls.version >= "1.2"`: "hello",
	`!domain(http.host, "evil.test")`: "hello request", `!(http.host in ["evil.test"])`: "hello request", `http.method != "DELETE"`: "hello request",
	`!http.host.endsWith("evil.test")`: "hello request", `size(http.host) > 0`: "hello request",
	`run.tool != "rm"`: "", `!has(run.cwd)`: "", `size(run.args) == 0`: "", `docker.image == ""`: "", `!("x" in run.context)`: "",
	`!(dns.query in ["evil.test"])`: "", `size(dns.record_type) < 9`: "", `!domain(dns.query, "evil.test")`: "",
	`network.hostname != "evil.test"`: "hello request raw",
}

// K11, end to end: an allow by a field lets out what the field is visible in,
// and nothing else, on every way.
func TestK11AllowByAFieldThatIsNotThere(t *testing.T) {
	b := harness.New(t)
	for cond, layers := range k11Fields {
		rules := b.Rules("k11.yaml", "  - id: resolve\n    condition: 'dns.query == \"api.allowed.test\"'\n    action: allow\n"+
			"  - id: by-field\n    condition: '"+cond+"'\n    action: allow\n")
		k11Run(t, b, cond, rules, func(w k11Way) bool { return slices.Contains(strings.Fields(layers), w.layer) })
	}
}

// k11Blocks are conditions and the layers at which they block: where they are
// true, where an absent field is empty and makes them true, and where a
// hidden field may, or where it is an error (a key that is not there).
var k11Blocks = map[string]string{
	`http.path == "/admin"`: "hello", `http.headers["x"] == "evil"`: "hello request raw", `has(http.headers.evil)`: "hello", `http.body_size > 9`: "hello",
	`http.query.matches("evil")`: "hello", `http.headers.exists(k, k == "evil")`: "hello",
	`tls.sni == ""`: "request raw", `!has(tls.version)`: "request raw", `size(tls.alpn) == 0`: "request raw", `!("h2" in tls.alpn)`: "request raw", `tls.ech`: "",
	`http.host == ""`: "raw", `!domain(http.host, "allowed.test")`: "raw", `http.method in ["", "GET"]`: "request raw",
	`run.tool == ""`: "hello request raw", `docker.image != ""`: "", `network.port != 443`: "request raw", `!process.name.matches("^(curl|probe)$")`: "",
}

// K11, end to end: a block before an allow by name stops what it is true of,
// and what it cannot see.
func TestK11BlockByAFieldThatIsNotThere(t *testing.T) {
	b := harness.New(t)
	for cond, layers := range k11Blocks {
		for by, allow := range map[string]string{
			"name": allowRule("api.allowed.test"),
			"all":  "  - id: all\n    condition: 'true'\n    action: allow\n",
		} {
			if by == "all" && cond != `http.path == "/admin"` && cond != `tls.sni == ""` && cond != `http.host == ""` {
				continue // one condition of each layer stands for the rest
			}
			rules := b.Rules("k11.yaml", "  - id: by-field\n    priority: 1\n    condition: '"+cond+"'\n    action: block\n"+allow)
			k11Run(t, b, "block "+cond+" before an allow by "+by, rules, func(w k11Way) bool { return !slices.Contains(strings.Fields(layers), w.layer) })
		}
	}
}

// k11Run tries every way under a rule file and demands that those, and only
// those, that may pass do.
func k11Run(t *testing.T, b *harness.Bed, what, rules string, may func(k11Way) bool) {
	t.Helper()
	const name = "api.allowed.test"
	var script strings.Builder
	var words []*world.Canary
	for _, w := range k11Ways {
		k := b.Canary(t)
		words = append(words, k)
		line := strings.NewReplacer("NAME", name, "WORD", k.Word, "ECHO", port(b.Ports.Echo), "HEX", hex.EncodeToString([]byte(spoken(k.Word)))).Replace(w.script)
		fmt.Fprintf(&script, "echo ; echo '== %s'; %s\n", w.what, line)
	}
	before := len(b.Origins.Requests())
	r := b.Sandbox([]string{"-q", "--rules", rules}, "sh", "-c", script.String())
	parts := strings.Split(r.Stdout, "\n== ")[1:]
	if len(parts) != len(k11Ways) {
		t.Fatalf("%s: %q %s", what, r.Stdout, r.Stderr)
	}
	passed, refused := 0, 0
	for i, w := range k11Ways {
		_, answer, _ := strings.Cut(parts[i], "\n")
		got := strings.Contains(answer, "origin "+name) || strings.Contains(answer, "EHLO "+words[i].Word) && strings.Contains(answer, `"ok":true`)
		if got != may(w) {
			t.Errorf("%s: %s passes: %v, want %v: %s\n%s", what, w.what, got, may(w), answer, r.Stderr)
		}
		if !may(w) {
			words[i].MustNotArrive(t)
			refused++
		} else if w.layer != "raw" {
			passed++
		}
	}
	if n := len(b.Origins.Requests()) - before; n != passed {
		t.Errorf("%s: %d requests arrived, not %d", what, n, passed)
	}
	// Each attempt that was refused is one line with a reason and a rule.
	denials := b.Denials(t, r.Name, nil)
	ids := map[string]bool{}
	for _, e := range denials {
		if ids[e.ID] || e.Reason == "" || e.Rule == "" {
			t.Errorf("%s: %s", what, e)
		}
		ids[e.ID] = true
	}
	if len(denials) < refused {
		t.Errorf("%s: %d denials of %d refused attempts: %v", what, len(denials), refused, denials)
	}
}
