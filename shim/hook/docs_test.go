package hook

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"outcall/policy"
	"outcall/shim/ask"
)

// The rules of docs/hooks.md do to each call of its table what the table says.
func TestDocumentedRules(t *testing.T) {
	page, err := os.ReadFile("../../docs/hooks.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("there is no rule file")
	}
	snap, err := policy.Load([]policy.Source{{Path: "docs/hooks.md", Data: m[1]}})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range snap.Warnings() {
		t.Errorf("warning: %v", w)
	}
	row := regexp.MustCompile("(?m)^\\| (claude-code|codex|gemini) \\| (\\S+) \\| `(.*)` \\| (.*) \\|$")
	rows := row.FindAllStringSubmatch(string(page), -1)
	if len(rows) < 10 {
		t.Errorf("the table has %d calls", len(rows))
	}
	for _, r := range rows {
		input := strings.ReplaceAll(r[3], `\|`, "|")
		code, _, _, stderr := play(t, r[1], strings.NewReader(payload(r[1], r[2], input)), func(q *ask.Question) (ask.Verdict, error) {
			return judge(t, snap, q), nil
		})
		if goes := r[4] == "goes on"; goes != (code == 0) || !goes && !strings.Contains(stderr, r[4]) {
			t.Errorf("%s %s: code %d, %q; the page says %s", r[2], input, code, stderr, r[4])
		}
	}
}

// judge is what a session does with a question that is no network call.
func judge(t *testing.T, snap *policy.Snapshot, q *ask.Question) ask.Verdict {
	t.Helper()
	run := policy.Run{Tool: q.Target, Cwd: q.Metadata["cwd"], Context: map[string]any{"action_type": q.Action, "target": q.Target}}
	for k, v := range q.Metadata {
		run.Context[k] = v
	}
	if q.Action == ask.FileAccess {
		run.Tool, run.Args = "file", []string{q.Target}
	} else if text := q.Metadata["args_json"]; text != "" {
		if err := json.Unmarshal([]byte(text), &run.Args); err != nil {
			t.Fatal(err)
		}
	}
	f := policy.NewFacts(policy.LayerRun, policy.Who{})
	f.SetRun(run)
	o := snap.Step(f)
	return ask.Verdict{Allowed: o.Word == policy.Allow, Rule: o.RuleID(), Reason: o.Reason}
}
