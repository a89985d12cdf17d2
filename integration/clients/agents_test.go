//go:build clients

package clients

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A cli is a coding agent's program from the npm registry, with its hook.
type cli struct {
	agent    string // as hooks install names it
	pkg      string
	argv     []string // argv[0] in node_modules/.bin
	tool     string   // its shell
	settings string   // where the hook is installed
	env      []string // MODEL is the model's URL
	prepare  func(t *testing.T, home string)
}

var (
	claude = cli{agent: "claude-code", pkg: "@anthropic-ai/claude-code@2.1.332", tool: "Bash", settings: ".claude/settings.json",
		argv: []string{"claude", "-p", "go", "--dangerously-skip-permissions"},
		env: []string{"ANTHROPIC_BASE_URL=MODEL", "ANTHROPIC_API_KEY=none", "DISABLE_TELEMETRY=1", "DISABLE_AUTOUPDATER=1",
			"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "ENABLE_TOOL_SEARCH=false"}}
	gemini = cli{agent: "gemini", pkg: "@google/gemini-cli@0.61.0", tool: "run_shell_command", settings: ".gemini/settings.json",
		argv: []string{"gemini", "-m", "gemini-2.5-pro", "-p", "go", "--yolo"},
		env:  []string{"GOOGLE_GEMINI_BASE_URL=MODEL", "GEMINI_API_KEY=none", "GEMINI_CLI_TRUST_WORKSPACE=true", "GEMINI_CLI_NO_RELAUNCH=true"},
		prepare: func(t *testing.T, home string) {
			write(t, filepath.Join(home, ".gemini/settings.json"), `{"security":{"auth":{"selectedType":"gemini-api-key"}},"privacy":{"usageStatisticsEnabled":false}}`)
		}}
)

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// installed are the packages that npm has installed for these tests.
var installed = map[string]string{}

// bin installs the program, at the version that is pinned above.
func (c cli) bin(t *testing.T) string {
	t.Helper()
	dir, ok := installed[c.pkg]
	if !ok {
		dir = filepath.Join(filepath.Dir(outcall), "npm-"+c.agent)
		ctx, stop := context.WithTimeout(t.Context(), 8*time.Minute)
		defer stop()
		out, err := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--loglevel=error", c.pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("npm install %s: %v (npm and Node.js 20 must be installed, `make deps`, and the registry must answer)\n%s", c.pkg, err, out)
		}
		installed[c.pkg] = dir
	}
	return filepath.Join(dir, "node_modules/.bin", c.argv[0])
}

// A play is one turn of an agent in a sandbox: the model asks for one tool.
type play struct {
	tool   string // the agent's shell, where ""
	input  map[string]any
	rules  string            // of the run layer
	before string            // shell text that is run inside before the agent
	change map[string]string // in the installed settings
	files  map[string]string // in the work directory
	args   []string          // more of the agent's
}

// run plays and returns what the model was told and the work directory.
func (c cli) run(t *testing.T, p play) (result, work, audit string) {
	t.Helper()
	bin := c.bin(t)
	if p.tool == "" {
		p.tool = c.tool
	}
	m := serveModel(t, p.tool, p.input)
	dir, err := os.MkdirTemp("/var/tmp", "agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", dir).Run(); os.RemoveAll(dir) })
	work, home := filepath.Join(dir, "work"), filepath.Join(dir, "home")
	write(t, filepath.Join(work, "README"), "a project\n")
	write(t, filepath.Join(home, ".profile"), "")
	if c.prepare != nil {
		c.prepare(t, home)
	}
	for name, text := range p.files {
		write(t, filepath.Join(work, name), text)
	}
	if out, err := exec.Command(outcall, "hooks", "install", c.agent, "--yes", "--dir", work).CombinedOutput(); err != nil {
		t.Fatalf("hooks install: %v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(work, c.settings))
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range p.change {
		if !strings.Contains(string(text), from) {
			t.Fatalf("no %s in %s", from, text)
		}
		text = []byte(strings.ReplaceAll(string(text), from, strings.ReplaceAll(to, "WORK", work)))
	}
	write(t, filepath.Join(work, c.settings), string(text))
	rules := filepath.Join(dir, "rules.yaml")
	write(t, rules, "version: \"1\"\nrules:\n  - id: model\n    action: allow\n    condition: 'dns.query == \"host.outcall.internal\""+
		" || (network.hostname == \"host.outcall.internal\" && network.port == "+m.Port+")'\n"+p.rules)
	if os.Geteuid() == 0 {
		if out, err := exec.Command("sh", "-c", "chmod 755 "+dir+" && chown -R 1777:1777 "+work+" "+home).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	audit = filepath.Join(dir, "audit", "audit.jsonl")
	if err := os.Mkdir(filepath.Dir(audit), 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "-q", "--audit", audit, "--rules", rules, "-e", "HOME=" + home}
	for _, e := range c.env {
		args = append(args, "-e", strings.Replace(e, "MODEL", "http://host.outcall.internal:"+m.Port, 1))
	}
	args = append(append(args, "--", "sh", "-c", p.before+"\n"+`exec "$@"`, "sh", bin), append(c.argv[1:len(c.argv):len(c.argv)], p.args...)...)
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, outcall, args...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "SUDO_UID=", "SUDO_GID=")
	out, err := cmd.CombinedOutput()
	results, seen := m.told()
	lines, _ := os.ReadFile(audit)
	if len(results) == 0 {
		t.Fatalf("%s told the model of no tool call: %v\n%s\nthe model saw %q\naudit:\n%s", c.agent, err, out, seen, lines)
	}
	return results[0], work, string(lines)
}

func exists(work, name string) bool {
	_, err := os.Lstat(filepath.Join(work, name))
	return err == nil
}

func command(text string) map[string]any {
	return map[string]any{"command": text, "description": "make a file"}
}

const (
	allowAll = `
  - id: all-tools
    condition: 'run.tool != ""'
    action: allow
`
	allowGo = `
  - id: touch-go
    condition: 'run.tool == "touch" && run.args == ["go"]'
    action: allow
`
)

// Faults of the way to a verdict. Each has a policy that would allow the call.
var faults = []struct {
	name   string
	before string
	change map[string]string
	want   string // in what the model is told; "" where the agent has its own words
}{
	{name: "socket missing", before: `export OUTCALL_AGENT_SOCK=$PWD/none`, want: "outcall: no verdict"},
	{name: "server stalled", before: fault("stalled"), want: "outcall: no verdict"},
	{name: "server killed", before: fault("killed"), want: "outcall: no verdict"},
	{name: "answer malformed", before: fault("malformed"), want: "outcall: no verdict"},
	{name: "answer refused", before: fault("refused"), want: "outcall: no verdict"},
	{name: "shim absent", change: map[string]string{"/run/outcall/bin/outcall-agent": "/run/outcall/bin/absent"}, want: "ended with status 127"},
	{name: "shim absent from PATH", before: fault("malformed") + "; export PATH=/usr/local/bin:/usr/bin:/bin", want: "outcall: no verdict"},
	{name: "shim not executable", change: map[string]string{"/run/outcall/bin/outcall-agent": "WORK"}, want: "ended with status"},
	{name: "shim killed", change: map[string]string{"/run/outcall/bin/outcall-agent": "WORK/killed.sh"}, want: "ended with status 137"},
	{name: "shim fails", change: map[string]string{"/run/outcall/bin/outcall-agent": "false"}, want: "ended with status 1"},
}

func fault(mode string) string {
	return `export OUTCALL_AGENT_SOCK=$PWD/s OUTCALL_TIMEOUT_SECS=3; node server.js ` + mode + ` s & while ! [ -e s ]; do sleep 0.1; done`
}

// server.js answers the check-in as a session does, and then fails.
const faultServer = `
const net = require('net');
const [mode, path] = process.argv.slice(2);
const reply = (c, status, body) => c.end('HTTP/1.1 ' + status + ' X\r\nContent-Length: ' + body.length + '\r\n\r\n' + body);
net.createServer(c => {
  c.on('error', () => {});
  c.on('data', d => {
    if (String(d).includes('/v1/checkin')) return reply(c, 200, '{"session_token":"tok-0123456789abcdef0123456789abcdef"}');
    if (mode === 'killed') process.kill(process.pid, 'SIGKILL');
    if (mode === 'malformed') reply(c, 200, '{"allowed":"true"}');
    if (mode === 'refused') reply(c, 500, '{"allowed":true}');
  });
}).listen(path);
setTimeout(() => process.exit(), 120000);
`

func testAgent(t *testing.T, c cli) {
	id := regexp.MustCompile(`\(d-[0-9a-f]{8}\)`)
	t.Run("denied", func(t *testing.T) {
		result, work, audit := c.run(t, play{input: command("touch go && touch canary"), rules: allowGo})
		if exists(work, "canary") || exists(work, "go") {
			t.Error("the tool ran")
		}
		found := id.FindString(result)
		if !strings.Contains(result, "outcall: denied by default policy: touch canary: ") || found == "" || !strings.Contains(audit, strings.Trim(found, "()")) {
			t.Errorf("the model was told %s\naudit:\n%s", result, audit)
		}
	})
	t.Run("allowed", func(t *testing.T) {
		result, work, _ := c.run(t, play{input: command("touch go"), rules: allowGo})
		if !exists(work, "go") || strings.Contains(result, "outcall") {
			t.Errorf("the model was told %s", result)
		}
	})
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			result, work, _ := c.run(t, play{input: command("touch canary"), rules: allowAll, before: f.before, change: f.change,
				files: map[string]string{"server.js": faultServer, "killed.sh": "#!/bin/sh\nkill -9 $$\n"}})
			if exists(work, "canary") {
				t.Error("the tool ran")
			}
			if !strings.Contains(result, f.want) {
				t.Errorf("the model was told %s, want %q", result, f.want)
			}
		})
	}
}

// The real programs, with all their own permissions given: a call that the
// policy denies is refused in our words, one that it allows runs, and without
// a verdict none does.
func TestClaudeCode(t *testing.T) {
	testAgent(t, claude)
	// Beyond the installed time-out the agent itself blocks (onFailure).
	t.Run("hook too slow", func(t *testing.T) {
		result, work, _ := claude.run(t, play{input: command("touch canary"), rules: allowAll, files: map[string]string{"slow.sh": "#!/bin/sh\nsleep 6\n"},
			change: map[string]string{"/run/outcall/bin/outcall-agent": "WORK/slow.sh", `"timeout": 60`: `"timeout": 1`}})
		if exists(work, "canary") {
			t.Errorf("the tool ran: %s", result)
		}
	})
	t.Run("Write", func(t *testing.T) {
		result, work, _ := claude.run(t, play{tool: "Write", input: map[string]any{"file_path": "/var/tmp/outcall-canary", "content": "x"}, rules: allowGo})
		if !strings.Contains(result, "outcall: denied by default policy: write /var/tmp/outcall-canary: ") || exists("/var/tmp", "outcall-canary") {
			t.Errorf("the model was told %s (in %s)", result, work)
		}
	})
	t.Run("WebFetch", func(t *testing.T) {
		result, _, _ := claude.run(t, play{tool: "WebFetch", input: map[string]any{"url": "https://evil.test/x", "prompt": "read"}, rules: allowGo})
		if !strings.Contains(result, "outcall: denied by default policy: https://evil.test/x: ") {
			t.Errorf("the model was told %s", result)
		}
	})
	t.Run("MCP", func(t *testing.T) {
		result, _, _ := claude.run(t, play{tool: "mcp__outcall__check", input: map[string]any{"action": "network_call", "target": "https://evil.test/"},
			args: []string{"--mcp-config", ".mcp.json"}, rules: strings.Replace(allowGo, `run.tool == "touch" && run.args == ["go"]`, `run.tool == "mcp__outcall__check"`, 1)})
		if !strings.Contains(result, "denied by default policy") || strings.Contains(result, "outcall: denied") {
			t.Errorf("the model was told %s", result)
		}
	})
}

func TestGeminiCLI(t *testing.T) { testAgent(t, gemini) }
