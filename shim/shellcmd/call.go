package shellcmd

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// An arg is a word of a command; exact is false where it stands as written.
type arg struct {
	text  string
	exact bool
	// What may become of it where it is not exact.
	leads  bool     // an option: it begins with an expansion
	splits bool     // several words: an expansion in it is not quoted
	globs  bool     // names of files
	names  []string // it is one word where these variables are numbers
}

// A run is a simple command in its place.
type run struct {
	args   []arg
	env    []string
	redirs []*syntax.Redirect
	at     []string
}

func (s *splitter) add(args []arg, env, at []string) {
	c := Command{Env: env, Dirs: at}
	for _, a := range args {
		c.Args = append(c.Args, a.text)
		c.Inexact = c.Inexact || !a.exact
	}
	s.out.Commands = append(s.out.Commands, c)
}

// call reads a simple command.
func (s *splitter) call(c *syntax.CallExpr, redirs []*syntax.Redirect, at []string) (ok, all []string, err error) {
	names, err := s.assigns(c.Assigns, at)
	if err != nil {
		return nil, nil, err
	}
	r := run{env: names, redirs: redirs, at: at}
	for _, w := range c.Args {
		if err := s.inside(w, at); err != nil {
			return nil, nil, err
		}
		r.args = append(r.args, s.arg(w))
	}
	if len(r.args) == 0 {
		return at, at, nil
	}
	return s.run(r)
}

// run judges a command and, where it is one that runs another, that one, too.
func (s *splitter) run(r run) (ok, all []string, err error) {
	name := r.args[0]
	if !name.exact || name.text == "" {
		return nil, nil, fmt.Errorf("the name of the command %s is not literal", name.text)
	}
	s.add(r.args, r.env, r.at)
	switch base := path.Base(name.text); base {
	case "cd", "pushd":
		all, err = s.cd(r)
		return without(all, r), all, err
	case "popd":
		return nil, nil, errors.New("popd: where it leads is not known")
	case "eval":
		return s.eval(r)
	case "trap":
		s.deferred = true
		return r.at, r.at, s.trap(r)
	case "sh", "bash", "dash", "zsh", "ksh", "ash", "mksh":
		return r.at, r.at, s.shell(r)
	case "find", "gfind", "fd":
		return r.at, r.at, s.find(r)
	case "alias":
		return r.at, r.at, s.alias(r)
	case "set":
		if slices.ContainsFunc(r.args[1:], func(a arg) bool {
			return a.text == "physical" || len(a.text) > 1 && a.text[0] == '-' && a.text[1] != '-' && strings.Contains(a.text, "P")
		}) {
			return nil, nil, errors.New("set -P: where cd leads behind links is not known")
		}
	case "jobs", "compgen": // -x, -C, -F, -W run something
		if slices.ContainsFunc(r.args[1:], func(a arg) bool {
			return !a.exact || strings.HasPrefix(a.text, "-") && strings.ContainsAny(a.text, "xCFW")
		}) {
			return nil, nil, fmt.Errorf("%s: what it runs is not read", base)
		}
	case ".", "source":
		if len(r.args) > 1 && input(r.args[1].text) {
			return r.at, r.at, s.fromInput(r)
		}
	case "let", "printf", "read", "unset", "test", "[", "mapfile", "readarray", "getopts", "wait", "declare", "typeset", "local", "export", "readonly":
		return r.at, r.at, s.builtin(base, r)
	default:
		if w, ok := wrappers[base]; ok {
			return s.wrapped(r, w)
		}
	}
	return r.at, r.at, nil
}

// without is where a cd leads after success: the last of all that it adds.
func without(all []string, r run) []string {
	var to []string
	for _, d := range all {
		if !slices.Contains(r.at, d) {
			to = append(to, d)
		}
	}
	if len(to) == 0 || len(r.at) > 1 {
		return all
	}
	return to
}

// cd returns where the shell may be afterwards.
func (s *splitter) cd(r run) ([]string, error) {
	args := r.args[1:]
	physical := false
	for len(args) > 0 && args[0].exact && slices.Contains([]string{"-L", "-P", "-e", "--"}, args[0].text) {
		physical = physical || args[0].text == "-P"
		args = args[1:]
	}
	to := s.home
	if len(args) > 0 {
		if to = args[0].text; !args[0].exact || len(args) > 1 {
			return nil, fmt.Errorf("cd %s: where it leads is not known", args[0].text)
		}
	}
	if to == "" || strings.HasPrefix(to, "-") || strings.HasPrefix(to, "+") {
		return nil, fmt.Errorf("%s %s: where it leads is not known", r.args[0].text, to)
	}
	if physical && slices.Contains(strings.Split(to, "/"), "..") {
		return nil, fmt.Errorf("cd -P %s: where it leads behind links is not known", to)
	}
	s.moves = true
	if filepath.IsAbs(to) {
		return union(r.at, []string{filepath.Clean(to)}), nil
	}
	all := r.at
	for _, dir := range r.at {
		all = union(all, []string{filepath.Join(dir, to)})
	}
	return all, nil
}

func (s *splitter) eval(r run) (ok, all []string, err error) {
	var text []string
	for _, a := range r.args[1:] {
		if !a.exact {
			return nil, nil, fmt.Errorf("eval %s: what it runs is not literal", a.text)
		}
		text = append(text, a.text)
	}
	all, err = s.script(strings.Join(text, " "), r.at, syntax.LangBash)
	return all, all, err
}

func (s *splitter) trap(r run) error {
	args := r.args[1:]
	if len(args) > 0 && !args[0].exact { // it may be several words
		return fmt.Errorf("trap %s: what it runs is not literal", args[0].text)
	}
	for len(args) > 0 && strings.HasPrefix(args[0].text, "-") && len(args[0].text) > 1 {
		if args[0].text != "--" {
			return nil // -l, -p: they print
		}
		args = args[1:]
	}
	if len(args) < 2 || args[0].text == "-" {
		return nil
	}
	if !args[0].exact {
		return fmt.Errorf("trap %s: what it runs is not literal", args[0].text)
	}
	_, err := s.script(args[0].text, r.at, syntax.LangBash)
	return err
}

// alias reads what an alias stands for; the name itself is judged where used.
func (s *splitter) alias(r run) error {
	s.deferred = true
	for _, a := range r.args[1:] {
		if !a.exact {
			return fmt.Errorf("alias %s: what it runs is not literal", a.text)
		}
		_, value, found := strings.Cut(a.text, "=")
		if !found {
			continue
		}
		if _, err := s.script(value, r.at, syntax.LangBash); err != nil {
			return fmt.Errorf("alias %s: %w", a.text, err)
		}
	}
	return nil
}

// Long options of shells that name no file.
var shellLong = []string{"--login", "--norc", "--noprofile", "--posix", "--restricted", "--verbose", "--noediting"}

// shell reads `sh -c TEXT` and a script that a here-document holds. A script
// file, or one that comes through a pipe, is not looked into.
func (s *splitter) shell(r run) error {
	args, flags := r.args[1:], ""
	for len(args) > 0 {
		a := args[0]
		if !a.exact {
			return fmt.Errorf("%s %s: what it runs is not literal", r.args[0].text, a.text)
		}
		if !strings.HasPrefix(a.text, "-") && !strings.HasPrefix(a.text, "+") {
			break
		}
		args = args[1:]
		if a.text == "--" || a.text == "-" {
			break
		}
		if slices.Contains(shellLong, a.text) {
			continue
		}
		if strings.HasPrefix(a.text, "--") {
			return fmt.Errorf("%s %s: what it runs is not known", r.args[0].text, a.text)
		}
		flags += a.text[1:]
		if strings.ContainsAny(a.text[1:], "oO") {
			args = args[min(1, len(args)):]
		}
	}
	if strings.Contains(flags, "c") {
		if len(args) == 0 || !args[0].exact {
			return fmt.Errorf("%s -c: what it runs is not literal", r.args[0].text)
		}
		return s.shellScript(r, args[0].text)
	}
	if len(args) > 0 && !strings.Contains(flags, "s") && !input(args[0].text) {
		return nil
	}
	return s.fromInput(r)
}

// input tells whether a path may be the standard input.
func input(path string) bool {
	return strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, "/proc/")
}

// shellScript reads a script for another shell. That may be one that knows only
// what POSIX says, where [[ is the name of a command and $'…' no escape; both
// readings count.
func (s *splitter) shellScript(r run, text string) error {
	before := len(s.out.Commands)
	if _, err := s.script(text, r.at, syntax.LangBash); err != nil || path.Base(r.args[0].text) == "bash" {
		return err
	}
	first := s.out.Commands[before:]
	n := len(s.out.Commands)
	_, err := s.script(text, r.at, syntax.LangPOSIX)
	more := slices.Clone(s.out.Commands[n:])
	s.out.Commands = append(s.out.Commands[:n], slices.DeleteFunc(more, func(c Command) bool {
		return slices.ContainsFunc(first, func(o Command) bool { return reflect.DeepEqual(c, o) })
	})...)
	return err
}

// fromInput reads the script that a here-document or here-string gives a shell.
func (s *splitter) fromInput(r run) error {
	for _, d := range r.redirs {
		var text string
		exact := true
		switch d.Op {
		case syntax.WordHdoc:
			text, exact = s.word(d.Word)
		case syntax.Hdoc, syntax.DashHdoc:
			if d.Hdoc != nil {
				text, exact = s.heredoc(d)
			}
		default:
			continue
		}
		if !exact {
			return fmt.Errorf("%s: the script that it is given is not literal", r.args[0].text)
		}
		if err := s.shellScript(r, text); err != nil {
			return err
		}
	}
	return nil
}

func (s *splitter) heredoc(d *syntax.Redirect) (text string, exact bool) {
	quoted := strings.ContainsAny(s.source(d.Word), `'"\`)
	var out strings.Builder
	for _, p := range d.Hdoc.Parts {
		lit, ok := p.(*syntax.Lit)
		if !ok {
			return "", false
		}
		if quoted {
			out.WriteString(lit.Value)
		} else {
			out.WriteString(escaped(lit.Value, "$`\\"))
		}
	}
	return out.String(), true
}

// find reads the commands of -exec and its like.
func (s *splitter) find(r run) error {
	var starts = []string{"-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"}
	for i := 1; i < len(r.args); i++ {
		if a := r.args[i]; a.splits || a.globs && strings.Trim(a.text, "*?") == "" || a.leads && i+1 < len(r.args) && !strings.HasPrefix(r.args[i+1].text, "-") {
			return fmt.Errorf("%s %s: it may be -exec", r.args[0].text, a.text)
		}
		if !slices.Contains(starts, r.args[i].text) {
			continue
		}
		inner := run{at: r.at}
		for i++; i < len(r.args) && r.args[i].text != ";" && r.args[i].text != "+"; i++ {
			a := r.args[i]
			a.exact = a.exact && !strings.Contains(a.text, "{}")
			inner.args = append(inner.args, a)
		}
		if len(inner.args) == 0 {
			return fmt.Errorf("%s: no command to run", r.args[0].text)
		}
		if _, _, err := s.run(inner); err != nil {
			return err
		}
	}
	return nil
}
