package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outcall/sandbox/session"
)

// hooks install shows first, writes only after a yes, and only once.
func TestHooksInstall(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, ".claude/settings.json")
	run := func(want int, wantOut, wantErr string, args ...string) {
		t.Helper()
		code, out, errOut := call(t, session.Env{}, append([]string{"hooks"}, append(args, "--dir", dir)...)...)
		if code != want || !strings.Contains(out, wantOut) || !strings.Contains(errOut, wantErr) {
			t.Errorf("%q: code %d\n%s%s\nwant %d, %q, %q", args, code, out, errOut, want, wantOut, wantErr)
		}
	}
	missing := func() {
		t.Helper()
		if _, err := os.Stat(file); err == nil {
			t.Error("it was written")
		}
	}
	run(0, "+++ .claude/settings.json", "", "install", "claude-code", "--dry-run")
	missing()
	run(1, "+++ .mcp.json", "use --yes; nothing was written", "install", "claude-code")
	missing()
	run(0, "/run/outcall/bin/outcall-agent hook claude-code", "", "install", "claude-code", "--yes")
	run(0, "", "nothing to do", "install", "claude-code")
	run(0, "-    \"PreToolUse\"", "", "remove", "claude-code", "--yes")
	run(0, "", "trusted it", "install", "codex", "--yes")
	run(1, "", "unknown agent \"cursor\"", "install", "cursor")
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != "{}" {
		t.Errorf("%s %v", b, err)
	}
}
