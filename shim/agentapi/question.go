package agentapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"outcall/policy"
)

// The actions that can be asked about.
const (
	ToolExec    = "tool_exec"
	ShellExec   = "shell_exec"
	NetworkCall = "network_call"
	FileAccess  = "file_access"
)

// Limits of an action.
const (
	MaxArgs     = 1024
	maxArg      = 32 << 10
	maxArgBytes = 64 << 10
	maxMethod   = 32
)

// A Question is one action that an agent asks about.
type Question struct {
	ID      string // d- and 8 hexadecimal digits
	Action  string
	Target  string
	Method  string // of a network call
	Run     policy.Run
	Call    *policy.Call    // of a network call
	Explain string          // what policy.Explain is asked for it
	Process *policy.Process // who asks; nil is hidden
	// Begin is done once the audit has the first line of this attempt: before
	// the first effect of judging it, else with its verdict.
	Begin sync.Once
}

// A Verdict answers a Question.
type Verdict struct {
	Allowed bool
	Would   bool // observe lets it through although enforce would deny it
	Rule    string
	Reason  string
	// Structural denials hold in every mode.
	Structural bool
}

// checkBody is the body of POST /v1/permissions/check.
type checkBody struct {
	ActionType string            `json:"action_type"`
	Target     string            `json:"target"`
	Metadata   map[string]string `json:"metadata"`
}

// question reads an action; an error is status 422.
func (b checkBody) question() (*Question, error) {
	q := &Question{Action: b.ActionType, Target: b.Target}
	if b.Target == "" {
		return nil, errors.New("target is empty")
	}
	var err error
	switch b.ActionType {
	case ToolExec, ShellExec:
		err = q.tool(b)
	case NetworkCall:
		err = q.call(b)
	case FileAccess:
		q.Run.Tool, q.Run.Args = "file", []string{b.Target}
	default:
		err = fmt.Errorf("action_type %q: want %s, %s, %s or %s", policy.Cut(b.ActionType, maxMethod), ToolExec, ShellExec, NetworkCall, FileAccess)
	}
	if err != nil {
		return nil, err
	}
	if strings.ContainsRune(b.Target, 0) {
		return nil, errors.New("target has a NUL")
	}
	q.Run.Cwd = b.Metadata["cwd"]
	q.Run.Context = b.context()
	return q, nil
}

// context is what rules see as run.context. The three words of the API itself
// are set last: no key of the agent stands in for them.
func (b checkBody) context() map[string]any {
	out := make(map[string]any, len(b.Metadata)+3)
	meta := make(map[string]any, len(b.Metadata))
	for k, v := range b.Metadata {
		out[k], meta[k] = v, v
	}
	out["action_type"], out["target"], out["metadata"] = b.ActionType, b.Target, meta
	return out
}

func (q *Question) tool(b checkBody) error {
	q.Run.Tool = b.Target
	if text, ok := b.Metadata["args_json"]; ok {
		if err := json.Unmarshal([]byte(text), &q.Run.Args); err != nil || q.Run.Args == nil {
			return errors.New("args_json is no JSON array of strings")
		}
	} else if text, ok := b.Metadata["args"]; ok {
		q.Run.Args = []string{text}
	}
	total := 0
	for _, a := range q.Run.Args {
		total += len(a)
		switch {
		case len(a) > maxArg:
			return fmt.Errorf("an argument has more than %d bytes", maxArg)
		case strings.ContainsRune(a, 0):
			return errors.New("an argument has a NUL")
		case len(a) > 1 && a[0] == '-':
			q.Run.Flags = append(q.Run.Flags, a)
		}
	}
	if len(q.Run.Args) > MaxArgs || total > maxArgBytes {
		return fmt.Errorf("more than %d arguments or %d bytes of them", MaxArgs, maxArgBytes)
	}
	return nil
}

func (q *Question) call(b checkBody) error {
	q.Run.Tool, q.Run.Args = NetworkCall, []string{b.Target}
	q.Method = "GET"
	if m := b.Metadata["method"]; m != "" {
		q.Method = strings.ToUpper(m)
	}
	if len(q.Method) > maxMethod || strings.Trim(q.Method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return errors.New("method: want 1 to 32 letters")
	}
	proto := policy.TCP
	switch b.Metadata["protocol"] {
	case "", "tcp":
	case "udp":
		proto = policy.UDP
	default:
		return errors.New("protocol: want tcp or udp")
	}
	c, explain, err := policy.ParseCall(b.Target, proto, q.Method)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	q.Call, q.Explain = &c, explain
	return nil
}
