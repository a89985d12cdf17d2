package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// A question is what the agent API is asked, and the command that is run if
// it is allowed.
type question struct {
	ActionType string            `json:"action_type"`
	Target     string            `json:"target"`
	Metadata   map[string]string `json:"metadata"`

	argv []string // nil: ask only
}

// Limits of the API on arguments; more gets no verdict.
const (
	maxArgs     = 1024
	maxArg      = 32 << 10
	maxArgBytes = 64 << 10
	maxMethod   = 32
)

// parse reads the command line. dir is the working directory.
func parse(args []string, dir string) (*question, error) {
	verb, rest := args[0], args[1:]
	switch verb {
	case "fetch":
		return parseFetch(rest)
	case "file", "read", "write":
		return parseFile(verb, rest, dir)
	case "exec":
		return parseRun("tool_exec", rest, dir)
	case "bash", "sh", "shell":
		return parseRun("shell_exec", rest, dir)
	}
	if strings.HasPrefix(verb, "-") && verb != "--" {
		return nil, fmt.Errorf("unknown option %s", verb)
	}
	return parseRun("tool_exec", args, dir)
}

func parseFetch(args []string) (*question, error) {
	if len(args) < 1 || len(args) > 2 || args[0] == "" {
		return nil, errors.New("fetch wants URL [METHOD]")
	}
	method := "GET"
	if len(args) == 2 {
		method = strings.ToUpper(args[1])
	}
	if method == "" || len(method) > maxMethod || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return nil, fmt.Errorf("fetch: %q is no method", method)
	}
	return &question{ActionType: "network_call", Target: args[0], Metadata: map[string]string{"method": method}}, nil
}

// parseFile makes the path absolute: a rule is about the file, not about how
// it was spelled.
func parseFile(verb string, args []string, dir string) (*question, error) {
	if len(args) != 1 || args[0] == "" {
		return nil, fmt.Errorf("%s wants one PATH", verb)
	}
	mode := "read"
	if verb == "write" {
		mode = "write"
	}
	path := args[0]
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return &question{
		ActionType: "file_access", Target: filepath.Clean(path),
		Metadata: map[string]string{"mode": mode, "cwd": dir},
	}, nil
}

func parseRun(action string, argv []string, dir string) (*question, error) {
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 || argv[0] == "" {
		return nil, errors.New("a command is missing")
	}
	total := 0
	for _, a := range argv[1:] {
		if total += len(a); len(a) > maxArg || total > maxArgBytes || len(argv) > maxArgs+1 {
			return nil, errors.New("the command line is longer than a verdict can be about")
		}
	}
	q := &question{ActionType: action, Target: argv[0], Metadata: map[string]string{"cwd": dir}, argv: argv}
	if len(argv) > 1 {
		exact, err := json.Marshal(argv[1:])
		if err != nil {
			return nil, err
		}
		q.Metadata["args"] = strings.Join(argv[1:], " ")
		q.Metadata["args_json"] = string(exact)
	}
	return q, nil
}
