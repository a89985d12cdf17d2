package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		name, file string
		want       string // a part of the only warning; "" means none
	}{
		{"none", ruleYAML(`allow dns.query == "a.test" || http.host == "a.test"`), ""},
		{"no rules", `version: "1"`, "no rules are loaded"},
		{"unused definition", "version: \"1\"\ndefinitions:\n  a: 'true'\nrules:\n  - {id: x, action: allow, condition: '\"$a\" != dns.query && dns.query == \"b\"'}\n", "test.yaml:3: definition 'a' is not used"},
		{"used by another definition only", "version: \"1\"\ndefinitions:\n  a: 'dns.query == \"a\"'\n  b: $a\nrules:\n  - {id: x, action: allow, condition: '$b'}\n", ""},
		{"shadowed by everything", ruleYAML(`block true`, `allow dns.query == "a"`), "rule 'r1' is never asked"},
		{"shadowed by its like", ruleYAML(`allow dns.query == "a"`, `allow dns.query == "a"`), "rule 'r1' is shadowed by rule 'r0'"},
		{"no layer", ruleYAML(`allow dns.query == "a.test" && http.path == "/x"`), "can match on no layer"},
		{"one layer in an alternative", ruleYAML(`allow dns.query == "a.test" && http.path == "/x" || dns.query == "b.test"`), ""},
		{"docker", ruleYAML(`allow docker.image == "x"`), "docker.image, which nothing here knows"},
		{"unresolvable", ruleYAML(`allow http.host == "a.test"`), "no rule lets DNS resolve it"},
		{"resolvable by a suffix", ruleYAML(`allow domain(dns.query, "test") || http.host == "a.test"`), ""},
		{"process alone", ruleYAML(`allow process.exe == "/usr/bin/git"`), "narrowed only by process.*"},
		{"direct_ip on a suffix", ruleYAML(`allow domain(dns.query, "a.test") @ mode: direct_ip`), "below a suffix"},
		{"hostname without a port", ruleYAML(`allow dns.query == "a" || network.hostname == "a"`), "every TCP and UDP port"},
		{"hostname with a port in another alternative only", ruleYAML(`allow dns.query == "a" || network.hostname == "a" && agent.name == "x" || network.hostname == "a" && network.port == 22`), "every TCP and UDP port"},
		{"hostname with a port in each alternative", ruleYAML(`allow dns.query in ["a", "b"] || network.port in [22, 443] && (network.hostname == "a" || network.hostname == "b")`), ""},
		{"hostname with ports", ruleYAML(`allow dns.query == "a" || network.hostname == "a" @ ports: [22]`), ""},
		{"shadowed by a wider rule", ruleYAML(`block domain(dns.query, "a.test")`, `allow dns.query in ["x.a.test", "a.test"] @ allow_private_ips: true`), "rule 'r1' is shadowed by rule 'r0', which matches wherever this does"},
		{"shadowed by ports", ruleYAML(`block network.port != 443 && network.port != 53`, `allow network.port in [22, 80] && network.ip == "192.0.2.1"`), "is shadowed by rule 'r0'"},
		{"shadowed by a network", ruleYAML(`allow cidr("10.0.0.0/8").contains(network.ip)`, `allow cidr("10.2.0.0/16").contains(network.ip) && network.port == 22`), "is shadowed by rule 'r0'"},
		{"not shadowed: other ports", ruleYAML(`allow dns.query == "a" @ ports: [443]`, `allow dns.query == "a" @ ports: [80]`), ""},
		{"not shadowed: private addresses", ruleYAML(`allow dns.query == "a"`, `allow dns.query == "a" @ allow_private_ips: true`), ""},
		{"not shadowed: another type", ruleYAML(`allow dns.query == "a"`, `allow dns.query == "a" && dns.record_type == "TXT"`), ""},
		{"not shadowed: a literal that only it opens", ruleYAML(`allow dns.query == "a" || network.port == 80`, `allow network.ip == "127.0.0.1" && network.port == 80`), ""},
		{"not shadowed: one alternative is more", ruleYAML(`block domain(dns.query, "a.test")`, `block dns.query == "x.a.test" || dns.query == "b.test"`), ""},
		{"contradiction", ruleYAML(`allow dns.query == "a.test" && dns.query == "b.test"`), "contradict each other"},
		{"contradiction of ports", ruleYAML(`block network.port > 80 && network.port < 22`), "contradict each other"},
		{"contradiction in one alternative only", ruleYAML(`allow dns.query == "a.test" && dns.query == "b.test" || dns.query == "c.test"`), ""},
		{"false", ruleYAML(`allow false`), "contradict each other"},
		{"an address is not resolved", ruleYAML(`allow http.host == "192.0.2.1"`), ""},
		{"process and agent", ruleYAML(`allow process.name == "git" && agent.name == "x"`), "narrowed only by process.*"},
		{"direct_ip on a pattern", ruleYAML(`allow dns.query == "a" || dns.query.matches("^b$") @ mode: direct_ip`), "or of a pattern"},
		{"direct_ip on anything", ruleYAML(`allow dns.query == "a" || agent.name == "x" @ mode: direct_ip`), "or of a pattern"},
		{"direct_ip on names and literals", ruleYAML(`allow dns.query in ["a", "b"] && agent.name != "x" || network.ip == "192.0.2.1" @ mode: direct_ip`), ""},
		{"all but one", ruleYAML(`allow http.host != "evil.test"`), "allows by what http.host is not"},
		{"all but some", ruleYAML(`allow !(dns.query in ["a", "b"])`), "allows by what dns.query is not"},
		{"some but one", ruleYAML(`allow domain(dns.query, "a.test") && dns.query != "x.a.test"`), ""},
		{"upper case", ruleYAML(`allow dns.query == "GitHub.com"`), "(did you mean github.com?)"},
		{"domain() knows no case", ruleYAML(`allow domain(dns.query, ".GitHub.com")`), ""},
		{"trailing dot", ruleYAML(`block dns.query == "github.com."`), "(did you mean github.com?)"},
		{"IDN", ruleYAML(`allow dns.query == "bücher.test"`), "(did you mean xn--bcher-kva.test?)"},
		{"star", ruleYAML(`allow dns.query == "*.a.test"`), `(did you mean domain(dns.query, "a.test")?)`},
		{"URL", ruleYAML(`block http.host == "https://a.test/x"`), "(did you mean a.test?)"},
		{"host and port", ruleYAML(`block http.host == "a.test:443"`), "the port is network.port (did you mean a.test?)"},
		{"address as a name", ruleYAML(`block network.hostname == "192.0.2.1" && network.port == 1`), "it is network.ip"},
		{"network as an address", ruleYAML(`block network.ip == "10.0.0.0/8"`), `cidr("10.0.0.0/8").contains(network.ip)`},
		{"long address", ruleYAML(`block network.ip == "2001:DB8:0::1"`), "(did you mean 2001:db8::1?)"},
		{"no address", ruleYAML(`block network.ip in ["a.test"]`), "it is no address"},
		{"protocol", ruleYAML(`block network.protocol == "TCP"`), "(did you mean tcp?)"},
		{"method", ruleYAML(`block http.method in ["post"]`), "(did you mean POST?)"},
		{"path with a query", ruleYAML(`block http.path == "/x?y"`), "what follows ? is http.query"},
		{"port", ruleYAML(`block network.port == 70000`), "ports are 1 to 65535"},
		{"agent", ruleYAML(`allow agent.name == "bot-2" && dns.query == "a"`), "(did you mean bot?)"},
		{"program", ruleYAML(`block process.exe == "git"`), "process.name"},
		{"program's name", ruleYAML(`block process.name == "/bin/git"`), "process.exe"},
		{"header", ruleYAML(`block http.headers["X-Token"] == "a"`), "(did you mean x-token?)"},
		{"header by selection", ruleYAML(`block has(http.headers.Accept)`), "(did you mean accept?)"},
		{"suffix without a dot", ruleYAML(`allow dns.query.endsWith("github.com")`), `write domain(dns.query, "github.com")`},
		{"suffix in upper case", ruleYAML(`allow dns.query.endsWith(".GitHub.com")`), "did you mean .github.com?"},
		{"address by its text", ruleYAML(`block network.ip.startsWith("172.2")`), "a network is cidr("},
		{"in a definition", "version: \"1\"\ndefinitions:\n  a: dns.query.endsWith('x.test')\nrules:\n  - {id: x, action: allow, condition: $a}\n", "also matches xx.test"},
		{"equal priority, one below the other", ruleYAML(`allow dns.query == "x.a.test" && agent.name == "x"`, `block dns.query.endsWith(".a.test")`), "both match dns.query x.a.test with equal priority"},
		{"equal priority, different ports", ruleYAML(`allow http.host == "192.0.2.1" && network.port == 443`, `block http.host == "192.0.2.1" && network.port == 80`), ""},
		{"equal priority, different agents", ruleYAML(`allow dns.query == "a" && agent.name == "x"`, `block dns.query == "a" && agent.name == "y"`), ""},
		{"equal priority, never on one layer", ruleYAML(`allow dns.query == "a" || tls.sni == "a"`, `block http.host == "a" && http.path == "/x"`), ""},
		{"equal priority", ruleYAML(`allow dns.query == "a" && agent.name == "x"`, `block dns.query == "a"`), "their order in the files decides"},
		{"block over later fields before direct_ip", strings.Replace(ruleYAML(`block http.host == "a" && http.path == "/x"`, `allow dns.query == "a" || http.host == "a" @ mode: direct_ip`), "action: block", "action: block\n    priority: 1", 1), "wait to be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(mustLoad(t, c.file).Warnings(), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestWarningsOfAnOverlapAcrossFields: the SNI, the Host and the flow's name
// are one name.
func TestWarningsOfAnOverlapAcrossFields(t *testing.T) {
	s := rules(t, `allow dns.query == "a.test" || network.hostname == "a.test" && network.port == 443`, `block tls.sni == "a.test"`)
	if got := s.Warnings(); len(got) != 1 || !strings.Contains(got[0], "both match network.hostname a.test") {
		t.Errorf("got %q", got)
	}
}

// TestWarningCodes: each code is reached, and each that is given is known.
func TestWarningCodes(t *testing.T) {
	many := strings.Repeat("allow dns.query == \"a\" && agent.name != \"b\"\n", maxShapes+1)
	var b strings.Builder
	b.WriteString("version: \"1\"\nrules:\n")
	for i := range strings.Split(strings.TrimSpace(many), "\n") {
		fmt.Fprintf(&b, "  - {id: r%d, action: %s, condition: 'dns.query == \"a\" && agent.name != \"b%d\"'}\n", i, []string{"allow", "block"}[i%2], i)
	}
	files := []string{
		`version: "1"`, b.String(),
		"version: \"1\"\ndefinitions: {a: 'true'}\nrules: [{id: a, action: block, condition: 'false'}]",
		ruleYAML(`allow dns.query.endsWith("a")`, `allow dns.query.endsWith("a")`, `block dns.query == "xa"`, `allow process.exe == "x"`),
		ruleYAML(`allow http.host != "a" || network.hostname == "b"`),
		ruleYAML(`allow tls.sni == "c"`),
		ruleYAML(`block http.headers["k"] == "v" || false`),
		strings.Replace(ruleYAML(`block http.host == "a" && http.path == "/x"`, `allow domain(dns.query, "a") || http.host == "a" @ mode: direct_ip`), "action: block", "action: block\n    priority: 1", 1),
	}
	seen := map[string]bool{}
	for _, f := range files {
		for _, w := range mustLoad(t, f).Findings() {
			if seen[w.Code] = true; WarningCodes[w.Code] == "" {
				t.Errorf("%s: code %q is not in the table", w, w.Code)
			}
		}
	}
	for code := range WarningCodes {
		if !seen[code] {
			t.Errorf("no file gives %q", code)
		}
	}
}
