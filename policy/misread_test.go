package policy

import (
	"fmt"
	"strings"
	"testing"
)

// Files that one reader takes for this and another for that do not load, and
// say where.
func TestMisreadFiles(t *testing.T) {
	const rule = "version: \"1\"\nrules:\n"
	for _, c := range []struct{ name, file, want string }{
		{"a merge key", rule + "  - &a {id: a, condition: 'true', action: allow}\n  - {<<: *a, id: b}\n", "x:4: unknown key '<<' in a rule"},
		{"the same rule by an alias", rule + "  - &a {id: a, condition: 'true', action: allow}\n  - *a\n", "x:3: duplicate rule id 'a'"},
		{"a list in itself", "version: '1'\nrules: &r [{id: a, action: allow, condition: 'true'}, *r]\n", "a rule must be a map"},
		{"a key twice", "version: '1'\nrules: []\nrules: []\n", "x:3: key 'rules' is written twice"},
		{"a key twice, once with a tag", rule + "  - {id: a, condition: 'true', action: block, !!str action: allow}\n", "x:3: key 'action' is written twice"},
		{"a key with a tag of its own", rule + "  - {id: a, condition: 'true', !x action: allow}\n", "x:3: unknown key 'action'"},
		{"a condition with a tag", rule + "  - {id: a, condition: !x 'true', action: allow}\n", "x:3: condition must be a string"},
		{"a binary condition", rule + "  - {id: a, condition: !!binary dHJ1ZQ==, action: allow}\n", "x:3: condition must be a string"},
		{"an action with a tag", rule + "  - {id: a, condition: 'true', action: !not allow}\n", "x:3: action must be allow or block"},
		{"a mode with a tag", rule + "  - {id: a, condition: 'true', action: allow, egress: {mode: !not direct_ip}}\n", "x:3: mode must be proxy or direct_ip"},
		{"yes", rule + "  - {id: a, condition: 'true', action: allow, log: yes}\n", "x:3: log must be true or false"},
		{"no", rule + "  - {id: a, condition: 'true', action: allow, egress: {allow_private_ips: no}}\n", "x:3: allow_private_ips must be true or false"},
		{"a quoted true", rule + "  - {id: a, condition: 'true', action: allow, log: 'true'}\n", "x:3: log must be true or false"},
		{"a sexagesimal port", rule + "  - {id: a, condition: 'true', action: allow, egress: {ports: [2:23]}}\n", "x:3: a port must be"},
		{"a port with an underscore", rule + "  - {id: a, condition: 'true', action: allow, egress: {ports: [4_43]}}\n", "x:3: a port must be"},
		{"port 65536", rule + "  - {id: a, condition: 'true', action: allow, egress: {ports: [65536]}}\n", "x:3: a port must be"},
		{"a quoted port", rule + "  - {id: a, condition: 'true', action: allow, egress: {ports: ['443']}}\n", "x:3: a port must be"},
		{"a huge priority", rule + "  - {id: a, condition: 'true', action: allow, priority: 99999999999999999999}\n", "x:3: priority must be"},
		{"an infinite priority", rule + "  - {id: a, condition: 'true', action: allow, priority: -.inf}\n", "x:3: priority must be"},
		{"a second document", "version: '1'\nrules: []\n---\nrules: []\n", "x:3: one file holds one document"},
		{"an empty second document", "version: '1'\nrules: []\n---\n", "x:3: one file holds one document"},
		{"something behind the end", "version: '1'\nrules: []\n...\nrules: []\n", "YAML parse error"},
		{"a tab", rule + "\t- {id: a, condition: 'true', action: allow}\n", "x:3: YAML parse error"},
		{"a rule in what looks like a comment (LS)", rule + "# a comment\u2028  - {id: a, condition: 'true', action: allow}\n", "x:3: U+2028 ends a line for some readers"},
		{"a rule in what looks like a comment (NEL)", rule + "# a comment\u0085  - {id: a, condition: 'true', action: allow}\n", "x:3: U+0085 ends a line for some readers"},
		{"a rule in what looks like a comment (CR)", rule + "# a comment\r  - {id: a, condition: 'true', action: allow}\n", "x:3: U+000D ends a line for some readers"},
		{"text in another order", rule + "  - {id: a, action: allow, condition: 'dns.query == \"a.test\" // \u202e || true'}\n", "x:3: U+202E changes the order"},
		{"UTF-16", "\xff\xfev\x00", "the file is not UTF-8"},
		{"NUL", "version: '1'\nrules: []\n\x00", "YAML parse error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Load([]Source{{Path: "x", Data: []byte(c.file)}})
			if err == nil {
				t.Fatalf("%d rules are loaded", len(s.Rules()))
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	for name, file := range map[string]string{
		"a byte order mark": "\ufeff" + rule + "  - {id: a, condition: 'true', action: allow}\n",
		"CR LF":             strings.ReplaceAll(rule+"  - {id: a, condition: 'true', action: allow}\n", "\n", "\r\n"),
		"escapes":           rule + "  - {id: a, condition: 'true', action: allow, description: \"\\u2028\\u202e\"}\n",
		"right to left":     rule + "  - {id: a, condition: 'true', action: allow, description: עברית}\n",
	} {
		if s, err := Load([]Source{{Path: "x", Data: []byte(file)}}); err != nil || len(s.Rules()) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Conditions that CEL takes and that never do what they say do not load.
func TestMisreadConditions(t *testing.T) {
	for cond, want := range map[string]string{
		`network.port in [80, "443"]`:                        "the list holds 443, of type string, and int is looked up in it",
		`network.port in [80, 443u]`:                         "of type uint",
		`dns.query in ["a.test", 5]`:                         "the list holds 5, of type int",
		`network.port == 443u`:                               "no matching overload",
		`domain("a.test", dns.query)`:                        "domain() takes the field first",
		`domain(dns.query, "")`:                              "domain() of '' matches nothing",
		`domain(dns.query, ".")`:                             "domain() of '.' matches nothing",
		`tls.alpn.exists(http, http == "h2")`:                "the variable 'http' hides the fields http.*",
		`dns.query == "a.test" || "b.test"`:                  "expected type 'bool'",
		`dns.query === "a.test"`:                             "token recognition error",
		`dns.query == a.test`:                                "undefined identifier 'a.test'",
		`network.port == 9223372036854775808`:                "invalid int literal",
		`cidr("10.0.0.0/08").contains(network.ip)`:           "no network address",
		`cidr("::ffff:10.0.0.0/104").contains(network.ip)`:   "no network address",
		`cidr("fe80::1%eth0").contains(network.ip)`:          "no network address",
		`network.ip in cidr("10.0.0.0/8")`:                   "no matching overload",
		`dns.query == b"a.test"`:                             "no matching overload",
		`dns.query == null`:                                  "no matching overload",
		`http.?path.orValue("") == "a"`:                      "unsupported syntax",
		`http["host"] == "a.test"`:                           "undefined identifier 'http'",
		`has(dns)`:                                           "has() takes a field",
		`http.path.matches("[")`:                             "error parsing regexp",
		"dns.query == \"a.test\u200b\" && http_host == \"\"": "undefined identifier 'http_host'",
	} {
		for _, action := range []string{"allow", "block"} {
			_, err := Load([]Source{{Path: "x", Data: []byte(ruleYAML(action + " " + cond))}})
			if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "x:5: CEL parse error: ") {
				t.Errorf("%s %s: got %v, want %q", action, cond, err, want)
			}
		}
	}
}

// What loads and does other than it seems to say is told.
func TestMisreadWarnings(t *testing.T) {
	const never, part, constant, all = WarnNever, WarnPart, WarnConstant, WarnAllBut
	for _, c := range []struct{ cond, allow, block string }{
		{`dns.query.startsWith("api.")`, part, ""},
		{`dns.query.contains("a.test")`, part, ""},
		{`dns.query.endsWith("a.test")`, part, part},
		{`dns.query.endsWith(".a.test")`, "", ""},
		{`dns.query.endsWith("")`, constant, constant},
		{`dns.query.matches("a\\.test")`, part, ""},
		{`dns.query.matches("^a\\.test$")`, "", ""},
		{`dns.query.matches("^a.test$")`, part, ""},
		{`dns.query.matches("^a\\.test|b\\.test$")`, part, ""},
		{`dns.query.matches("^(a|b)[0-9]+\\.test$")`, "", ""},
		{`dns.query.matches("^.*\\.test$")`, "", ""},
		{`dns.query == "a.test" && http.path.startsWith("/a/") || dns.query == "b.test"`, "", ""},
		{`dns.query == "b.test" || http.path.startsWith("/a")`, part, ""},
		{`dns.query == "b.test" || http.path.startsWith("a/")`, never, never},
		{`dns.query == "b.test" || http.path.startsWith("/a/../b/")`, never, never},
		{`dns.query == "b.test" || http.path == "/a b"`, never, never},
		{`dns.query == "b.test" || http.path == "/%61"`, never, never},
		{`dns.query == "b.test" || http.path == "/%2f"`, never, never},
		{`dns.query == "b.test" || http.path == "/a//b"`, never, never},
		{`dns.query == "b.test" || http.path in ["/", "/a/", "/a%20b", "*"]`, "", ""},
		{`dns.query == "b.test" || http.path == "/ä"`, never, never},
		{`dns.query == "b.test" && dns.record_type == "TXTT"`, never, never},
		{`dns.query == "b.test" && dns.record_type in ["TXT", "HTTPS", "TYPE65280"]`, "", ""},
		{`dns.query == "b.test" || network.ip == "192.0.2.1" && network.port == 0`, never, ""},
		{`dns.query == "b.test" || network.ip == "192.0.2.1" && network.port in [80, 65536]`, never, never},
		{`dns.query == "b.test" || network.ip == "192.0.2.1" && network.port < 65536 && network.port > 0`, "", ""},
		{`dns.query == "b.test" || tls.sni == ""`, never, ""},
		{`dns.query == "b.test" || http.query == "" && http.path == "/x"`, "", ""},
		{`dns.query == "b.test" || http.host == tls.sni`, all, ""},
		{`dns.query == dns.query`, all, ""},
		{`dns.query in []`, never, never},
		{`dns.query == "b.test" || true`, constant, constant},
		{`dns.query == "b.test" && !false`, constant, constant},
		{`dns.query == "b.test" || "a" != "b"`, constant, constant},
		{`dns.query == "b.test" || cidr("10.0.0.0/8").contains("10.1.1.1")`, constant, constant},
		{`dns.query == "b.test" && [1, 2].exists(x, x > network.port)`, "", ""},
		{`dns.query == "b.test" || http.headers["k"] == "v" && http.path == "/x"`, "", WarnMissing},
		{`dns.query == "b.test" || http.headers.k == "v" && http.path == "/x"`, "", WarnMissing},
		{`dns.query == "b.test" || "k" in http.headers && http.headers["k"] == "v" && http.path == "/x"`, "", ""},
		{`dns.query == "b.test" || has(http.headers.k) && http.headers.k == "v" && http.path == "/x"`, "", ""},
		{`domain(dns.query, "10.0.0.1")`, never, never},
		{`domain(dns.query, "a..test")`, never, never},
		{`domain(dns.query, ".a.test")`, "", ""},
		{`domain(dns.query, "bücher.test")`, never, never},
		{`dns.query == "bücher.test"`, never, never},
		{`dns.query == "xn--bcher-kva.test"`, "", ""},
		{`domain(dns.query, "A.Test.")`, "", ""},
	} {
		for action, want := range map[string]string{"allow": c.allow, "block": c.block} {
			got := map[string]bool{}
			for _, w := range rules(t, action+" "+c.cond).Findings() {
				got[w.Code] = true
			}
			if want == "" && got[never] || want == "" && got[part] || want == "" && got[constant] || want == "" && got[WarnMissing] || want != "" && !got[want] {
				t.Errorf("%s %s: got %s, want %q", action, c.cond, fmt.Sprint(got), want)
			}
		}
	}
}
