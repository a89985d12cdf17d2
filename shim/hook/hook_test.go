package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"outcall/shim/ask"
)

// payload is a call as an agent hands it over.
func payload(agentName, tool, input string) string {
	a := agents[agentName]
	common := `"session_id":"3f0c","transcript_path":"/h/t.jsonl","cwd":"/project","permission_mode":"bypassPermissions","tool_use_id":"toolu_01",`
	if agentName == "gemini" {
		common = `"session_id":"3f0c","transcript_path":"/h/t.json","cwd":"/project","timestamp":"2026-11-29T12:00:00.000Z",`
	}
	return fmt.Sprintf(`{%s"hook_event_name":%q,"tool_name":%q,"tool_input":%s}`, common, a.event, tool, input)
}

// play runs one call against a policy of the test's.
func play(t *testing.T, agentName string, in io.Reader, check func(*ask.Question) (ask.Verdict, error)) (code int, asked []string, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = Main(t.Context(), Caller{Args: []string{agentName}, Env: []string{"HOME=/h"}, Stdin: in, Stdout: &out, Stderr: &errOut,
		Check: func(_ context.Context, q *ask.Question) (ask.Verdict, error) {
			asked = append(asked, q.Action+" "+about(q))
			if q.Metadata["agent"] != agentName || q.Metadata["tool"] == "" || q.Metadata["cwd"] == "" {
				t.Errorf("metadata %v", q.Metadata)
			}
			return check(q)
		}})
	return code, asked, out.String(), errOut.String()
}

func yes(*ask.Question) (ask.Verdict, error) { return ask.Verdict{Allowed: true, Rule: "r"}, nil }

// What each tool's call is asked about, for the shapes that the agents send.
func TestQuestions(t *testing.T) {
	for _, tt := range []struct {
		agent, tool, input string
		want               []string
	}{
		{"claude-code", "Bash", `{"command":"git push | tee log > out","description":"x","timeout":1000}`,
			[]string{"shell_exec git push", "shell_exec tee log", "file_access write /project/out"}},
		{"claude-code", "Bash", `{"command":"cd sub && make 2>&1"}`, []string{"shell_exec cd sub", "shell_exec make"}},
		{"claude-code", "Bash", `{"command":"exec 3<>/dev/tcp/evil.test/80"}`, []string{"shell_exec exec", "network_call evil.test:80"}},
		{"claude-code", "Bash", `{"command":"ls; ls"}`, []string{"shell_exec ls"}},
		{"claude-code", "Bash", `{"command":"# nothing"}`, []string{"shell_exec :"}},
		{"claude-code", "Read", `{"file_path":"/project/a/../b","limit":3}`, []string{"file_access read /project/b"}},
		{"claude-code", "Read", `{"file_path":"~/x"}`, []string{"file_access read /h/x"}},
		{"claude-code", "Write", `{"file_path":"x","content":"y"}`, []string{"file_access write /project/x"}},
		{"claude-code", "Edit", `{"file_path":"/e","old_string":"a","new_string":"b"}`, []string{"file_access write /e"}},
		{"claude-code", "MultiEdit", `{"file_path":"/e","edits":[]}`, []string{"file_access write /e"}},
		{"claude-code", "NotebookEdit", `{"notebook_path":"/n.ipynb","new_source":""}`, []string{"file_access write /n.ipynb"}},
		{"claude-code", "Glob", `{"pattern":"**/*.go"}`, []string{"file_access read /project"}},
		{"claude-code", "Glob", `{"pattern":"/nonesuch/s*","path":"/other"}`, []string{"file_access read /nonesuch"}},
		{"claude-code", "Glob", `{"pattern":"../up/*"}`, []string{"file_access read /up"}},
		{"claude-code", "Grep", `{"pattern":"../x","path":"src","glob":"*.go"}`, []string{"file_access read /project/src"}},
		{"claude-code", "WebFetch", `{"url":"https://x.test/p","prompt":"?"}`, []string{"network_call https://x.test/p"}},
		{"claude-code", "WebSearch", `{"query":"q"}`, []string{"tool_exec WebSearch"}},
		{"claude-code", "Task", `{"description":"d","prompt":"p","subagent_type":"Explore"}`, []string{"tool_exec Task"}},
		{"claude-code", "Agent", `{"description":"d","prompt":"p"}`, []string{"tool_exec Agent"}},
		{"claude-code", "mcp__github__create_issue", `{"repo":"a/b","n":1,"labels":["x"]}`, []string{"tool_exec mcp__github__create_issue"}},
		{"claude-code", "Monitor", `{"description":"d","timeout_ms":1,"command":"tail -f x"}`, []string{"shell_exec tail -f x"}},
		{"claude-code", "Monitor", `{"description":"d","timeout_ms":1,"ws":{"url":"wss://x.test/s"}}`, []string{"network_call https://x.test/s"}},
		{"claude-code", "EnterWorktree", `{"path":"/w2"}`, []string{"tool_exec EnterWorktree", "file_access read /w2"}},
		{"claude-code", "SomethingNew", `{}`, []string{"tool_exec SomethingNew"}},
		{"codex", "Bash", `{"command":"git push"}`, []string{"shell_exec git push"}},
		{"codex", "apply_patch", `{"command":"*** Begin Patch\n*** Update File: a.go\n*** Move to: b.go\n@@\n-x\n+y\n*** Delete File: /c\n*** End Patch"}`,
			[]string{"file_access write /project/a.go", "file_access write /project/b.go", "file_access write /c"}},
		{"codex", "mcp__fs__read", `{"path":"/x"}`, []string{"tool_exec mcp__fs__read"}},
		{"gemini", "run_shell_command", `{"command":"git push","dir_path":"sub"}`, []string{"shell_exec git push"}},
		{"gemini", "read_file", `{"file_path":"x"}`, []string{"file_access read /project/x"}},
		{"gemini", "write_file", `{"file_path":"/x","content":""}`, []string{"file_access write /x"}},
		{"gemini", "replace", `{"file_path":"/x","old_string":"","new_string":""}`, []string{"file_access write /x"}},
		{"gemini", "list_directory", `{"dir_path":"/x"}`, []string{"file_access read /x"}},
		{"gemini", "glob", `{"pattern":"*.go","dir_path":"/x"}`, []string{"file_access read /x"}},
		{"gemini", "grep_search", `{"pattern":"p"}`, []string{"file_access read /project"}},
		{"gemini", "read_many_files", `{"include":["a/*.go","/b"]}`, []string{"file_access read /project/a", "file_access read /b"}},
		{"gemini", "web_fetch", `{"prompt":"compare https://x.test/a and http://y.test"}`,
			[]string{"tool_exec web_fetch", "network_call https://x.test/a", "network_call http://y.test"}},
		{"gemini", "google_web_search", `{"query":"q"}`, []string{"tool_exec google_web_search"}},
		{"gemini", "mcp__a__b", `{}`, []string{"tool_exec mcp__a__b"}},
	} {
		code, asked, stdout, stderr := play(t, tt.agent, strings.NewReader(payload(tt.agent, tt.tool, tt.input)), yes)
		if code != 0 || stdout != "" || stderr != "" || !slices.Equal(asked, tt.want) {
			t.Errorf("%s %s %s: code %d, %q %q\nasked %q\n want %q", tt.agent, tt.tool, tt.input, code, stdout, stderr, asked, tt.want)
		}
	}
}

// The values of a tool's input and what a shell command is like are there for
// rules.
func TestMetadata(t *testing.T) {
	got := map[string]map[string]string{}
	for tool, input := range map[string]string{
		"mcp__a__b": `{"repo":"a/b","n":1,"deep":{"x":1},"list":[1],"yes":true,"long":"` + strings.Repeat("x", maxValue+1) + `"}`,
		"Bash":      `{"command":"A=1 git log $X"}`,
	} {
		play(t, "claude-code", strings.NewReader(payload("claude-code", tool, input)), func(q *ask.Question) (ask.Verdict, error) {
			got[tool] = q.Metadata
			return yes(q)
		})
	}
	want := map[string]map[string]string{
		"mcp__a__b": {"agent": "claude-code", "tool": "mcp__a__b", "cwd": "/project", "input.repo": "a/b", "input.n": "1", "input.yes": "true"},
		"Bash": {"agent": "claude-code", "tool": "Bash", "cwd": "/project", "args": "log $X", "args_json": `["log","$X"]`,
			"expands": "true", "env": "A"},
	}
	if a, b := fmt.Sprint(got), fmt.Sprint(want); a != b {
		t.Errorf("got %s\nwant %s", a, b)
	}
}

// A symbolic link is asked about as what it is called and as what it leads to.
func TestSymlink(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"l": "/etc", "new": "made", "gone": "/nonesuch/x"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, to := range map[string]string{"l/passwd": "/etc/passwd", "l/no/such": "/etc/no/such", "new": dir + "/made", "gone/y": "/nonesuch/x/y"} {
		_, asked, _, _ := play(t, "claude-code", strings.NewReader(payload("claude-code", "Write", fmt.Sprintf(`{"file_path":%q}`, dir+"/"+path))), yes)
		if want := []string{"file_access write " + dir + "/" + path, "file_access write " + to}; !slices.Equal(asked, want) {
			t.Errorf("%s: %q, want %q", path, asked, want)
		}
	}
}

// blocked checks that an answer is the agent's own denial, in both ways.
func blocked(t *testing.T, name, agentName string, code int, stdout, stderr, want string) {
	t.Helper()
	var out struct {
		Decision, Reason string
		HookSpecific     struct {
			Event    string `json:"hookEventName"`
			Decision string `json:"permissionDecision"`
			Reason   string `json:"permissionDecisionReason"`
		} `json:"hookSpecificOutput"`
	}
	if err := json.Unmarshal([]byte(stdout), &out); err != nil {
		t.Errorf("%s: standard output %q: %v", name, stdout, err)
	}
	denied, reason := out.HookSpecific.Event == "PreToolUse" && out.HookSpecific.Decision == "deny", out.HookSpecific.Reason
	if agentName == "gemini" {
		denied, reason = out.Decision == "deny", out.Reason
	}
	if code != 2 || !denied || reason == "" || reason+"\n" != stderr || !strings.Contains(reason, want) || !strings.HasPrefix(reason, "outcall: ") {
		t.Errorf("%s: code %d\nstdout %s\nstderr %s\nwant 2 and %q", name, code, stdout, stderr, want)
	}
}

func TestDenied(t *testing.T) {
	no := func(q *ask.Question) (ask.Verdict, error) {
		if q.Target == "ls" {
			return yes(q)
		}
		return ask.Verdict{Rule: "no-git", Reason: "blocked\x1b[31m by policy (d-0123abcd)"}, nil
	}
	for name, tool := range map[string]string{"claude-code": "Bash", "codex": "Bash", "gemini": "run_shell_command"} {
		code, asked, stdout, stderr := play(t, name, strings.NewReader(payload(name, tool, `{"command":"ls; git push; git pull"}`)), no)
		blocked(t, name, name, code, stdout, stderr,
			"denied by no-git: git push: blocked\\x1b[31m by policy (d-0123abcd). Do not retry; `outcall-agent why d-0123abcd` tells")
		if len(asked) != 2 {
			t.Errorf("asked %q", asked)
		}
	}
}

type slowReader struct{}

func (slowReader) Read([]byte) (int, error) { select {} }

// Everything that is no allow blocks, in the agent's own way.
func TestNeverOpen(t *testing.T) {
	good := payload("claude-code", "Bash", `{"command":"ls"}`)
	fails := func(*ask.Question) (ask.Verdict, error) { return ask.Verdict{}, errors.New("unreachable") }
	for _, tt := range []struct {
		name  string
		in    io.Reader
		check func(*ask.Question) (ask.Verdict, error)
		want  string
	}{
		{"no verdict", strings.NewReader(good), fails, "no verdict on ls: unreachable; the tool was not run"},
		{"an allow beside an error", strings.NewReader(good), func(*ask.Question) (ask.Verdict, error) { return ask.Verdict{Allowed: true}, io.EOF }, "no verdict"},
		{"panic", strings.NewReader(good), func(*ask.Question) (ask.Verdict, error) { panic("x") }, "internal error: x"},
		{"nil dereference", strings.NewReader(good), func(*ask.Question) (v ask.Verdict, err error) { var q *ask.Question; _ = q.Target; return }, "internal error"},
		{"stalled", strings.NewReader(good), func(*ask.Question) (ask.Verdict, error) { select {} }, "time-out"},
		{"stalled input", slowReader{}, yes, "time-out"},
		{"broken input", io.MultiReader(strings.NewReader(good[:20]), errReader{}), yes, "no verdict: the hook's input"},
		{"empty", strings.NewReader(""), yes, "no JSON object"},
		{"cut off", strings.NewReader(good[:len(good)-2]), yes, "no JSON object"},
		{"array", strings.NewReader("[]"), yes, "no JSON object"},
		{"null", strings.NewReader("null"), yes, "hook_event_name is missing"},
		{"two", strings.NewReader(good + good), yes, "more than one"},
		{"too long", io.MultiReader(strings.NewReader(good), strings.NewReader(strings.Repeat(" ", maxInput))), yes, "more than"},
		{"another event", strings.NewReader(strings.Replace(good, "PreToolUse", "PostToolUse", 1)), yes, "not for PostToolUse"},
		{"no event", strings.NewReader(strings.Replace(good, "hook_event_name", "Hook_Event_Name", 1)), yes, "hook_event_name is missing"},
		{"no tool", strings.NewReader(strings.Replace(good, `"Bash"`, `""`, 1)), yes, "tool_name is missing"},
		{"tool of another type", strings.NewReader(strings.Replace(good, `"Bash"`, `["Bash"]`, 1)), yes, "tool_name is no string"},
		{"relative cwd", strings.NewReader(strings.Replace(good, `"/project"`, `"work"`, 1)), yes, "no absolute path"},
		{"no input", strings.NewReader(strings.Replace(good, `{"command":"ls"}`, `null`, 1)), yes, "tool_input is no JSON object"},
		{"no command", strings.NewReader(payload("claude-code", "Bash", `{"Command":"ls"}`)), yes, "command is missing"},
		{"command of another type", strings.NewReader(payload("claude-code", "Bash", `{"command":["ls"]}`)), yes, "command is no string"},
		{"no shell", strings.NewReader(payload("claude-code", "Bash", `{"command":"if"}`)), yes, "no rule can be asked about this Bash call"},
		{"an unknown command", strings.NewReader(payload("claude-code", "Bash", `{"command":"$X"}`)), yes, "not literal"},
		{"too many commands", strings.NewReader(payload("claude-code", "Bash", fmt.Sprintf(`{"command":%q}`, many()))), yes, "more than 64"},
		{"a long argument", strings.NewReader(payload("claude-code", "Bash", fmt.Sprintf(`{"command":"a %s"}`, strings.Repeat("x", 40<<10)))), yes, "longer than"},
		{"a path with a NUL", strings.NewReader(payload("claude-code", "Read", `{"file_path":"/a\u0000b"}`)), yes, "NUL"},
		{"a pattern upwards", strings.NewReader(payload("claude-code", "Glob", `{"pattern":"*/../../x"}`)), yes, "leads upwards"},
		{"no URL", strings.NewReader(payload("claude-code", "WebFetch", `{"url":3}`)), yes, "url is no string"},
		{"PowerShell", strings.NewReader(payload("claude-code", "PowerShell", `{"command":"ls"}`)), yes, "PowerShell is not read"},
	} {
		var out, errOut bytes.Buffer
		wait := MaxWait
		if strings.HasPrefix(tt.name, "stalled") {
			wait = 300 * time.Millisecond
		}
		code := Main(t.Context(), Caller{Args: []string{"claude-code"}, Env: []string{"HOME=/h"}, Stdin: tt.in, Stdout: &out, Stderr: &errOut, wait: wait,
			Check: func(_ context.Context, q *ask.Question) (ask.Verdict, error) { return tt.check(q) }})
		blocked(t, tt.name, "claude-code", code, out.String(), errOut.String(), tt.want)
	}
	code, _, stdout, stderr := play(t, "codex", strings.NewReader(payload("codex", "apply_patch", `{"command":"x"}`)), yes)
	blocked(t, "a patch of nothing", "codex", code, stdout, stderr, "nothing in it to ask about")
	for _, args := range [][]string{nil, {"cursor"}, {"claude-code", "x"}, {""}} {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), Caller{Args: args, Stdin: strings.NewReader(good), Stdout: &out, Stderr: &errOut})
		blocked(t, fmt.Sprint(args), "claude-code", code, out.String(), errOut.String(), "no verdict")
	}
	for _, env := range []string{"OUTCALL_AGENT_SOCK=/no/such", "OUTCALL_TIMEOUT_SECS=0"} {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), Caller{Args: []string{"gemini"}, Env: []string{env}, Stdin: strings.NewReader(payload("gemini", "read_file", `{"file_path":"x"}`)),
			Stdout: &out, Stderr: &errOut})
		blocked(t, env, "gemini", code, out.String(), errOut.String(), "no verdict")
	}
	// Standard output and error that are closed change nothing.
	if code := Main(t.Context(), Caller{Args: []string{"codex"}, Stdin: strings.NewReader("x"), Stdout: errReader{}, Stderr: errReader{}}); code != 2 {
		t.Errorf("closed outputs: code %d", code)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error)  { return 0, io.ErrUnexpectedEOF }
func (errReader) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func many() string {
	var b strings.Builder
	for i := range maxQuestions + 1 {
		fmt.Fprintf(&b, "a %d;", i)
	}
	return b.String()
}

// Beyond the rate limit the hook waits, within its time.
func TestRateLimit(t *testing.T) {
	n := 0
	code, _, _, _ := play(t, "claude-code", strings.NewReader(payload("claude-code", "Bash", `{"command":"ls"}`)), func(q *ask.Question) (ask.Verdict, error) {
		if n++; n == 1 {
			return ask.Verdict{}, &ask.Refusal{Status: 429, Retry: "1"}
		}
		return yes(q)
	})
	if code != 0 || n != 2 {
		t.Errorf("code %d after %d", code, n)
	}
	if MaxWait+5*time.Second > AgentTimeout {
		t.Errorf("the hook waits %v, the agents %v", MaxWait, AgentTimeout)
	}
}

// Whatever comes in, only a call that was asked about goes on.
func FuzzHook(f *testing.F) {
	for name := range agents {
		f.Add(name, payload(name, "Bash", `{"command":"ls > x"}`))
		f.Add(name, payload(name, "mcp__a__b", `{"x":1}`))
		f.Add(name, payload(name, "web_fetch", `{"prompt":"a://b"}`))
		f.Add(name, payload(name, "Glob", `{"pattern":"/a/*/../b"}`))
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		asked := 0
		var out, errOut bytes.Buffer
		code := Main(t.Context(), Caller{Args: []string{name}, Env: []string{"HOME=/h"}, Stdin: strings.NewReader(text), Stdout: &out, Stderr: &errOut,
			Check: func(_ context.Context, q *ask.Question) (ask.Verdict, error) {
				asked++
				return ask.Verdict{Allowed: true}, nil
			}})
		switch {
		case code == 0 && (asked == 0 || out.Len()+errOut.Len() > 0):
			t.Fatalf("went on after %d questions: %s%s", asked, &out, &errOut)
		case code == 2 && (!json.Valid(out.Bytes()) || !strings.HasPrefix(errOut.String(), "outcall: ")):
			t.Fatalf("blocked without words: %s%s", &out, &errOut)
		case code != 0 && code != 2:
			t.Fatalf("code %d", code)
		}
	})
}

// The kernel follows a link before the dots behind it: both readings of such a
// path are asked about, and a pattern that could leave its directory is refused.
func TestDotsBehindLinks(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"project", "far/deep"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../far/deep", filepath.Join(dir, "project/link")); err != nil {
		t.Fatal(err)
	}
	ask := func(tool, input string) (int, string) {
		in := strings.Replace(payload("claude-code", tool, input), `"cwd":"/project"`, fmt.Sprintf(`"cwd":%q`, dir+"/project"), 1)
		code, asked, _, _ := play(t, "claude-code", strings.NewReader(in), yes)
		return code, strings.ReplaceAll(strings.Join(asked, ", "), dir, "")
	}
	const both = "file_access write /project/x, file_access write /far/x"
	for _, tt := range [][3]string{
		{"Bash", `{"command":"> link/../x"}`, both},
		{"Bash", `{"command":"cd link && > ../x"}`, "shell_exec cd link, " + both},
		{"Write", `{"file_path":"link/../x","content":""}`, both},
		{"Glob", `{"pattern":"*","path":"link/.."}`, "file_access read /project, file_access read /far"},
	} {
		if code, asked := ask(tt[0], tt[1]); code != exitGoOn || asked != tt[2] {
			t.Errorf("%s %s: %d, asked %s", tt[0], tt[1], code, asked)
		}
	}
	for _, glob := range []string{"{/etc,x}/passwd", "{..,x}/*", "@(a|/etc)/*", `\\/etc/*`, "*/../*"} {
		if code, asked := ask("Glob", fmt.Sprintf(`{"pattern":"%s"}`, glob)); code != exitBlock {
			t.Errorf("%s: %d, asked %s", glob, code, asked)
		}
	}
}
