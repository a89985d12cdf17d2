package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outcall/sandbox/session"
)

// writeAudit leaves the audit of a session that has ended.
func writeAudit(t *testing.T, env session.Env, name, lines string) string {
	t.Helper()
	path := env.AuditPath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const someAudit = `{"event":"start","reason":"mode observe"}
{"event":"verdict","id":"d-00000001","layer":"dns","verdict":"allow","rule":"cli-1","query":"api.test","record_type":"A"}
{"event":"verdict","id":"d-00000002","layer":"dns","verdict":"would_deny","rule":"default policy","query":"new.test","record_type":"A"}
{"event":"verdict","id":"d-00000003","layer":"dns","verdict":"deny","structural":true,"reason":"not a host name","query":"-","record_type":"A","count":3}
{"event":"overflow","layer":"dns","count":9}
{"event":"stop"}
`

// suggest needs no running session: it reads the log that an ended one left,
// or the one that is named.
func TestSuggest(t *testing.T) {
	env := testEnv(t)
	path := writeAudit(t, env, "ended", someAudit)
	for _, args := range [][]string{{"suggest", "ended"}, {"suggest", "--session", "ended"}, {"suggest", "--audit", path}} {
		code, out, errOut := call(t, env, args...)
		if code != 0 || errOut != "" {
			t.Fatalf("%v: code %d, %s", args, code, errOut)
		}
		for _, want := range []string{"0 of 5 attempts change verdict", "# 9 more", `    condition: 'dns.query == "api.test"'`, "#   dns new.test A"} {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q in\n%s", args, want, out)
			}
		}
		if strings.Contains(out, "id: name-new.test") {
			t.Errorf("%v: what was only observed became a rule\n%s", args, out)
		}
	}
	code, out, _ := call(t, env, "suggest", "ended", "--would-deny")
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rules, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if code2, _, errOut := call(t, env, "rules", "check", rules); code != 0 || code2 != 0 || !strings.Contains(out, "id: name-new.test-observed") {
		t.Errorf("--would-deny: codes %d, %d, %s\n%s", code, code2, errOut, out)
	}
	code, out, _ = call(t, env, "suggest", "ended", "--json")
	var s suggestionText
	if err := json.Unmarshal([]byte(out), &s); code != 0 || err != nil || s.Attempts != 5 || s.Lost != 9 || len(s.Apart) != 1 || len(s.Denied) != 1 || s.Denied[0].Count != 3 {
		t.Errorf("--json: code %d, %v, %+v", code, err, s)
	}
}

// What the rules cannot keep is told, with exit code 1; a log that cannot be
// read whole gives no rules.
func TestSuggestRefuses(t *testing.T) {
	env := testEnv(t)
	writeAudit(t, env, "mixed", someAudit+`{"event":"verdict","id":"d-00000004","layer":"dns","verdict":"deny","rule":"r","query":"api.test","record_type":"A"}`+"\n")
	code, out, errOut := call(t, env, "suggest", "mixed")
	if code != exitError || !strings.Contains(out, "rules: []") || !strings.Contains(errOut, "1 of 6 attempts change verdict") {
		t.Errorf("a conflict: code %d, %s\n%s", code, errOut, out)
	}
	writeAudit(t, env, "torn", someAudit+`{"event":"verd`)
	if code, out, errOut := call(t, env, "suggest", "torn"); code != exitError || out != "" || !strings.Contains(errOut, "line 7") {
		t.Errorf("a torn log: code %d, %q, %s", code, out, errOut)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"suggest", exitError, "no session"},
		{"suggest gone", exitError, "gone"},
		{"suggest ../x", exitError, ""},
		{"suggest a b", exitUsage, "unexpected argument"},
		{"suggest a --audit b", exitUsage, "exclude"},
		{"suggest --audit /none/x", exitError, "/none/x"},
	} {
		if code, out, errOut := call(t, env, strings.Fields(c.args)...); code != c.code || out != "" || !strings.Contains(errOut, c.want) {
			t.Errorf("%q: code %d, %q, %q", c.args, code, out, errOut)
		}
	}
}
