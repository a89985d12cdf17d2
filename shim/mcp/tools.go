package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"outcall/policy/escape"
	"outcall/shim/ask"
)

// A tool is one that the client may call; the text that it returns is the
// answer, an error one that the model sees as such.
type tool struct {
	name, description string
	properties        []property
	readOnly          bool
	call              func(*Server, context.Context, arguments) (string, error)
}

type property struct {
	name, description string
	values            []string // of an enumeration
	list, required    bool
}

// arguments are what a call gives: strings and lists of strings.
type arguments map[string][]string

func (a arguments) one(name string) string { return strings.Join(a[name], "\x00") }

var tools = []tool{
	{name: "check", readOnly: true, call: (*Server).check,
		description: "Ask outcall whether an action would be allowed by the session's policy. Nothing is run.",
		properties: []property{
			{name: "action", required: true, description: "what kind of action", values: []string{ask.NetworkCall, ask.ToolExec, ask.ShellExec, ask.FileAccess}},
			{name: "target", required: true, description: "a URL or HOST[:PORT], a command's name, or a path"},
			{name: "args", list: true, description: "a command's arguments, exactly"},
			{name: "method", description: "a network call's HTTP method; GET is the default"},
			{name: "mode", description: "of a file", values: []string{"read", "write"}},
		}},
	{name: "why", readOnly: true, call: (*Server).why,
		description: "Explain a denial of this session: what was refused, by which rule, and the smallest rule that would allow it. Without an id, the latest one.",
		properties:  []property{{name: "id", description: "d- and eight hexadecimal digits, as denials print it"}}},
	{name: "request_rule", call: (*Server).request,
		description: "Propose a rule file to the operator, who approves or rejects it; it grants nothing by itself. With id instead of rule_file: how a proposal stands.",
		properties: []property{
			{name: "rule_file", description: "a complete rule file in YAML, as `why` prints it"},
			{name: "id", description: "rr- and twelve hexadecimal digits, of an earlier proposal"},
		}},
	{name: "policy", readOnly: true, call: (*Server).policy, description: "What this session's policy lets through, and how to ask."},
}

// list is the answer to tools/list.
func list() []any {
	var out []any
	for _, t := range tools {
		props, required := map[string]any{}, []string{}
		for _, p := range t.properties {
			schema := map[string]any{"type": "string", "description": p.description}
			if p.list {
				schema = map[string]any{"type": "array", "items": map[string]any{"type": "string"}, "description": p.description}
			}
			if len(p.values) > 0 {
				schema["enum"] = p.values
			}
			props[p.name] = schema
			if p.required {
				required = append(required, p.name)
			}
		}
		out = append(out, map[string]any{"name": t.name, "description": t.description,
			"inputSchema": map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false},
			"annotations": map[string]any{"readOnlyHint": t.readOnly, "destructiveHint": false, "openWorldHint": false}})
	}
	return out
}

// call runs one tool. What fails in it is a result that says so, as the
// protocol wants it; only a call that cannot be read is an error.
func (s *Server) call(ctx context.Context, params json.RawMessage) (any, error) {
	var in struct {
		Name      string                     `json:"name"`
		Arguments map[string]json.RawMessage `json:"arguments"`
	}
	if err := json.Unmarshal(params, &in); err != nil {
		return nil, &rpcError{invalidParams, "tools/call: params cannot be read"}
	}
	for _, t := range tools {
		if t.name != in.Name {
			continue
		}
		args, err := t.read(in.Arguments)
		if err != nil {
			return nil, &rpcError{invalidParams, fmt.Sprintf("%s: %v", t.name, err)}
		}
		ctx, cancel := context.WithTimeout(ctx, s.Timeout)
		defer cancel()
		text, err := t.call(s, ctx, args)
		if err != nil {
			text = err.Error()
		}
		return map[string]any{"content": []any{map[string]any{"type": "text", "text": escape.Block(text)}}, "isError": err != nil}, nil
	}
	return nil, &rpcError{invalidParams, "tools/call: no such tool"}
}

// read checks a call's arguments against the tool's properties.
func (t tool) read(in map[string]json.RawMessage) (arguments, error) {
	out := arguments{}
	for _, p := range t.properties {
		raw, ok := in[p.name]
		if !ok || bytes.Equal(raw, []byte("null")) {
			if p.required {
				return nil, fmt.Errorf("%s is missing", p.name)
			}
			continue
		}
		var one string
		var many []string
		switch {
		case p.list && json.Unmarshal(raw, &many) == nil:
			out[p.name] = many
		case !p.list && json.Unmarshal(raw, &one) == nil:
			out[p.name] = []string{one}
		default:
			return nil, fmt.Errorf("%s is of another type", p.name)
		}
	}
	for name := range in {
		known := false
		for _, p := range t.properties {
			known = known || p.name == name
		}
		if !known {
			return nil, fmt.Errorf("there is no argument %.40q", name)
		}
	}
	return out, nil
}

func (s *Server) check(ctx context.Context, a arguments) (string, error) {
	var q *ask.Question
	var err error
	action, target := a.one("action"), a.one("target")
	switch action {
	case ask.NetworkCall:
		q, err = ask.Fetch(target, a.one("method"))
	case ask.ToolExec, ask.ShellExec:
		q, err = ask.Run(action, append([]string{target}, a["args"]...), s.Dir)
	case ask.FileAccess:
		mode := a.one("mode")
		if mode == "" {
			mode = "read"
		}
		if mode != "read" && mode != "write" {
			return "", errors.New("mode: want read or write")
		}
		q, err = ask.File(mode, target, s.Dir)
	default:
		return "", fmt.Errorf("action %.40q: want %s, %s, %s or %s", action, ask.NetworkCall, ask.ToolExec, ask.ShellExec, ask.FileAccess)
	}
	if err != nil {
		return "", err
	}
	v, err := s.Client.Check(ctx, q)
	if err != nil {
		return "", fmt.Errorf("no verdict: %w", err)
	}
	if !v.Allowed {
		return fmt.Sprintf("denied by %s: %s", v.Rule, v.Reason), nil
	}
	return "allowed by " + v.Rule, nil
}

func (s *Server) why(ctx context.Context, a arguments) (string, error) {
	var d ask.Denial
	if id := a.one("id"); id != "" {
		found, ok, err := s.Client.Denial(ctx, id)
		if err != nil {
			return "", err
		}
		if !ok {
			return "", fmt.Errorf("the session knows no denial %.40q", id)
		}
		d = found
	} else {
		all, err := s.Client.Denials(ctx)
		if err != nil {
			return "", err
		}
		if len(all) == 0 {
			return "nothing was denied so far", nil
		}
		d = all[len(all)-1]
	}
	text := fmt.Sprintf("%s: %s (%s) was denied by %s: %s\n", d.ID, d.Target, d.Layer, d.Rule, d.Reason)
	if d.Advice != "" {
		text += d.Advice + "\n"
	}
	if d.Smallest != "" {
		text += "The smallest rule that would allow it, for request_rule:\n\n" + d.Smallest
	}
	return text, nil
}

func (s *Server) request(ctx context.Context, a arguments) (string, error) {
	id, file := a.one("id"), a.one("rule_file")
	var r ask.Request
	var err error
	switch {
	case (id == "") == (file == ""):
		return "", errors.New("want either rule_file or id")
	case id != "":
		r, err = s.Client.Request(ctx, id)
	default:
		r, err = s.Client.Propose(ctx, file)
	}
	if err != nil {
		return "", err
	}
	text := r.ID + ": " + r.Status
	if r.Reason != nil && *r.Reason != "" {
		text += ": " + *r.Reason
	}
	return text, nil
}

func (s *Server) policy(ctx context.Context, _ arguments) (string, error) {
	return s.Client.Policy(ctx)
}
