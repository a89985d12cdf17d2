package shellcmd

import (
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// A wrapper is a program that runs the command in its arguments. Options that
// are not here leave it unknown where that command begins, or change it.
type wrapper struct {
	flags  string   // short options alone
	values string   // short options with a value
	long   []string // long options alone
	valued []string // long options with a value
	skip   int      // operands before the command
	assign bool     // NAME=VALUE operands before the command
	append bool     // more arguments are appended when it runs
	tells  string   // short options with which it runs nothing
}

var wrappers = map[string]wrapper{
	"env":     {flags: "i0v", values: "u", long: []string{"ignore-environment", "null", "debug"}, valued: []string{"unset"}, assign: true},
	"sudo":    {flags: "nEHkbPA", values: "ugpCT", long: []string{"non-interactive", "preserve-env", "set-home"}, valued: []string{"user", "group"}, assign: true, tells: "lvV"},
	"doas":    {flags: "n", values: "u"},
	"nice":    {values: "n", valued: []string{"adjustment"}},
	"ionice":  {flags: "t", values: "cn"},
	"nohup":   {},
	"setsid":  {flags: "cfw", long: []string{"ctty", "fork", "wait"}},
	"stdbuf":  {values: "ioe", valued: []string{"input", "output", "error"}},
	"timeout": {flags: "fpv", values: "ks", long: []string{"preserve-status", "foreground", "verbose"}, valued: []string{"kill-after", "signal"}, skip: 1},
	"time":    {flags: "pv", values: "f", long: []string{"portability", "verbose"}, valued: []string{"format"}},
	"command": {flags: "p", tells: "vV"},
	"builtin": {},
	"exec":    {flags: "cl", values: "a"},
	"flock":   {flags: "sxneu", values: "wE", long: []string{"shared", "exclusive", "nonblock", "no-fork"}, valued: []string{"timeout"}, skip: 1},
	"xargs": {flags: "0rtpxo", values: "adEILnPs", append: true,
		long:   []string{"null", "no-run-if-empty", "verbose", "interactive", "exit", "open-tty"},
		valued: []string{"arg-file", "delimiter", "max-lines", "max-args", "max-procs", "max-chars", "replace"}},
}

// wrapped finds the command that a wrapper runs, and judges it.
func (s *splitter) wrapped(r run, w wrapper) (ok, all []string, err error) {
	args, runs, err := w.options(r.args)
	if err != nil || !runs {
		return r.at, r.at, err
	}
	inner := run{env: slices.Clone(r.env), redirs: r.redirs, at: r.at}
	if w.assign {
		for len(args) > 0 && args[0].exact {
			name, value, found := strings.Cut(args[0].text, "=")
			if !found || !syntax.ValidName(name) {
				break
			}
			s.sets(name, value, r.at)
			inner.env = append(inner.env, name)
			args = args[1:]
		}
	}
	for range w.skip {
		if len(args) > 0 && !args[0].exact {
			return nil, nil, fmt.Errorf("%s %s: what it runs is not literal", r.args[0].text, args[0].text)
		}
		args = args[min(1, len(args)):]
	}
	if len(args) == 0 {
		return r.at, r.at, nil
	}
	inner.args = args
	if w.append {
		inner.args = append(replaced(r.args, args), arg{text: "..."})
	}
	return s.run(inner)
}

// replaced is the command of an xargs whose option -I says that a word of it
// stands for what is read: such a word is not literal.
func replaced(all, args []arg) []arg {
	out := slices.Clone(args)
	for i, a := range all[:len(all)-len(args)] {
		word, is := strings.CutPrefix(a.text, "--replace")
		switch {
		case is:
			word = strings.TrimPrefix(word, "=")
		case strings.HasPrefix(a.text, "-") && strings.Contains(a.text, "I"):
			_, word, is = strings.Cut(a.text, "I")
		}
		if !is {
			continue
		}
		if word == "" && i+1 < len(all) {
			word = all[i+1].text
		}
		for j := range out {
			out[j].exact = out[j].exact && !strings.Contains(out[j].text, word) && !strings.Contains(out[j].text, "{}")
		}
	}
	return out
}

// options skips a wrapper's options; runs is false where it only tells.
func (w wrapper) options(all []arg) (rest []arg, runs bool, err error) {
	args := all[1:]
	for len(args) > 0 {
		a := args[0]
		if !a.exact {
			return nil, false, fmt.Errorf("%s %s: what it runs is not literal", all[0].text, a.text)
		}
		if !strings.HasPrefix(a.text, "-") || a.text == "-" {
			break
		}
		args = args[1:]
		if a.text == "--" {
			break
		}
		take, tells, ok := w.option(a.text)
		if !ok {
			return nil, false, fmt.Errorf("%s %s: this option is not known here, nor what is run", all[0].text, a.text)
		}
		if tells {
			return nil, false, nil
		}
		if take {
			if len(args) == 0 || !args[0].exact {
				return nil, false, fmt.Errorf("%s %s: its value is not literal", all[0].text, a.text)
			}
			args = args[1:]
		}
	}
	return args, true, nil
}

// option reads one option; take: its value is the next word.
func (w wrapper) option(text string) (take, tells, ok bool) {
	if name, found := strings.CutPrefix(text, "--"); found {
		name, _, valued := strings.Cut(name, "=")
		if slices.Contains(w.valued, name) {
			return !valued, false, true
		}
		return false, false, slices.Contains(w.long, name)
	}
	for i, c := range text[1:] {
		switch {
		case strings.ContainsRune(w.tells, c):
			return false, true, true
		case strings.ContainsRune(w.values, c):
			return i+2 == len(text), false, true
		case !strings.ContainsRune(w.flags, c):
			return false, false, false
		}
	}
	return false, false, true
}
