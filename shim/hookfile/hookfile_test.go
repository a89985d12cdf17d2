package hookfile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"outcall/shim/hook"
)

// apply plans and writes, and says how many files changed.
func apply(t *testing.T, dir string, plan func(dir, agent string) ([]Change, error), agent string) int {
	t.Helper()
	changes, err := plan(dir, agent)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, changes); err != nil {
		t.Fatal(err)
	}
	return len(changes)
}

func get(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestInstall(t *testing.T) {
	for agent, files := range map[string][]string{
		"claude-code": {".claude/settings.json", ".mcp.json"}, "codex": {".codex/hooks.json"}, "gemini": {".gemini/settings.json"},
	} {
		dir := t.TempDir()
		if n := apply(t, dir, Install, agent); n != len(files) {
			t.Errorf("%s: %d files", agent, n)
		}
		all := ""
		for _, f := range files {
			text := get(t, dir, f)
			if !json.Valid([]byte(text)) {
				t.Errorf("%s: %s", f, text)
			}
			all += text
		}
		for _, want := range []string{`"command": "/run/outcall/bin/outcall-agent hook ` + agent + ` || {`, `exit 2; }"`, `"matcher": "*"`, `"timeout": 60`, ">&2"} {
			if !strings.Contains(all, want) {
				t.Errorf("%s: no %s in\n%s", agent, want, all)
			}
		}
		if n := apply(t, dir, Install, agent); n != 0 {
			t.Errorf("%s: installed again, %d files changed", agent, n)
		}
		apply(t, dir, Remove, agent)
		for _, f := range files {
			if got := strings.TrimSpace(get(t, dir, f)); got != "{}" {
				t.Errorf("%s after remove: %s", f, got)
			}
		}
	}
	if names := hook.Names(); len(names) != 3 {
		t.Errorf("agents %v", names)
	}
	if _, err := Install(t.TempDir(), "cursor"); err == nil || !strings.Contains(err.Error(), "want claude-code, codex, gemini") {
		t.Error(err)
	}
}

// What else stands in the file keeps its bytes, also through an update.
func TestMerge(t *testing.T) {
	const mine = `{
	"permissions": { "allow": ["Bash(ls:*)"],"deny":[ ] },
	"hooks": {
		"PreToolUse": [
			{"matcher": "Bash", "hooks": [{"type":"command","command":"./mine.sh"}, {"type":"command","command":"/old/outcall-agent hook claude-code"}]}
		],
		"Stop": [ ]
	},
	"emoji":"\u2603 <&>"
}
`
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, ".claude"), 0o755)
	file := filepath.Join(dir, ".claude/settings.json")
	os.WriteFile(file, []byte(mine), 0o600)
	apply(t, dir, Install, "claude-code")
	text := get(t, dir, ".claude/settings.json")
	for _, want := range []string{`	"permissions": { "allow": ["Bash(ls:*)"],"deny":[ ] },`, `"emoji":"\u2603 <&>"`, `[{"type":"command","command":"./mine.sh"}]}`, `"Stop": [ ]`, "\t\t\t{\n\t\t\t\t\"hooks\": ["} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "/old/") || strings.Count(text, "outcall-agent hook") != 1 {
		t.Errorf("the old hook is there:\n%s", text)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", st.Mode(), err)
	}
	if n := apply(t, dir, Install, "claude-code"); n != 0 {
		t.Errorf("again: %d", n)
	}
	apply(t, dir, Remove, "claude-code")
	want := strings.Replace(mine, `, {"type":"command","command":"/old/outcall-agent hook claude-code"}`, "", 1)
	if got := get(t, dir, ".claude/settings.json"); got != want {
		t.Errorf("after remove\n%s\nwant\n%s", got, want)
	}
}

// What is not outcall's stays, whatever it is.
func TestRemoveKeepsOthers(t *testing.T) {
	for _, mine := range []string{`{"hooks":5}`, `{"hooks":{"PreToolUse":""}}`, `{"hooks":{"Stop":[]}}`, `{"mcpServers":{"outcall":{"command":"mine"}}}`, ``} {
		p := place{event: "PreToolUse", mcp: true}
		if got, err := p.uninstall([]byte(mine)); err != nil || string(got) != mine {
			t.Errorf("%s became %s, %v", mine, got, err)
		}
	}
}

func TestInstallRefused(t *testing.T) {
	for name, prepare := range map[string]func(dir, file string) error{
		"malformed":           func(_, f string) error { return os.WriteFile(f, []byte("{\n  // x\n}"), 0o644) },
		"no object":           func(_, f string) error { return os.WriteFile(f, []byte("[]"), 0o644) },
		"key twice":           func(_, f string) error { return os.WriteFile(f, []byte(`{"hooks":{},"hooks":{}}`), 0o644) },
		"hooks of another":    func(_, f string) error { return os.WriteFile(f, []byte(`{"hooks":[]}`), 0o644) },
		"an event of another": func(_, f string) error { return os.WriteFile(f, []byte(`{"hooks":{"PreToolUse":{}}}`), 0o644) },
		"too long":            func(_, f string) error { return os.WriteFile(f, make([]byte, maxFile+1), 0o644) },
		"link":                func(_, f string) error { return os.Symlink("/etc/hostname", f) },
		"dangling link":       func(dir, f string) error { return os.Symlink(filepath.Join(dir, "x"), f) },
		"fifo":                func(_, f string) error { return syscall.Mkfifo(f, 0o644) },
		"directory":           func(_, f string) error { return os.Mkdir(f, 0o755) },
		"linked directory": func(dir, f string) error {
			os.Remove(filepath.Dir(f))
			return os.Symlink(t.TempDir(), filepath.Dir(f))
		},
		"server of another": func(dir, _ string) error {
			return os.WriteFile(filepath.Join(dir, ".mcp.json"), []byte(`{"mcpServers":{"outcall":{"command":"mine"}}}`), 0o644)
		},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, ".claude/settings.json")
		os.Mkdir(filepath.Dir(file), 0o755)
		if err := prepare(dir, file); err != nil {
			t.Fatal(err)
		}
		if changes, err := Install(dir, "claude-code"); err == nil {
			t.Errorf("%s was taken: %v", name, changes)
		}
		if _, err := os.Stat(filepath.Join(dir, "x")); err == nil {
			t.Errorf("%s: written through the link", name)
		}
	}
	dir := t.TempDir()
	changes, err := Install(dir, "gemini")
	if err != nil {
		t.Fatal(err)
	}
	os.Mkdir(filepath.Join(dir, ".gemini"), 0o755)
	os.WriteFile(filepath.Join(dir, ".gemini/settings.json"), []byte("{}"), 0o644)
	if err := Write(dir, changes); err == nil || get(t, dir, ".gemini/settings.json") != "{}" {
		t.Errorf("a file that was changed meanwhile: %v", err)
	}
}

func TestDiff(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, ".mcp.json"), []byte("{\n  \"mcpServers\": {\n    \"x\": {}\n  }\n}\n"), 0o644)
	changes, err := Install(dir, "claude-code")
	if err != nil || len(changes) != 2 {
		t.Fatal(changes, err)
	}
	want := "--- .mcp.json\n+++ .mcp.json\n@@ line 3 @@\n {\n   \"mcpServers\": {\n-    \"x\": {}\n+    \"x\": {},\n+    \"outcall\": {\n" +
		"+      \"args\": [\n+        \"mcp\"\n+      ],\n+      \"command\": \"/run/outcall/bin/outcall-agent\"\n+    }\n   }\n }\n"
	if got := changes[1].Diff(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func FuzzEdit(f *testing.F) {
	for _, s := range []string{`{}`, `{"hooks":{"PreToolUse":[]}}`, "{\n\t\"a\": [1, {\"b\":\"\\\"\"}]\n}", `{"mcpServers":{"outcall":{"command":"outcall-agent"}}}`, ` { "hooks" : { } } `} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, agent := range hook.Names() {
			list, _ := places(agent)
			for _, p := range list {
				out, err := p.install([]byte(text))
				if err != nil {
					continue
				}
				if !json.Valid(out) {
					t.Fatalf("%s made\n%s", text, out)
				}
				again, err := p.install(out)
				if err != nil || string(again) != string(out) {
					t.Fatalf("again: %v\n%s\n%s", err, out, again)
				}
				if back, err := p.uninstall(out); err != nil || !json.Valid(back) || strings.Contains(string(back), Shim+" hook") {
					t.Fatalf("remove: %v\n%s", err, back)
				}
			}
		}
	})
}

// A hook under keys that the agent does not read is none.
func TestKeysInOtherCase(t *testing.T) {
	for _, agent := range hook.Names() {
		list, err := places(agent)
		if err != nil {
			t.Fatal(err)
		}
		text, err := list[0].install(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"hooks", "matcher", list[0].event} {
			planted := []byte(strings.Replace(string(text), `"`+key+`"`, `"`+strings.ToUpper(key)+`"`, 1))
			if done, err := list[0].installed(planted); done || err != nil {
				t.Errorf("%s: %q in capitals counts as installed (%v)", agent, key, err)
			}
		}
		if done, err := list[0].installed(text); !done || err != nil {
			t.Errorf("%s: %v, %v", agent, done, err)
		}
	}
}
