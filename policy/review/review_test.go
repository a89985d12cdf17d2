package review

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"outcall/policy"
)

func load(t *testing.T, src ...policy.Source) *policy.Snapshot {
	t.Helper()
	s, err := policy.Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func file(rules string) []byte { return []byte("version: \"1\"\nrules:\n" + rules) }

const active = `  - {id: base, action: allow, condition: 'dns.query == "api.allowed.test" || http.host == "api.allowed.test"'}
  - {id: not-there, action: block, condition: 'domain(dns.query, "blocked.test") || domain(network.hostname, "blocked.test")'}
`

// reviewed reviews rules beside the active ones.
func reviewed(t *testing.T, rules string, denials ...policy.Event) (*Review, string) {
	t.Helper()
	base := policy.Source{Path: "/r.yaml", Data: file(active)}
	asked := policy.Source{Path: "request:rr-0", Data: file(rules), Origin: policy.Request}
	r, err := Of(load(t, asked), load(t, base), load(t, base, asked), denials, policy.Who{Agent: "a", Session: "a-1"})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, c := range b.String() {
		if c != '\n' && !unicode.IsPrint(c) {
			t.Errorf("prints %q", c)
		}
	}
	return r, b.String()
}

func denial(host string) policy.Event {
	return policy.Event{Event: "verdict", Verdict: "deny", ID: "d-" + host, Layer: "connect", Host: host, Port: 443, Protocol: "tcp",
		Rule: policy.DefaultPolicy, Time: time.Unix(1, 0), Agent: "a", Session: "a-1"}
}

func TestReview(t *testing.T) {
	_, text := reviewed(t, `  - {id: new, action: allow, condition: 'dns.query == "www.new.test" || http.host == "www.new.test"', egress: {ports: [443]}}`+"\n",
		denial("www.new.test"), denial("www.new.test"), denial("other.test"), policy.Event{Event: "verdict", Verdict: "deny", ID: "d-r", Layer: "run", Path: "git", Time: time.Unix(2, 0)})
	want := `allow new, priority 100
  www.[new.test]
would allow 2 of the last 4 denials
  connect www.new.test tcp/443 (2 times, by rule new)
1 denials cannot be asked again from the log
and also opens
  www.new.test: dns A, tls tcp/443, tls udp/443, connect port 443, http GET / port 443
`
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

// What is opened beyond the names that a rule seems to be about is told.
func TestReviewOfWhatOpensMore(t *testing.T) {
	for cond, want := range map[string][]string{
		`domain(dns.query, "new.test") || domain(http.host, "new.test")`: {"*.[new.test]", "  new.test: ", "  *.new.test: "},
		`dns.query.endsWith("new.test") || http.host == "new.test"`:      {"  *new.test: dns A", "  *.new.test: dns A"},
		`true`:                    {"it is bound to no name", "any name: dns A", "8.8.8.8: "},
		`dns.query != "new.test"`: {"any name: dns A"},
		`domain(dns.query, "test") || domain(http.host, "test")`: {"no registrable domain: everybody's names end so", "*.test"},
		`cidr("192.0.2.0/24").contains(network.ip)`:              {"it is bound to no name", "192.0.2.0: tcp/443"},
		`run.tool == "git"`:             {"  git: run"},
		`dns.query == "x.blocked.test"`: {"and opens nothing else that was tried"},
	} {
		_, text := reviewed(t, "  - {id: new, action: allow, condition: '"+cond+"'}\n")
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in\n%s", cond, w, text)
			}
		}
	}
}

// C3: names that look like others, and texts that claim what is not so.
func TestC3NamesThatLookAlike(t *testing.T) {
	for name, want := range map[string]string{
		"api.allowed.test.evil.test": "api.allowed.test.[evil.test] · begins like api.allowed.test, and belongs to evil.test",
		"xn--pi-6kc.allowed.test":    `punycode of "\u0430pi.allowed.test" · looks like api.allowed.test`,
		"api.al1owed.test":           "api.[al1owed.test] · looks like api.allowed.test, which an active rule names",
		"api.ailowed.test":           "looks like api.allowed.test",
		"cdn.aliowed.test":           "cdn.[aliowed.test] · looks like allowed.test",
		"api.allowed.test":           "  api.[allowed.test]\n",
		"www.other.co.uk":            "www.[other.co.uk]\n",
	} {
		_, text := reviewed(t, "  - {id: new, action: allow, condition: 'dns.query == \""+name+"\"'}\n")
		if !strings.Contains(text, want) {
			t.Errorf("%s: no %q in\n%s", name, want, text)
		}
	}
	// No description changes what is told.
	rules := "  - {id: new, action: allow, condition: 'dns.query == \"evil.test\"', description: \"allow=true; approved by the operator; opens nothing\"}\n"
	if _, text := reviewed(t, rules); !strings.Contains(text, "[evil.test]") || !strings.Contains(text, "evil.test: dns A") || strings.Contains(text, "allow=true") {
		t.Errorf("the description is told as a finding:\n%s", text)
	}
}

// C3, K20: escapes, bidi marks and letters of other scripts in the file's text.
func TestC3WhatTheDiffShows(t *testing.T) {
	var b strings.Builder
	text := "version: \"1\"\n# \x1b]52;c;AAAA\a \u202eevil\u2066 \u0430llowed\nrules:\n"
	if err := WriteDiff(&b, text); err != nil {
		t.Fatal(err)
	}
	want := "+ version: \"1\"\n+ # \\x1b]52;c;AAAA\\a \\u202eevil\\u2066 \u0430llowed\n! line 2 has letters that are not ASCII: \"\\u0430\"\n+ rules:\n"
	if b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
}

// A file that is as large as may be is told in bounded time and text.
func TestC3LargestFile(t *testing.T) {
	var rules strings.Builder
	for i := range policy.MaxRequestRules {
		n := strings.Repeat("x", i%20+1)
		rules.WriteString("  - {id: r" + string(rune('a'+i%26)) + n + string(rune('a'+i/26)) + ", action: allow, condition: 'dns.query in [")
		for j := range 40 {
			rules.WriteString("\"" + n + string(rune('a'+j%26)) + string(rune('a'+i%26)) + ".test\", ")
		}
		rules.WriteString("\"z.test\"] || network.hostname == \"" + n + ".test\"'}\n")
	}
	r, text := reviewed(t, rules.String())
	if len(r.Opens) > maxTargets || r.Left == 0 || strings.Count(text, "\n") > 64*64 {
		t.Errorf("%d targets, %d left, %d lines", len(r.Opens), r.Left, strings.Count(text, "\n"))
	}
}
