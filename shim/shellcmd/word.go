package shellcmd

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// word returns what a word means. Where the shell expands it that is not known
// before it runs: then it is the word's source, and exact is false.
func (s *splitter) word(w *syntax.Word) (text string, exact bool) {
	if text, ok := s.literal(w); ok {
		return text, true
	}
	return s.source(w), false
}

// arg is a word of a command.
func (s *splitter) arg(w *syntax.Word) arg {
	text, exact := s.word(w)
	a := arg{text: text, exact: exact}
	if exact {
		return a
	}
	plain := true
	for i, part := range w.Parts {
		switch p := part.(type) {
		case *syntax.Lit:
			_, ok := unquoted(p.Value)
			a.globs = a.globs || !ok
		case *syntax.ParamExp:
			name, number := s.counts(p)
			plain = plain && number
			a.splits = a.splits || !number || name != ""
			a.leads = a.leads || i == 0
			if name != "" {
				a.names = append(a.names, name)
			}
		case *syntax.CmdSubst:
			a.splits, plain, a.leads = true, false, a.leads || i == 0
		case *syntax.DblQuoted:
			if len(p.Parts) > 0 && i == 0 {
				_, lit := p.Parts[0].(*syntax.Lit)
				a.leads = !lit
			}
		case *syntax.ExtGlob:
			a.globs = true
		}
	}
	if !plain {
		a.names = nil
	}
	return a
}

func (s *splitter) source(n syntax.Node) string {
	from, to := int(n.Pos().Offset()), int(n.End().Offset())
	if from < 0 || to > len(s.src) || from > to {
		return "?"
	}
	return s.src[from:to]
}

func (s *splitter) literal(w *syntax.Word) (string, bool) {
	var out strings.Builder
	for i, part := range w.Parts {
		switch p := part.(type) {
		case *syntax.Lit:
			text := p.Value
			if i == 0 && strings.HasPrefix(text, "~") {
				name, rest, _ := strings.Cut(text[1:], "/")
				if name != "" || s.home == "" || rest == "" && len(w.Parts) > 1 && !strings.Contains(text, "/") {
					return "", false
				}
				out.WriteString(s.home)
				text = text[1:]
			}
			plain, ok := unquoted(text)
			if !ok || len(w.Parts) > 1 && strings.Contains(text, "{") {
				return "", false
			}
			out.WriteString(plain)
		case *syntax.SglQuoted:
			if p.Dollar && strings.Contains(p.Value, `\`) {
				return "", false
			}
			out.WriteString(p.Value)
		case *syntax.DblQuoted:
			if p.Dollar { // translated
				return "", false
			}
			for _, q := range p.Parts {
				lit, ok := q.(*syntax.Lit)
				if !ok {
					return "", false
				}
				out.WriteString(escaped(lit.Value, "$`\"\\"))
			}
		default:
			return "", false
		}
	}
	return out.String(), true
}

// unquoted reads text outside quotes; ok is false where it is a pattern.
func unquoted(text string) (plain string, ok bool) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '\\':
			if i++; i < len(text) && text[i] != '\n' {
				out.WriteByte(text[i])
			}
		case '*', '?', '[':
			if c == '[' && (text == "[" || text == "[[") {
				out.WriteByte(c)
				continue
			}
			return "", false
		case '{':
			if strings.Contains(text[i:], ",") || strings.Contains(text[i:], "..") {
				return "", false
			}
			out.WriteByte(c)
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), true
}

// escaped takes away the backslashes before the characters of set, and line
// continuations.
func escaped(text, set string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			if text[i+1] == '\n' {
				i++
				continue
			}
			if strings.IndexByte(set, text[i+1]) >= 0 {
				i++
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

// redirect notes the file of one redirection.
func (s *splitter) redirect(r *syntax.Redirect, at []string) error {
	if err := s.inside(r.Word, at); err != nil {
		return err
	}
	write := false
	switch r.Op {
	case syntax.Hdoc, syntax.DashHdoc:
		if r.Hdoc == nil {
			return nil
		}
		return s.inside(r.Hdoc, at)
	case syntax.WordHdoc:
		return nil
	case syntax.RdrIn:
	case syntax.RdrOut, syntax.AppOut, syntax.RdrInOut, syntax.RdrClob, syntax.RdrAll, syntax.AppAll:
		write = true
	case syntax.DplIn, syntax.DplOut:
		if text, exact := s.word(r.Word); exact && strings.Trim(text, "0123456789-") == "" && text != "" {
			return nil // a descriptor
		}
		write = r.Op == syntax.DplOut
	default:
		return fmt.Errorf("the redirection %s is not known here", r.Op)
	}
	text, exact := s.word(r.Word)
	if !exact || text == "" {
		return fmt.Errorf("the redirection to %s: the path is not literal", s.source(r.Word))
	}
	return s.opens(text, write, at)
}

// opens notes a file, or what else a path means to bash.
func (s *splitter) opens(name string, write bool, at []string) error {
	if rest, ok := strings.CutPrefix(name, "/dev/"); ok {
		for _, proto := range []string{"tcp", "udp"} {
			if hostport, ok := strings.CutPrefix(rest, proto+"/"); ok {
				host, port := path.Split(hostport)
				if host = strings.TrimSuffix(host, "/"); host == "" || port == "" {
					return fmt.Errorf("%s: no host and port", name)
				}
				if strings.Contains(host, ":") {
					host = "[" + host + "]"
				}
				s.out.Calls = append(s.out.Calls, Call{Target: host + ":" + port, Protocol: proto})
				return nil
			}
		}
		switch rest {
		case "null", "zero", "stdin", "stdout", "stderr", "tty":
			return nil
		}
	}
	for _, dir := range at {
		p := name
		if !filepath.IsAbs(p) {
			p = strings.TrimSuffix(dir, "/") + "/" + p
		}
		s.out.Files = append(s.out.Files, File{Path: p, Write: write})
	}
	return nil
}

// Variables that choose which program or code a command is.
var telling = []string{"PATH", "BASH_ENV", "ENV", "IFS", "PS4", "PROMPT_COMMAND", "SHELLOPTS", "BASHOPTS", "CDPATH", "PYTHONPATH", "NODE_OPTIONS",
	"PERL5OPT", "RUBYOPT", "EDITOR", "VISUAL", "PAGER", "GIT_EXEC_PATH", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_EDITOR", "GIT_PAGER", "GIT_EXTERNAL_DIFF", "OUTCALL_AGENT_SOCK",
	"BASH_ALIASES", "BASH_CMDS", "BASH_LOADABLES_PATH", "PS0", "LESSOPEN", "LESSCLOSE", "MANPAGER", "BROWSER", "GIT_ASKPASS", "SSH_ASKPASS", "GIT_PROXY_COMMAND",
	"GIT_TEMPLATE_DIR", "GIT_SEQUENCE_EDITOR", "GIT_DIR", "HOME", "XDG_CONFIG_HOME", "PYTHONSTARTUP", "PYTHONHOME", "PERL5LIB", "RUBYLIB", "NODE_PATH",
	"JAVA_TOOL_OPTIONS", "MAKEFLAGS", "TAR_OPTIONS", "RSYNC_RSH"}

// sets notes an assignment. One that chooses what other commands are is judged
// as the command `env NAME=VALUE`.
func (s *splitter) sets(name, value string, at []string) {
	if risky(name) {
		s.out.Commands = append(s.out.Commands, Command{Args: []string{"env", name + "=" + value}, Dirs: at, Inexact: true})
	}
}

func risky(name string) bool {
	return strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "GIT_CONFIG") || slices.Contains(telling, name)
}

// assigns reads the assignments before a command, or alone.
func (s *splitter) assigns(list []*syntax.Assign, at []string) (names []string, err error) {
	for _, a := range list {
		if err := s.inside(a, at); err != nil {
			return nil, err
		}
		if a.Name == nil || a.Naked {
			continue
		}
		value := ""
		if a.Value != nil {
			value, _ = s.word(a.Value)
		}
		if a.Index != nil && hidden(s.source(a.Index)) {
			return nil, errors.New("a substitution in an index may be run twice")
		}
		names = append(names, a.Name.Value)
		s.sets(a.Name.Value, value, at)
	}
	return names, nil
}
