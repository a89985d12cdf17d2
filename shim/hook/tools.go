package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"outcall/shim/ask"
	"outcall/shim/shellcmd"
)

// A reader turns a call's input into what the policy is asked.
type reader func(*toolCall) ([]*ask.Question, error)

// questions are what the policy is asked about the call, each once.
func (t *toolCall) questions() ([]*ask.Question, error) {
	read, ok := t.agent.tools[t.tool]
	if !ok {
		read = named
	}
	list, err := read(t)
	if err != nil {
		return nil, err
	}
	var out []*ask.Question
	seen := map[string]bool{}
	for _, q := range list {
		q.Metadata["agent"], q.Metadata["tool"] = t.agent.name, t.tool
		if q.Metadata["cwd"] == "" {
			q.Metadata["cwd"] = t.cwd
		}
		key, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		if !seen[string(key)] {
			seen[string(key)] = true
			out = append(out, q)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("there is nothing in it to ask about")
	}
	if len(out) > maxQuestions {
		return nil, fmt.Errorf("it does %d things at once, more than %d", len(out), maxQuestions)
	}
	return out, nil
}

// Values of a tool's input that rules may see are short ones.
const maxValue = 1 << 10

// named asks about a tool by its name, with the plain values of its input as
// run.context["input.KEY"].
func named(t *toolCall) ([]*ask.Question, error) {
	q, err := ask.Run(ask.ToolExec, []string{t.tool}, t.cwd)
	if err != nil {
		return nil, err
	}
	total := 0
	for key, raw := range t.input {
		value := string(raw)
		if s, err := text0(t.input, key); err == nil {
			value = s
		} else if strings.ContainsAny(value[:1], "{[") {
			continue
		}
		if len(value) <= maxValue && len(key) <= 64 {
			q.Metadata["input."+key] = value
			total += len(value) + len(key)
		}
	}
	if total > 16<<10 {
		return nil, errors.New("its input has too many values")
	}
	return []*ask.Question{q}, nil
}

func unreadable(why string) reader {
	return func(*toolCall) ([]*ask.Question, error) { return nil, errors.New(why) }
}

// shell asks about each command of a command line.
func shell(key string) reader {
	return func(t *toolCall) ([]*ask.Question, error) {
		text, err := text1(t.input, key)
		if err != nil {
			return nil, err
		}
		return t.commandLine(text, t.cwd)
	}
}

func (t *toolCall) commandLine(text, dir string) ([]*ask.Question, error) {
	s, err := shellcmd.Split(text, dir, t.home)
	if err != nil {
		return nil, err
	}
	var out []*ask.Question
	for _, c := range s.Commands {
		for _, dir := range c.Dirs {
			q, err := ask.Run(ask.ShellExec, c.Args, dir)
			if err != nil {
				return nil, err
			}
			// Always there: a rule's condition on a key that is missing is an error.
			q.Metadata["expands"] = fmt.Sprint(c.Inexact)
			q.Metadata["env"] = strings.Join(c.Env, " ")
			out = append(out, q)
		}
	}
	for _, f := range s.Files {
		list, err := t.file(map[bool]string{true: "write", false: "read"}[f.Write], f.Path)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	for _, c := range s.Calls {
		q, err := ask.Fetch(c.Target, "")
		if err != nil {
			return nil, err
		}
		q.Metadata["protocol"] = c.Protocol
		out = append(out, q)
	}
	if len(out) == 0 { // assignments, comments: nothing is run
		q, err := ask.Run(ask.ShellExec, []string{":"}, dir)
		if err != nil {
			return nil, err
		}
		q.Metadata["expands"], q.Metadata["env"] = "false", ""
		out = append(out, q)
	}
	return out, nil
}

// geminiShell has a directory of its own.
func geminiShell(t *toolCall) ([]*ask.Question, error) {
	text, err := text1(t.input, "command")
	if err != nil {
		return nil, err
	}
	dir := t.cwd
	for _, key := range []string{"dir_path", "directory"} {
		sub, err := text0(t.input, key)
		if err != nil {
			return nil, err
		}
		if sub != "" {
			dir = t.abs(sub)
		}
	}
	return t.commandLine(text, dir)
}

// monitor runs a command or opens a WebSocket.
func monitor(t *toolCall) ([]*ask.Question, error) {
	if _, ok := t.input["ws"]; !ok {
		return shell("command")(t)
	}
	var ws struct{ URL string }
	if err := json.Unmarshal(t.input["ws"], &ws); err != nil || ws.URL == "" || t.input["command"] != nil {
		return nil, errors.New("ws cannot be read")
	}
	q, err := ask.Fetch(strings.Replace(ws.URL, "ws", "http", 1), "GET")
	return []*ask.Question{q}, err
}

// abs is a path from the root; its dots are left, for what stands before them
// may be a link.
func (t *toolCall) abs(path string) string {
	if !filepath.IsAbs(path) {
		path = t.cwd + "/" + path
	}
	return path
}

// file asks about the path under a key.
func file(mode, key string) reader {
	return func(t *toolCall) ([]*ask.Question, error) {
		path, err := text1(t.input, key)
		if err != nil {
			return nil, err
		}
		return t.file(mode, path)
	}
}

// file asks about a path, and about the file that it leads to through symbolic
// links, where that is another.
func (t *toolCall) file(mode, path string) ([]*ask.Question, error) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if !filepath.IsAbs(t.home) {
			return nil, fmt.Errorf("%s: there is no home directory", path)
		}
		path = t.home + "/" + rest
	}
	if strings.ContainsRune(path, 0) {
		return nil, errors.New("the path has a NUL")
	}
	var out []*ask.Question
	for _, p := range []string{filepath.Clean(t.abs(path)), resolved(t.abs(path))} {
		q, err := ask.File(mode, p, t.cwd)
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}

// maxLinks is how many links the kernel follows in a path.
const maxLinks = 40

// resolved is where a path leads as the kernel walks it: a link is followed
// before the dots behind it, and one that leads nowhere is made where it points.
func resolved(path string) string {
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		to, err := os.Readlink(next)
		if err != nil || links == maxLinks {
			at = next
			continue
		}
		links++
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return at
}

// search asks to read the directory that a pattern is looked for in.
func search(dir, pattern string) reader {
	return func(t *toolCall) ([]*ask.Question, error) {
		base, err := text0(t.input, dir)
		if err != nil {
			return nil, err
		}
		glob, err := text0(t.input, pattern)
		if err != nil {
			return nil, err
		}
		return t.search(base, glob)
	}
}

// searches is search for a list of patterns.
func searches(key string) reader {
	return func(t *toolCall) ([]*ask.Question, error) {
		var globs []string
		if err := json.Unmarshal(t.input[key], &globs); err != nil || len(globs) == 0 {
			return nil, fmt.Errorf("%s is no list of patterns", key)
		}
		var out []*ask.Question
		for _, g := range globs {
			list, err := t.search("", g)
			if err != nil {
				return nil, err
			}
			out = append(out, list...)
		}
		return out, nil
	}
}

func (t *toolCall) search(base, glob string) ([]*ask.Question, error) {
	dir := t.abs(base)
	fixed := glob
	if i := strings.IndexAny(glob, `*?[{\!(`); i >= 0 {
		fixed = glob[:strings.LastIndexByte(glob[:i], '/')+1]
	}
	// Alternatives begin anew where they begin with a slash.
	if rest := glob[len(fixed):]; strings.Contains(rest, "..") || strings.Contains(rest, `\`) || alternative.MatchString(rest) {
		return nil, fmt.Errorf("the pattern %s leads upwards, or may", glob)
	}
	if filepath.IsAbs(fixed) {
		dir = fixed
	} else {
		dir += "/" + fixed
	}
	return t.file("read", dir)
}

var alternative = regexp.MustCompile(`[{,(|]/`)

// fetch asks about the URL under a key.
func fetch(key string) reader {
	return func(t *toolCall) ([]*ask.Question, error) {
		u, err := text1(t.input, key)
		if err != nil {
			return nil, err
		}
		q, err := ask.Fetch(u, "GET")
		return []*ask.Question{q}, err
	}
}

// fetches asks about the tool and each URL in the text under one of the keys.
func fetches(keys ...string) reader {
	return func(t *toolCall) ([]*ask.Question, error) {
		tool, err := ask.Run(ask.ToolExec, []string{t.tool}, t.cwd)
		if err != nil {
			return nil, err
		}
		out := []*ask.Question{tool}
		for _, key := range keys {
			text, err := text0(t.input, key)
			if err != nil {
				return nil, err
			}
			for word := range strings.FieldsSeq(text) {
				if !strings.Contains(word, "://") {
					continue
				}
				q, err := ask.Fetch(word, "GET")
				if err != nil {
					return nil, err
				}
				out = append(out, q)
			}
		}
		return out, nil
	}
}

// worktree asks about the directory that the agent moves to.
func worktree(t *toolCall) ([]*ask.Question, error) {
	out, err := named(t)
	if err != nil {
		return nil, err
	}
	path, err := text0(t.input, "path")
	if err != nil || path == "" {
		return out, err
	}
	list, err := t.file("read", path)
	return append(out, list...), err
}

// patch asks to write each file that a patch of Codex names.
func patch(key string) reader {
	return func(t *toolCall) ([]*ask.Question, error) {
		text, err := text1(t.input, key)
		if err != nil {
			return nil, err
		}
		var out []*ask.Question
		for line := range bytes.Lines([]byte(text)) {
			line = bytes.TrimSpace(line)
			for _, mark := range []string{"*** Add File:", "*** Update File:", "*** Delete File:", "*** Move to:"} {
				path, ok := strings.CutPrefix(string(line), mark)
				if !ok {
					continue
				}
				list, err := t.file("write", strings.TrimSpace(path))
				if err != nil {
					return nil, err
				}
				out = append(out, list...)
			}
		}
		return out, nil
	}
}
