package shellcmd

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Bounds of one command line.
const (
	MaxText  = 64 << 10
	maxDepth = 8   // of scripts in scripts: eval, sh -c
	maxDirs  = 8   // directories that one command may run in
	maxItems = 512 // commands and files; the caller has a lower one
)

// A Script is what one command line may do.
type Script struct {
	Commands []Command
	Files    []File
	Calls    []Call
}

// A Command is one simple command.
type Command struct {
	Args    []string
	Dirs    []string // where it may run, at least one
	Inexact bool     // an argument holds an expansion and stands here as written
	Env     []string // names of the variables that are set for it
}

// A File is one that a redirection opens.
type File struct {
	Path  string // from the root, with the dots that were written: they may stand behind a link
	Write bool
}

// A Call is a connection that the shell itself makes (/dev/tcp, /dev/udp).
type Call struct {
	Target, Protocol string
}

// Split reads a command line that is given to bash in dir. home is what a tilde
// means; "" refuses tildes in paths.
func Split(text, dir, home string) (*Script, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("the working directory %q is no absolute path", dir)
	}
	s := &splitter{out: &Script{}, home: home, values: newValues()}
	if _, err := s.script(text, []string{filepath.Clean(dir)}, syntax.LangBash); err != nil {
		return nil, err
	}
	if err := s.settled(); err != nil {
		return nil, err
	}
	if s.moves && s.deferred {
		return nil, errors.New("a change of directory beside functions, traps, aliases or in loops cannot be followed")
	}
	return s.out, nil
}

// A splitter collects over a script and the scripts in it.
type splitter struct {
	out   *Script
	home  string
	depth int
	// moves: there is a cd; deferred: there is code that is run later, or again
	// after a cd. Together they leave no known directory.
	moves, deferred bool

	values

	src  string                // of the script in hand
	seen map[*syntax.Stmt]bool // of the script in hand
}

// script reads a whole script and returns where it may leave the shell.
func (s *splitter) script(text string, at []string, lang syntax.LangVariant) ([]string, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("the command line has more than %d bytes", MaxText)
	}
	if strings.ContainsAny(text, "\x00\r") { // a CR is a letter to bash
		return nil, errors.New("the command line has a NUL or CR")
	}
	if s.depth++; s.depth > maxDepth {
		return nil, fmt.Errorf("scripts inside scripts, more than %d deep", maxDepth)
	}
	defer func(src string, seen map[*syntax.Stmt]bool) { s.src, s.seen = src, seen; s.depth-- }(s.src, s.seen)
	f, err := syntax.NewParser(syntax.Variant(lang)).Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, fmt.Errorf("it cannot be read as %v: %w", lang, err)
	}
	s.src, s.seen = text, map[*syntax.Stmt]bool{}
	if err := s.twice(f); err != nil {
		return nil, err
	}
	_, all, err := s.stmts(f.Stmts, at)
	if err != nil {
		return nil, err
	}
	// Whatever the walk below does not know of it has not judged.
	missed := false
	syntax.Walk(f, func(n syntax.Node) bool {
		if st, ok := n.(*syntax.Stmt); ok && !s.seen[st] {
			missed = true
		}
		return !missed
	})
	if missed {
		return nil, errors.New("a part of it is of a kind that is not known here")
	}
	return all, nil
}

// stmts reads statements one after the other. ok is where the shell may be
// after success, all where it may be in any case.
func (s *splitter) stmts(list []*syntax.Stmt, at []string) (ok, all []string, err error) {
	ok, all = at, at
	for _, st := range list {
		if ok, all, err = s.stmt(st, all); err != nil {
			return nil, nil, err
		}
	}
	return ok, all, nil
}

func (s *splitter) stmt(st *syntax.Stmt, at []string) (ok, all []string, err error) {
	s.seen[st] = true
	if len(at) > maxDirs {
		return nil, nil, fmt.Errorf("it may run in more than %d directories", maxDirs)
	}
	if len(s.out.Commands)+len(s.out.Files) > maxItems {
		return nil, nil, fmt.Errorf("it has more than %d commands and redirections", maxItems)
	}
	for _, r := range st.Redirs {
		if err := s.redirect(r, at); err != nil {
			return nil, nil, err
		}
	}
	ok, all, err = s.command(st.Cmd, st.Redirs, at)
	if err != nil {
		return nil, nil, err
	}
	if st.Background || st.Coprocess || st.Disown {
		return at, at, nil // in a shell of its own
	}
	if st.Negated {
		return all, all, nil
	}
	return ok, all, nil
}

func (s *splitter) command(c syntax.Command, redirs []*syntax.Redirect, at []string) (ok, all []string, err error) {
	switch c := c.(type) {
	case nil:
		return at, at, nil
	case *syntax.CallExpr:
		return s.call(c, redirs, at)
	case *syntax.BinaryCmd:
		return s.binary(c, at)
	case *syntax.Block:
		return s.stmts(c.Stmts, at)
	case *syntax.Subshell:
		_, _, err = s.stmts(c.Stmts, at)
		return at, at, err
	case *syntax.TimeClause:
		if c.Stmt == nil {
			return at, at, nil
		}
		return s.stmt(c.Stmt, at)
	case *syntax.CoprocClause:
		if c.Name != nil && risky(c.Name.Lit()) {
			return nil, nil, fmt.Errorf("a coprocess is named %s", c.Name.Lit())
		}
		_, _, err = s.stmt(c.Stmt, at)
		return at, at, err
	case *syntax.FuncDecl:
		s.deferred = true
		_, all, err = s.stmt(c.Body, at)
		return union(at, all), union(at, all), err
	case *syntax.IfClause:
		return s.ifClause(c, at)
	case *syntax.CaseClause:
		return s.caseClause(c, at)
	case *syntax.WhileClause:
		_, all, err = s.loop(append(slices.Clip(c.Cond), c.Do...), at)
		return all, all, err
	case *syntax.ForClause:
		if err := s.forHead(c, at); err != nil {
			return nil, nil, err
		}
		return s.loop(c.Do, at)
	case *syntax.DeclClause:
		return at, at, s.declare(c, at)
	case *syntax.TestClause, *syntax.ArithmCmd, *syntax.LetClause:
		return at, at, s.quiet(c, at)
	}
	return nil, nil, fmt.Errorf("a %T is of a kind that is not known here", c)
}

func (s *splitter) binary(c *syntax.BinaryCmd, at []string) (ok, all []string, err error) {
	switch c.Op {
	case syntax.AndStmt, syntax.OrStmt:
		ok, all, err = s.stmt(c.X, at)
		if err != nil {
			return nil, nil, err
		}
		next := ok
		if c.Op == syntax.OrStmt {
			next = all
		}
		ok2, all2, err := s.stmt(c.Y, next)
		if c.Op == syntax.OrStmt {
			ok2 = union(ok, ok2)
		}
		return ok2, union(all, all2), err
	case syntax.Pipe, syntax.PipeAll:
		for _, st := range []*syntax.Stmt{c.X, c.Y} {
			if _, all, err = s.stmt(st, at); err != nil {
				return nil, nil, err
			}
		}
		return union(at, all), union(at, all), nil // shopt lastpipe
	}
	return nil, nil, fmt.Errorf("%s is not known here", c.Op)
}

func (s *splitter) ifClause(c *syntax.IfClause, at []string) (ok, all []string, err error) {
	yes, no, err := s.stmts(c.Cond, at)
	if err != nil {
		return nil, nil, err
	}
	if len(c.Cond) == 0 { // the else of an if
		yes = at
	}
	_, all, err = s.stmts(c.Then, yes)
	if err != nil {
		return nil, nil, err
	}
	rest := no
	if c.Else != nil {
		if _, rest, err = s.ifClause(c.Else, no); err != nil {
			return nil, nil, err
		}
	}
	all = union(all, rest)
	return all, all, nil
}

func (s *splitter) caseClause(c *syntax.CaseClause, at []string) (ok, all []string, err error) {
	if err := s.inside(c.Word, at); err != nil {
		return nil, nil, err
	}
	all = at
	for _, it := range c.Items {
		for _, p := range it.Patterns {
			if err := s.inside(p, at); err != nil {
				return nil, nil, err
			}
		}
		_, after, err := s.stmts(it.Stmts, all) // all: ;& goes on from the one before
		if err != nil {
			return nil, nil, err
		}
		all = union(all, after)
	}
	return all, all, nil
}

func (s *splitter) forHead(c *syntax.ForClause, at []string) error {
	if it, ok := c.Loop.(*syntax.WordIter); ok {
		for _, w := range it.Items {
			text, _ := s.word(w)
			s.sets(it.Name.Value, text, at)
		}
	}
	return s.inside(c.Loop, at)
}

// loop reads a body that may run any number of times.
func (s *splitter) loop(body []*syntax.Stmt, at []string) (ok, all []string, err error) {
	_, all, err = s.stmts(body, at)
	if all = union(at, all); len(all) > len(at) {
		s.deferred = true
	}
	return all, all, err
}

// inside finds the scripts in a node that is none: substitutions in words, in
// arithmetic and in tests.
func (s *splitter) inside(n syntax.Node, at []string) (err error) {
	if n == nil {
		return nil
	}
	syntax.Walk(n, func(n syntax.Node) bool {
		if err != nil {
			return false
		}
		switch n := n.(type) {
		case *syntax.Stmt:
			if !s.seen[n] {
				_, _, err = s.stmt(n, at)
			}
			return false
		case *syntax.CmdSubst:
			_, _, err = s.stmts(n.Stmts, at)
			return false
		case *syntax.ProcSubst:
			_, _, err = s.stmts(n.Stmts, at)
			return false
		case *syntax.ParamExp:
			err = s.param(n, at)
		}
		return err == nil
	})
	return err
}

// param refuses the expansions that run text: ${x@P} expands a value as a
// prompt, and with it the substitutions that stand in the value.
func (s *splitter) param(p *syntax.ParamExp, at []string) error {
	if p.Exp == nil {
		return nil
	}
	switch p.Exp.Op {
	case syntax.OtherParamOps:
		return errors.New("an expansion with @ may run what its value says")
	case syntax.AssignUnset, syntax.AssignUnsetOrNull:
		if p.Param != nil && p.Exp.Word != nil {
			text, _ := s.word(p.Exp.Word)
			s.sets(p.Param.Value, text, at)
		}
	}
	return nil
}

// quiet reads commands that run nothing by themselves. Bash evaluates the
// operands of arithmetic again, also where they are quoted.
func (s *splitter) quiet(c syntax.Node, at []string) error {
	evil := false
	syntax.Walk(c, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.SglQuoted:
			evil = evil || hidden(n.Value)
		case *syntax.Lit:
			evil = evil || hidden(n.Value)
		}
		return true
	})
	if evil {
		return errors.New("a quoted substitution in arithmetic or a test may be run")
	}
	return s.inside(c, at)
}

// hidden tells whether quoted text holds a substitution.
func hidden(text string) bool { return strings.Contains(text, "$(") || strings.Contains(text, "`") }

// union joins two sets of directories, sorted.
func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}
