package ruletest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outcall/policy"
)

const agentRules = `version: "1"
rules:
  - id: no-delete
    action: block
    condition: http.method == "DELETE"
    priority: 10
  - id: site
    action: allow
    condition: dns.query == "a.test" || http.host == "a.test" && network.port in [80, 443]
  - id: git-only
    action: allow
    condition: process.exe == "/usr/bin/git" && (dns.query == "b.test" || tls.sni == "b.test")
  - id: bot
    action: allow
    condition: agent.name == "bot" && dns.query == "c.test"
  - id: tools
    action: allow
    condition: run.tool == "git" && !("push" in run.args)
  - id: raw
    action: allow
    condition: (dns.query == "d.test" || network.hostname == "d.test") && network.protocol != "udp"
    egress: {mode: direct_ip, ports: [22]}
`

const cases = `version: "1"
rules: ["%s"]
cases:
  - {event: "https://a.test/", verdict: allow, rule: site}
  - {event: "https://a.test:444/", verdict: deny, rule: default policy}
  - {event: "dns://a.test?type=TXT", verdict: deny}
  - {event: "udp://a.test:53", verdict: deny}
  - {event: "https://b.test/", verdict: depends}
  - {event: "https://b.test/", exe: /usr/bin/git, verdict: allow, rule: git-only}
  - {event: "https://b.test/", exe: /usr/bin/git, via: proxy, ip: "10.0.0.1", verdict: deny}
  - {event: "https://b.test/", via: direct, verdict: depends}
  - {event: "dns://c.test", agent: bot, verdict: allow, rule: bot}
  - {event: "dns://c.test", agent: cat, verdict: deny}
  - {event: {layer: request, http.host: a.test, http.method: DELETE}, verdict: deny, rule: no-delete}
  - {event: {layer: request, http.host: a.test, http.method: POST, http.headers: {x: y}, http.body_size: 3}, verdict: allow, rule: site}
  - {event: {layer: flow, network.hostname: a.test, network.ip: 192.0.2.1}, verdict: deny}
  - {event: {layer: flow, network.hostname: a.test, network.ip: 8.8.8.8}, verdict: open}
  - {event: {layer: hello, tls.sni: b.test, tls.alpn: [h2], process.exe: /usr/bin/git}, verdict: allow}
  - {event: {layer: connect, http.host: a.test, network.port: 80}, verdict: allow}
  - {event: {layer: raw, network.hostname: d.test, network.port: 22}, verdict: allow}
  - {event: {layer: dns, dns.query: c.test, agent.name: bot}, verdict: allow, rule: bot}
  - {event: {layer: run, run.tool: git, run.args: [pull], run.context: {a: b}}, verdict: allow, rule: tools}
  - {event: {layer: run, run.tool: git, run.args: [push, -f]}, verdict: deny}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCases(t *testing.T) {
	path := write(t, "t.yaml", fmt.Sprintf(cases, write(t, "agent.yaml", agentRules)))
	r, err := RunFiles(nil, path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r.WriteText(&b)
	if !r.OK || r.Cases != 20 {
		t.Errorf("%s", b.String())
	}
}

// TestDifference: a wrong case is told with what was wanted, what was got and
// why.
func TestDifference(t *testing.T) {
	rules := write(t, "agent.yaml", agentRules)
	path := write(t, "t.yaml", "version: \"1\"\ncases:\n  - name: the site\n    event: https://a.test:444/\n    verdict: allow\n    rule: site\n  - event: dns://a.test\n    verdict: allow\n")
	r, err := RunFiles([]string{rules}, path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	r.WriteText(&b)
	want := path + `:3: the site: https://a.test:444/
  - verdict:  allow
  + verdict:  deny
  - rule:     site
  + rule:     default policy
`
	if r.OK || r.Wrong != 1 || !strings.HasPrefix(b.String(), want) ||
		!strings.Contains(b.String(), "not rule site (") || !strings.HasSuffix(b.String(), "\n2 cases, 1 wrong\n") {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestFindings(t *testing.T) {
	rules := write(t, "agent.yaml", agentRules)
	for _, c := range []struct{ text, want string }{
		{"", "YAML parse error"},
		{"- a", "t.yaml:1: the file must be a map"},
		{"cases: []", `write version: "1"`},
		{"version: \"1\"\ncases: []", "at least one case"},
		{"version: \"1\"\nrulez: []\ncases: [{event: 'dns://a', verdict: deny}]", "t.yaml:2: unknown key 'rulez'"},
		{"version: \"1\"\ncases:\n  - {event: 'dns://a'}", `t.yaml:3: verdict is ""`},
		{"version: \"1\"\ncases:\n  - {verdict: deny}", "t.yaml:3: the case has no event"},
		{"version: \"1\"\ncases:\n  - {event: 'gopher://a', verdict: deny}", "t.yaml:3: explain \"gopher://a\""},
		{"version: \"1\"\ncases:\n  - {event: 'dns://a', verdict: provisional}", "want allow, deny, depends"},
		{"version: \"1\"\ncases:\n  - {event: 'dns://a', via: proxy, verdict: deny}", `has no way "proxy"`},
		{"version: \"1\"\ncases:\n  - {event: 'dns://a', via: x, verdict: deny}", "want direct or proxy"},
		{"version: \"1\"\ncases:\n  - {event: 'dns://a', ip: x, verdict: deny}", `ip "x" is no address`},
		{"version: \"1\"\ncases:\n  - {event: {layer: x}, verdict: deny}", "layer is missing"},
		{"version: \"1\"\ncases:\n  - {event: {layer: flow, dns.query: x}, verdict: deny}", "an event at flow has no dns.query"},
		{"version: \"1\"\ncases:\n  - {event: {layer: flow, network.port: '80'}, verdict: deny}", "network.port is 80: want a number"},
		{"version: \"1\"\ncases:\n  - {event: {layer: flow, network.port: 70000}, verdict: deny}", "want 1 to 65535"},
		{"version: \"1\"\ncases:\n  - {event: {layer: flow, network.ip: a}, verdict: deny}", "network.ip:"},
		{"version: \"1\"\ncases:\n  - {event: {layer: flow, network.protocol: TCP}, verdict: deny}", "want tcp, udp or icmp"},
		{"version: \"1\"\ncases:\n  - {event: {layer: connect}, verdict: deny}", "http.host is missing"},
		{"version: \"1\"\ncases:\n  - {event: {layer: dns}, verdict: deny}", "dns.query is missing"},
		{"version: \"1\"\ncases:\n  - {event: {layer: raw}, ip: 192.0.2.1, verdict: deny}", "ip belongs to a target"},
		{"version: \"1\"\ncases: [{event: 'dns://a', verdict: deny}]\n---\na: b\n", "one document"},
		{strings.Repeat(" ", MaxFileSize+1), "larger than"},
		{"version: \"1\"\ncases:\n" + strings.Repeat("- {}\n", MaxCases+1), "more than 10000 cases"},
	} {
		_, err := RunFiles([]string{rules}, write(t, "t.yaml", c.text))
		var list policy.ErrorList
		if !errors.As(err, &list) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80q: got %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := RunFiles(nil, write(t, "t.yaml", "version: \"1\"\ncases: [{event: 'dns://a', verdict: deny}]")); err == nil || !strings.Contains(err.Error(), "rules is missing") {
		t.Errorf("no rules: %v", err)
	}
	if _, err := RunFiles(nil, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a directory: %v", err)
	}
}

// FuzzTestFile: any bytes are cases that can be asked, or findings with a line.
func FuzzTestFile(f *testing.F) {
	f.Add(fmt.Sprintf(cases, "a.yaml"))
	f.Add("version: \"1\"\nrules: a\nagent: b\ncases:\n  - event: &a {layer: run, run.tool: x, network.hostname: a, http.scheme: http}\n    verdict: deny\n  - {event: *a, verdict: open}\n")
	f.Add("a: &a [*a]\n")
	s := &policy.Snapshot{}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("t.yaml", []byte(text))
		if err != nil {
			var list policy.ErrorList
			if !errors.As(err, &list) || len(list) == 0 {
				t.Fatalf("no findings: %v", err)
			}
			return
		}
		if len(file.Cases) > 50 {
			return
		}
		results, err := file.Run(s)
		if err != nil {
			return
		}
		for _, r := range results {
			if r.Got.Verdict == policy.VerdictAllow {
				t.Errorf("%s is allowed without a rule", r.Event)
			}
		}
	})
}
