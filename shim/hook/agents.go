package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
)

// An agent is one program's protocol.
type agent struct {
	name  string
	event string
	tools map[string]reader
	deny  func(words string) any
}

// Names are the agents whose hook is known.
func Names() []string {
	var names []string
	for n := range agents {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

var agents = map[string]agent{
	"claude-code": {"claude-code", "PreToolUse", claudeTools, denyPreToolUse},
	"codex":       {"codex", "PreToolUse", codexTools, denyPreToolUse},
	"gemini":      {"gemini", "BeforeTool", geminiTools, denyBeforeTool},
}

func denyPreToolUse(words string) any {
	type decision struct {
		Event    string `json:"hookEventName"`
		Decision string `json:"permissionDecision"`
		Reason   string `json:"permissionDecisionReason"`
	}
	return struct {
		Output decision `json:"hookSpecificOutput"`
	}{decision{"PreToolUse", "deny", words}}
}

func denyBeforeTool(words string) any {
	return struct {
		Decision string `json:"decision"`
		Reason   string `json:"reason"`
	}{"deny", words}
}

// Tools per agent. One that is not here is asked about by its name: no rule of
// default allows it.
var (
	claudeTools = map[string]reader{
		"Bash": shell("command"), "Monitor": monitor, "PowerShell": unreadable("PowerShell is not read here"),
		"Read": file("read", "file_path"), "NotebookRead": file("read", "notebook_path"), "LS": file("read", "path"),
		"Write": file("write", "file_path"), "Edit": file("write", "file_path"), "MultiEdit": file("write", "file_path"),
		"NotebookEdit": file("write", "notebook_path"),
		"Glob":         search("path", "pattern"), "Grep": search("path", "glob"),
		"WebFetch": fetch("url"), "EnterWorktree": worktree,
	}
	codexTools = map[string]reader{
		"Bash": shell("command"), "apply_patch": patch("command"), "view_image": file("read", "path"),
	}
	geminiTools = map[string]reader{
		"run_shell_command": geminiShell,
		"read_file":         file("read", "file_path"), "write_file": file("write", "file_path"), "replace": file("write", "file_path"),
		"list_directory": file("read", "dir_path"), "glob": search("dir_path", "pattern"), "grep_search": search("dir_path", "include_pattern"),
		"search_file_content": search("dir_path", "include"), "read_many_files": searches("include"),
		"web_fetch": fetches("prompt", "url"),
	}
)

// A toolCall is what an agent is about to do.
type toolCall struct {
	agent     agent
	tool      string
	cwd, home string
	input     map[string]json.RawMessage
}

// parse reads the hook's input. Keys are compared exactly, as the agents do;
// keys that are not used here are left alone, for the agents add some.
func parse(a agent, text []byte) (*toolCall, error) {
	if len(text) > maxInput {
		return nil, fmt.Errorf("more than %d bytes", maxInput)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	var top map[string]json.RawMessage
	if err := d.Decode(&top); err != nil {
		return nil, fmt.Errorf("no JSON object: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	t := &toolCall{agent: a}
	event, err := text1(top, "hook_event_name")
	if err == nil && event != a.event {
		err = fmt.Errorf("this hook is for %s, not for %s", a.event, event)
	}
	if err != nil {
		return nil, err
	}
	if t.tool, err = text1(top, "tool_name"); err != nil {
		return nil, err
	}
	if t.cwd, err = text1(top, "cwd"); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(t.cwd) {
		return nil, fmt.Errorf("cwd %q is no absolute path", t.cwd)
	}
	if err := json.Unmarshal(top["tool_input"], &t.input); err != nil || t.input == nil {
		return nil, errors.New("tool_input is no JSON object")
	}
	return t, nil
}

// text1 is a string that must be there and not empty.
func text1(m map[string]json.RawMessage, key string) (string, error) {
	s, err := text0(m, key)
	if err == nil && s == "" {
		err = fmt.Errorf("%s is missing", key)
	}
	return s, err
}

// text0 is a string that may be missing.
func text0(m map[string]json.RawMessage, key string) (string, error) {
	raw, ok := m[key]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", fmt.Errorf("%s is no string", key)
	}
	return *s, nil
}
