package hookfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"outcall/shim/hook"
)

// Shim is where the program stands inside each session.
const Shim = "/run/outcall/bin/outcall-agent"

// Command is the command line that an agent runs as its hook. What ends in any
// other way than the two that the hook has (no program, a signal) is made the
// agent's own blocking code, with words, without which Codex goes on.
func Command(agent string) string {
	return Shim + " hook " + agent + ` || { s=$?; [ $s -eq 2 ] || echo "outcall: no verdict: the hook ended with status $s; the tool was not run" >&2; exit 2; }`
}

// A place is a settings file and what stands in it for outcall.
type place struct {
	path  string
	event string // of the hook; "" is none
	hook  map[string]any
	mcp   bool
}

// places are the files of each agent.
func places(agent string) ([]place, error) {
	seconds := int(hook.AgentTimeout.Seconds())
	entry := map[string]any{"type": "command", "command": Command(agent)}
	switch agent {
	case "claude-code":
		entry["timeout"], entry["onFailure"] = seconds, "block"
		return []place{{path: ".claude/settings.json", event: "PreToolUse", hook: entry}, {path: ".mcp.json", mcp: true}}, nil
	case "codex":
		entry["timeout"] = seconds
		return []place{{path: ".codex/hooks.json", event: "PreToolUse", hook: entry}}, nil
	case "gemini":
		entry["name"], entry["timeout"] = "outcall", 1000*seconds
		return []place{{path: ".gemini/settings.json", event: "BeforeTool", hook: entry, mcp: true}}, nil
	}
	return nil, fmt.Errorf("unknown agent %q: want %s", agent, strings.Join(hook.Names(), ", "))
}

// ours tells a hook of outcall's from others.
func ours(h any) bool {
	m, _ := h.(map[string]any)
	command, _ := m["command"].(string)
	return strings.Contains(command, "outcall-agent hook ")
}

// install returns a settings text with outcall's entries in it. "" is a file
// that is not there.
func (p place) install(text []byte) ([]byte, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		text = []byte("{}\n")
	}
	if p.event != "" {
		done, err := p.installed(text)
		if err != nil {
			return nil, err
		}
		if !done {
			if text, err = p.removeHook(text); err != nil {
				return nil, err
			}
			group := map[string]any{"matcher": "*", "hooks": []any{p.hook}}
			if text, err = put(text, []string{"hooks", p.event}, group); err != nil {
				return nil, err
			}
		}
	}
	if !p.mcp {
		return text, nil
	}
	return installMCP(text)
}

// installed tells whether the hook stands there as it would be written. Keys
// are compared exactly, as the agents do: under "Hooks" it is no hook.
func (p place) installed(text []byte) (bool, error) {
	var root map[string]any
	if err := json.Unmarshal(text, &root); err != nil {
		return false, nil // told by what reads it next
	}
	strange := fmt.Errorf("its hooks are not what the agent reads")
	events, ok := root["hooks"].(map[string]any)
	if !ok {
		if root["hooks"] != nil {
			return false, strange
		}
		return false, nil
	}
	groups, ok := events[p.event].([]any)
	if !ok && events[p.event] != nil {
		return false, strange
	}
	want, err := json.Marshal(p.hook)
	if err != nil {
		return false, err
	}
	n, same := 0, false
	for _, g := range groups {
		group, ok := g.(map[string]any)
		hooks, list := group["hooks"].([]any)
		if !ok || !list && group["hooks"] != nil {
			return false, strange
		}
		for _, h := range hooks {
			if !ours(h) {
				continue
			}
			have, err := json.Marshal(h)
			if err != nil {
				return false, err
			}
			n++
			same = group["matcher"] == "*" && bytes.Equal(have, want)
		}
	}
	return n == 1 && same, nil
}

var server = map[string]any{"command": Shim, "args": []any{"mcp"}}

func installMCP(text []byte) ([]byte, error) {
	root, err := scan(text)
	if err != nil {
		return nil, err
	}
	servers, _ := root.find("mcpServers")
	if old, i := servers.find("outcall"); i >= 0 {
		var have map[string]any
		_ = json.Unmarshal(text[old.start:old.end], &have) // else it stays nil
		if reflect.DeepEqual(have, server) {
			return text, nil
		}
		command, _ := have["command"].(string)
		if !strings.HasSuffix(command, "outcall-agent") {
			return nil, fmt.Errorf("another MCP server is named outcall: rename it first")
		}
		text = remove(text, servers, i)
	}
	return putKey(text, []string{"mcpServers"}, "outcall", server)
}

// put appends a value to the array at a path, which is made where missing.
func put(text []byte, path []string, value any) ([]byte, error) {
	return putKey(text, path, "", value)
}

func putKey(text []byte, path []string, key string, value any) ([]byte, error) {
	root, err := scan(text)
	if err != nil {
		return nil, err
	}
	n := root
	for i, step := range path {
		if n.kind != '{' {
			return nil, fmt.Errorf("%s is no object", strings.Join(append([]string{"the file"}, path[:i]...), "."))
		}
		kid, at := n.find(step)
		if at < 0 {
			if key != "" {
				value = map[string]any{key: value}
			} else {
				value = []any{value}
			}
			for _, s := range slices.Backward(path[i+1:]) {
				value = map[string]any{s: value}
			}
			return insert(text, root, n, step, value), nil
		}
		n = kid
	}
	if want := map[bool]byte{true: '[', false: '{'}[key == ""]; n.kind != want {
		return nil, fmt.Errorf("%s is of another type than the agent reads", strings.Join(path, "."))
	}
	return insert(text, root, n, key, value), nil
}

// uninstall returns a settings text without outcall's entries.
func (p place) uninstall(text []byte) ([]byte, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return text, nil
	}
	var err error
	if p.event != "" {
		if text, err = p.removeHook(text); err != nil {
			return nil, err
		}
		if text, err = prune(text, "hooks", p.event); err != nil {
			return nil, err
		}
	}
	if !p.mcp {
		return text, nil
	}
	root, err := scan(text)
	if err != nil {
		return nil, err
	}
	servers, _ := root.find("mcpServers")
	old, i := servers.find("outcall")
	if i < 0 || !bytes.Contains(text[old.start:old.end], []byte("outcall-agent")) {
		return text, nil
	}
	return prune(remove(text, servers, i), "mcpServers", "")
}

// removeHook takes out each hook of outcall's, and a group that held no other.
func (p place) removeHook(text []byte) ([]byte, error) {
	for {
		root, err := scan(text)
		if err != nil {
			return nil, err
		}
		if root.kind != '{' {
			return nil, fmt.Errorf("it is no JSON object")
		}
		hooks, _ := root.find("hooks")
		groups, _ := hooks.find(p.event)
		next := text
		for i, g := range groups.kids {
			list, _ := g.find("hooks")
			for j, h := range list.kids {
				var v any
				_ = json.Unmarshal(text[h.start:h.end], &v) // valid, see scan
				if !ours(v) {
					continue
				}
				if len(list.kids) == 1 {
					next = remove(text, groups, i)
				} else {
					next = remove(text, list, j)
				}
			}
			if !bytes.Equal(next, text) {
				break
			}
		}
		if bytes.Equal(next, text) {
			return text, nil
		}
		text = next
	}
}

// prune takes out what is empty now: root[a][b], then root[a].
func prune(text []byte, a, b string) ([]byte, error) {
	root, err := scan(text)
	if err != nil {
		return nil, err
	}
	outer, i := root.find(a)
	if b != "" {
		if inner, j := outer.find(b); j >= 0 && inner.kind == '[' && len(inner.kids) == 0 {
			return prune(remove(text, outer, j), a, "")
		}
	}
	if i >= 0 && outer.kind == '{' && len(outer.kids) == 0 {
		return remove(text, root, i), nil
	}
	return text, nil
}
