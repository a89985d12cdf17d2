package rulecheck

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outcall/policy"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const typo = `version: "1"
rules:
  - id: a
    action: allow
    condition: 'http_host == "a.test"'
`

func text(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestTheSeedsExample: the very line, also where the text is folded or stands
// in a definition.
func TestTheSeedsExample(t *testing.T) {
	for _, file := range []string{
		typo,
		"version: \"1\"\nrules:\n  - id: a\n    condition: >-\n      http_host == \"a.test\"\n    action: allow\n",
		"version: \"1\"\ndefinitions:\n  ok: 'true'\n  x: |\n    http_host == \"a.test\"\nrules:\n  - {id: a, action: allow, condition: $x && $ok}\n",
	} {
		path := write(t, "agent.yaml", file)
		r := Check(false, path)
		want := path + ":5: CEL parse error: undefined identifier 'http_host' (did you mean http.host?)\n"
		if got := text(t, r); got != want || r.OK || r.Findings[0].Code != CodeCondition {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWarningsDoNotFail(t *testing.T) {
	path := write(t, "agent.yaml", strings.Replace(typo, "http_host ==", "dns.query !=", 1))
	r := Check(false, path)
	want := path + ":5: warning: rule 'a' allows by what dns.query is not: every other one is allowed, where the layer knows it\n1 files, 1 rules\n"
	if got := text(t, r); !r.OK || got != want || len(r.Warnings) != 1 {
		t.Errorf("got %q, want %q", got, want)
	}
	if r := Check(true, path); r.OK || strings.Contains(text(t, r), "warning: ") {
		t.Errorf("strict: %+v", r)
	}
}

// TestEveryPathIsTold: one that cannot be read does not hide another.
func TestEveryPathIsTold(t *testing.T) {
	r := Check(false, "/nowhere/a.yaml", "/nowhere/b.yaml")
	if len(r.Findings) != 2 || r.OK || strings.Count(text(t, r), "\n") != 2 {
		t.Errorf("%+v", r.Findings)
	}
	dir := t.TempDir()
	for i := range policy.MaxFiles {
		os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d.yaml", i)), []byte(`version: "1"`), 0o600)
	}
	r = Check(false, dir, write(t, "one-too-many.yaml", `version: "1"`))
	if len(r.Findings) != 1 || r.Findings[0].Path != "" || !strings.Contains(r.Findings[0].Message, "at most") {
		t.Errorf("%+v", r.Findings)
	}
}

func TestNamesAreEscaped(t *testing.T) {
	path := write(t, "a.yaml", "version: \"1\"\nx\u200ey: 1\n")
	if got := text(t, Check(false, path)); !strings.Contains(got, `\u200e`) || strings.Count(got, "\n") != 1 {
		t.Errorf("got %q", got)
	}
}

// TestSARIF checks the shape that the format demands of what we write.
func TestSARIF(t *testing.T) {
	bad := write(t, "ä b.yaml", typo+"  - {id: a, action: deny, condition: 'true'}\n")
	doubtful := write(t, "c.yaml", strings.Replace(typo, "http_host ==", "dns.query !=", 1))
	for _, r := range []*Report{Check(false, bad), Check(false, doubtful), Check(false, "/nowhere"), Check(true, doubtful), {}} {
		var b bytes.Buffer
		if err := r.WriteSARIF(&b, "1.2.3"); err != nil {
			t.Fatal(err)
		}
		checkSARIF(t, b.Bytes(), r)
	}
	var b bytes.Buffer
	Check(false, bad).WriteSARIF(&b, "1.2.3")
	if !strings.Contains(b.String(), "file:///") || !strings.Contains(b.String(), "%C3%A4%20b.yaml") {
		t.Errorf("no file URI:\n%s", b.String())
	}
	if got := fileURI("rules/./a b.yaml"); got != "rules/a%20b.yaml" {
		t.Errorf("relative path: %s", got)
	}
}

// object is one JSON object of the log; what holds it says where it stands.
type object map[string]any

func (o object) list(t *testing.T, key string) []any {
	t.Helper()
	l, ok := o[key].([]any)
	if !ok {
		t.Fatalf("%s is no list but %T", key, o[key])
	}
	return l
}

func (o object) object(t *testing.T, key string) object {
	t.Helper()
	m, ok := o[key].(map[string]any)
	if !ok {
		t.Fatalf("%s is no object but %T", key, o[key])
	}
	return m
}

func checkSARIF(t *testing.T, data []byte, r *Report) {
	t.Helper()
	var log object
	if err := json.Unmarshal(data, &log); err != nil {
		t.Fatal(err)
	}
	if log["version"] != "2.1.0" || log["$schema"] != sarifSchema || len(log.list(t, "runs")) != 1 {
		t.Fatalf("head: %s", data)
	}
	run := object(log.list(t, "runs")[0].(map[string]any))
	driver := run.object(t, "tool").object(t, "driver")
	if driver["name"] != "outcall" || driver["version"] != "1.2.3" {
		t.Errorf("driver: %v", driver)
	}
	rules := driver.list(t, "rules")
	ids := map[string]bool{}
	for _, k := range rules {
		rule := object(k.(map[string]any))
		id, _ := rule["id"].(string)
		if id == "" || ids[id] || rule.object(t, "shortDescription")["text"] == "" {
			t.Errorf("rule: %v", rule)
		}
		ids[id] = true
	}
	results := run.list(t, "results") // must be there, empty or not
	if len(results) != len(r.Findings) {
		t.Fatalf("%d results, %d findings", len(results), len(r.Findings))
	}
	for i, k := range results {
		checkResult(t, k.(map[string]any), rules, r.Findings[i])
	}
}

func checkResult(t *testing.T, res object, rules []any, f Finding) {
	t.Helper()
	at, _ := res["ruleIndex"].(float64)
	if rule := rules[int(at)].(map[string]any); rule["id"] != res["ruleId"] || res["ruleId"] != f.Code {
		t.Errorf("rule %v at %v", res["ruleId"], at)
	}
	if l := res["level"]; l != "error" && l != "warning" || l != f.Level {
		t.Errorf("level %v", l)
	}
	if res.object(t, "message")["text"] != f.Message {
		t.Errorf("message %v", res["message"])
	}
	if f.Path == "" {
		return
	}
	physical := object(res.list(t, "locations")[0].(map[string]any)).object(t, "physicalLocation")
	if uri, _ := physical.object(t, "artifactLocation")["uri"].(string); uri == "" || strings.ContainsAny(uri, " ä") {
		t.Errorf("uri %q", uri)
	}
	if f.Line > 0 && physical.object(t, "region")["startLine"] != float64(f.Line) {
		t.Errorf("region %v", physical["region"])
	}
}
