package policy

import (
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
		{"unused definition", "version: \"1\"\ndefinitions:\n  a: 'true'\nrules:\n  - {id: x, action: allow, condition: '\"$a\" == dns.query'}\n", "test.yaml:3: definition 'a' is not used"},
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
		{"hostname with ports", ruleYAML(`allow dns.query == "a" || network.hostname == "a" @ ports: [22]`), ""},
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
