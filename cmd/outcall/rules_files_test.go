package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A ruleDir is a directory with rule files, for the commands that need no
// session.
func ruleDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const siteRules = `version: "1"

rules:
  - id: site
    condition: 'dns.query == "a.test" || http.host == "a.test" && network.port == 443'
    action: allow
`

func TestRulesCheckFormats(t *testing.T) {
	env := testEnv(t)
	dir := ruleDir(t, map[string]string{
		"bad.yaml":  strings.Replace(siteRules, "http.host", "http_host", 1),
		"wide.yaml": strings.Replace(siteRules, `dns.query ==`, `dns.query !=`, 1),
	})
	bad, wide := filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "wide.yaml")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{bad}, 1, bad + ":5: CEL parse error: undefined identifier 'http_host' (did you mean http.host?)\n"},
		{[]string{wide}, 0, wide + ":5: warning: rule 'site' allows by what dns.query is not"},
		{[]string{wide, "--strict"}, 1, wide + ":5: rule 'site' allows by what dns.query is not"},
		{[]string{bad, "--json"}, 1, `"code": "condition"`},
		{[]string{wide, "--format", "json"}, 0, `"rules_loaded": 1`},
		{[]string{bad, "--format", "sarif"}, 1, `"ruleId": "condition"`},
		{[]string{filepath.Join(dir, "none.yaml")}, 1, "no such file"},
	} {
		code, out, errOut := call(t, env, append([]string{"rules", "check"}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.want) || errOut != "" {
			t.Errorf("%q: %d\n%s%s", c.args, code, out, errOut)
		}
		if strings.HasPrefix(c.want, `"`) && !json.Valid([]byte(out)) {
			t.Errorf("%q: no JSON:\n%s", c.args, out)
		}
	}
	if code, _, errOut := call(t, env, "rules", "check", bad, "--format", "xml"); code != 2 || !strings.Contains(errOut, "want text, json or sarif") {
		t.Errorf("--format xml: %d, %s", code, errOut)
	}
}

func TestRulesTestFiles(t *testing.T) {
	env := testEnv(t)
	dir := ruleDir(t, map[string]string{
		"agent.yaml":       siteRules,
		"tests/right.yaml": "version: \"1\"\nrules: [../agent.yaml]\ncases:\n  - {event: \"https://a.test/\", verdict: allow, rule: site}\n",
		"tests/wrong.yaml": "version: \"1\"\nrules: [../agent.yaml]\ncases:\n  - {event: \"https://b.test/\", verdict: allow}\n",
		"tests/bad.yaml":   "version: \"1\"\ncase: []\n",
	})
	in := func(name string) string { return filepath.Join(dir, "tests", name) }
	if code, out, errOut := call(t, env, "rules", "test", in("right.yaml")); code != 0 || out != "1 cases, 0 wrong\n" {
		t.Errorf("right: %d, %q, %q", code, out, errOut)
	}
	code, out, _ := call(t, env, "rules", "test", in("right.yaml"), in("wrong.yaml"))
	if code != 1 || !strings.Contains(out, "  - verdict:  allow\n  + verdict:  deny\n") || !strings.HasSuffix(out, "2 cases, 1 wrong\n") {
		t.Errorf("wrong: %d, %q", code, out)
	}
	if code, out, _ := call(t, env, "rules", "test", in("wrong.yaml"), "--json"); code != 1 || !json.Valid([]byte(out)) {
		t.Errorf("--json: %d, %q", code, out)
	}
	if code, _, errOut := call(t, env, "rules", "test", in("bad.yaml")); code != 1 || !strings.Contains(errOut, in("bad.yaml")+":2: unknown key 'case'") {
		t.Errorf("bad: %d, %q", code, errOut)
	}
}

func TestRulesDiffFmtSchema(t *testing.T) {
	env := testEnv(t)
	dir := ruleDir(t, map[string]string{
		"a.yaml":      siteRules,
		"b.yaml":      strings.Replace(siteRules, "a.test", "b.test", 1),
		"odd.yaml":    "rules: []\nversion:   \"1\"\n",
		"audit.jsonl": `{"event":"verdict","id":"d-1","layer":"dns","verdict":"allow","query":"a.test","record_type":"A"}` + "\n",
		"torn.jsonl":  `{"event":"verdict"` + "\n",
	})
	in := func(name string) string { return filepath.Join(dir, name) }
	code, out, errOut := call(t, env, "rules", "diff", in("a.yaml"), in("b.yaml"), "--exit-code")
	if code != 1 || !strings.Contains(out, "allow → deny: dns dns.query=a.test ") || !strings.Contains(out, "deny → allow: dns dns.query=b.test ") {
		t.Errorf("diff: %d, %q, %q", code, out, errOut)
	}
	code, out, _ = call(t, env, "rules", "diff", in("a.yaml"), in("b.yaml"), "--on", in("audit.jsonl"))
	if code != 0 || !strings.Contains(out, "allow → deny: dns a.test A") || !strings.Contains(out, "1 of 1 events change verdict") {
		t.Errorf("diff --on: %d, %q", code, out)
	}
	if code, _, errOut := call(t, env, "rules", "diff", in("a.yaml"), in("b.yaml"), "--on", in("torn.jsonl")); code != 1 || !strings.Contains(errOut, "line 1 of") {
		t.Errorf("diff on a torn log: %d, %q", code, errOut)
	}
	if code, out, _ := call(t, env, "rules", "fmt", dir, "--check"); code != 1 || out != in("odd.yaml")+"\n" {
		t.Errorf("fmt --check: %d, %q", code, out)
	}
	if code, out, _ := call(t, env, "rules", "fmt", dir); code != 0 || out != in("odd.yaml")+"\n" {
		t.Errorf("fmt: %d, %q", code, out)
	}
	if got, _ := os.ReadFile(in("odd.yaml")); string(got) != "version: \"1\"\n\nrules: []\n" {
		t.Errorf("formatted: %q", got)
	}
	if code, out, _ := call(t, env, "rules", "schema"); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("schema: %d", code)
	}
}
