package ask

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// The actions that can be asked about.
const (
	ToolExec    = "tool_exec"
	ShellExec   = "shell_exec"
	NetworkCall = "network_call"
	FileAccess  = "file_access"
)

// A Question is what the agent API is asked.
type Question struct {
	Action   string            `json:"action_type"`
	Target   string            `json:"target"`
	Metadata map[string]string `json:"metadata"`
}

// Limits of the API on arguments; more gets no verdict.
const (
	maxArgs     = 1024
	maxArg      = 32 << 10
	maxArgBytes = 64 << 10
	maxMethod   = 32
)

// Fetch asks about a network call: a URL, or HOST[:PORT]. method "" is GET.
func Fetch(target, method string) (*Question, error) {
	if target == "" {
		return nil, errors.New("a URL is missing")
	}
	if method == "" {
		method = "GET"
	}
	method = strings.ToUpper(method)
	if len(method) > maxMethod || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return nil, fmt.Errorf("%q is no method", method)
	}
	return &Question{Action: NetworkCall, Target: target, Metadata: map[string]string{"method": method}}, nil
}

// File asks about a file; mode is read or write. The path is made absolute
// from dir: a rule is about the file, not about how it was spelled.
func File(mode, path, dir string) (*Question, error) {
	if path == "" {
		return nil, errors.New("a PATH is missing")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return &Question{
		Action: FileAccess, Target: filepath.Clean(path),
		Metadata: map[string]string{"mode": mode, "cwd": dir},
	}, nil
}

// Run asks about a command; action is ToolExec or ShellExec. The arguments are
// told exactly, in args_json, and joined for people, in args.
func Run(action string, argv []string, dir string) (*Question, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, errors.New("a command is missing")
	}
	total := 0
	for _, a := range argv[1:] {
		if total += len(a); len(a) > maxArg || total > maxArgBytes || len(argv) > maxArgs+1 {
			return nil, errors.New("the command line is longer than a verdict can be about")
		}
	}
	q := &Question{Action: action, Target: argv[0], Metadata: map[string]string{"cwd": dir}}
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
