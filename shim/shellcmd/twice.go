package shellcmd

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Bash runs some text twice: what a variable holds is an expression wherever a
// number is wanted, and an expression may hold a substitution.
//
//	x='a[$(rm y)]'; echo $((x)) ${!x} ${z:x}; [[ $x -eq 0 ]]
//
// So a number is read only from literals, and from variables that this script
// gives nothing but numbers. values is what is known of them.
type values struct {
	counted map[string]bool     // used as numbers
	numbers map[string]bool     // given a number
	texts   map[string]bool     // given something else
	copies  map[string][]string // given the value of others
	arrays  bool                // there are arrays
	made    bool                // a declaration has a value that could be one
}

func newValues() values {
	v := values{counted: map[string]bool{}, numbers: map[string]bool{}, texts: map[string]bool{}, copies: map[string][]string{}}
	for _, n := range []string{"REPLY", "MAPFILE", "OPTARG"} {
		v.texts[n] = true
	}
	for _, n := range integers {
		v.numbers[n], v.counted[n] = true, true // also where they are given a value
	}
	return v
}

// Variables whose values bash evaluates when they are set.
var integers = []string{"RANDOM", "SRANDOM", "SECONDS", "LINENO", "OPTIND", "HISTCMD", "BASHPID", "EPOCHSECONDS", "UID", "EUID", "PPID", "BASH_SUBSHELL"}

var (
	decimal  = regexp.MustCompile(`^-?[0-9]+$`)
	sequence = regexp.MustCompile(`^\{-?[0-9]+\.\.-?[0-9]+(\.\.-?[0-9]+)?\}$`)
	constant = regexp.MustCompile(`^[0-9][0-9A-Za-z@_#]*$`)
)

func noNumber(what string) error {
	return fmt.Errorf("%s stands where bash wants a number: its value is not known, and substitutions in it would be run", what)
}

// settled is asked at the end, when all assignments are known.
func (v *values) settled() error {
	if v.arrays && v.made {
		return errors.New("a declaration beside arrays may run what its value says")
	}
	var todo []string
	for n := range v.counted {
		todo = append(todo, n)
	}
	slices.Sort(todo)
	for i := 0; i < len(todo); i++ {
		n := todo[i]
		if v.texts[n] || !v.numbers[n] && len(v.copies[n]) == 0 {
			return noNumber("$" + n)
		}
		for _, from := range v.copies[n] {
			if !slices.Contains(todo, from) {
				todo = append(todo, from)
			}
		}
	}
	return nil
}

// twice looks at everything in a script that is evaluated again.
func (s *splitter) twice(f syntax.Node) (err error) {
	syntax.Walk(f, func(n syntax.Node) bool {
		if err != nil {
			return false
		}
		switch n := n.(type) {
		case *syntax.ArithmExp:
			err = s.number(n.X)
		case *syntax.ArithmCmd:
			err = s.number(n.X)
		case *syntax.LetClause:
			for _, x := range n.Exprs {
				err = errors.Join(err, s.number(x))
			}
		case *syntax.CStyleLoop:
			err = errors.Join(s.number(n.Init), s.number(n.Cond), s.number(n.Post))
		case *syntax.WordIter:
			s.items(n)
		case *syntax.ParamExp:
			err = s.expansion(n)
		case *syntax.BinaryTest:
			err = s.compare(n)
		case *syntax.UnaryTest:
			if w, ok := n.X.(*syntax.Word); ok && (n.Op == syntax.TsVarSet || n.Op == syntax.TsRefVar) && !syntax.ValidName(w.Lit()) {
				err = noNumber(s.source(w))
			}
		case *syntax.Assign:
			err = s.assigned(n)
		case *syntax.ExtGlob:
			if strings.ContainsAny(n.Pattern.Value, "$`") || strings.Contains(n.Pattern.Value, "<(") || strings.Contains(n.Pattern.Value, ">(") {
				err = errors.New("a pattern with a substitution in it may run it")
			}
		case *syntax.DblQuoted:
			err = s.quotes(n)
		case *syntax.Redirect:
			err = s.document(n)
		}
		return err == nil
	})
	return err
}

// number reads an expression.
func (s *splitter) number(x syntax.ArithmExpr) error {
	switch x := x.(type) {
	case nil:
		return nil
	case *syntax.Word:
		return s.operand(x.Parts)
	case *syntax.ParenArithm:
		return s.number(x.X)
	case *syntax.UnaryArithm:
		if x.Op == syntax.Inc || x.Op == syntax.Dec {
			return s.gets(x.X)
		}
		return s.number(x.X)
	case *syntax.BinaryArithm:
		if x.Op >= syntax.Assgn && x.Op <= syntax.PowAssgn {
			return errors.Join(s.gets(x.X), s.number(x.Y))
		}
		return errors.Join(s.number(x.X), s.number(x.Y))
	}
	return noNumber("an expression of a kind that is not known here")
}

// gets notes that an expression gives a variable a number.
func (s *splitter) gets(x syntax.ArithmExpr) error {
	w, ok := x.(*syntax.Word)
	if !ok {
		return noNumber("what is assigned to")
	}
	if name := w.Lit(); name != "" {
		if risky(name) {
			return fmt.Errorf("%s is given a number", name)
		}
		s.numbers[name] = true
	}
	return s.operand(w.Parts)
}

func (s *splitter) operand(parts []syntax.WordPart) error {
	for _, part := range parts {
		switch p := part.(type) {
		case *syntax.Lit:
			switch {
			case constant.MatchString(p.Value):
			case len(parts) == 1 && syntax.ValidName(p.Value):
				s.counted[p.Value] = true
			case len(parts) == 1 && decimal.MatchString(p.Value):
			default:
				return noNumber(p.Value)
			}
		case *syntax.SglQuoted:
			if !decimal.MatchString(p.Value) {
				return noNumber(s.source(p))
			}
		case *syntax.DblQuoted:
			if err := s.operand(p.Parts); err != nil {
				return err
			}
		case *syntax.ParamExp:
			name, ok := s.counts(p)
			if !ok {
				return noNumber(s.source(p))
			}
			if name != "" {
				s.counted[name] = true
			}
		case *syntax.ArithmExp: // looked at by itself
		default:
			return noNumber(s.source(p))
		}
	}
	return nil
}

// counts tells whether an expansion is a number if its variable is; name is ""
// where it always is one.
func (s *splitter) counts(p *syntax.ParamExp) (name string, ok bool) {
	switch {
	case p.Param == nil || p.Excl || p.Repl != nil || p.NestedParam != nil || p.Flags != nil || len(p.Modifiers) > 0:
		return "", false
	case p.Length, slices.Contains([]string{"#", "?", "$", "!"}, p.Param.Value) && p.Exp == nil:
		return "", true
	case p.Exp != nil && p.Exp.Word != nil && !decimal.MatchString(p.Exp.Word.Lit()):
		return "", false
	}
	return p.Param.Value, syntax.ValidName(p.Param.Value)
}

// expansion reads ${…}.
func (s *splitter) expansion(p *syntax.ParamExp) error {
	all := false // the whole array
	if w, ok := p.Index.(*syntax.Word); ok {
		all = w.Lit() == "@" || w.Lit() == "*"
	}
	if p.Excl && p.Names == 0 && !all {
		return fmt.Errorf("%s: what it leads to is not known, and substitutions in it would be run", s.source(p))
	}
	if p.Index != nil && !all {
		if err := s.number(p.Index); err != nil {
			return err
		}
	}
	if p.Slice != nil {
		if err := errors.Join(s.number(p.Slice.Offset), s.number(p.Slice.Length)); err != nil {
			return err
		}
	}
	if e := p.Exp; e != nil && p.Param != nil && (e.Op == syntax.AssignUnset || e.Op == syntax.AssignUnsetOrNull) {
		s.value(p.Param.Value, e.Word)
	}
	return nil
}

// compare reads the comparisons of [[ ]] that want numbers.
func (s *splitter) compare(t *syntax.BinaryTest) error {
	if !slices.Contains([]syntax.BinTestOperator{syntax.TsEql, syntax.TsNeq, syntax.TsLeq, syntax.TsGeq, syntax.TsLss, syntax.TsGtr}, t.Op) {
		return nil
	}
	for _, x := range []syntax.TestExpr{t.X, t.Y} {
		w, ok := x.(*syntax.Word)
		if !ok {
			return noNumber("an operand")
		}
		if err := s.operand(w.Parts); err != nil {
			return err
		}
	}
	return nil
}

// value notes what a variable is given.
func (s *splitter) value(name string, w *syntax.Word) {
	if w == nil { // nothing, which counts as 0
		s.numbers[name] = true
		return
	}
	if text := w.Lit(); decimal.MatchString(text) || sequence.MatchString(text) {
		s.numbers[name] = true
		return
	}
	for _, part := range w.Parts {
		if d, ok := part.(*syntax.DblQuoted); ok && len(w.Parts) == 1 && len(d.Parts) == 1 {
			part = d.Parts[0]
		}
		switch p := part.(type) {
		case *syntax.ArithmExp:
			s.numbers[name] = true
		case *syntax.ParamExp:
			from, ok := s.counts(p)
			switch {
			case !ok:
				s.texts[name] = true
			case from == "":
				s.numbers[name] = true
			default:
				s.copies[name] = append(s.copies[name], from)
			}
		default:
			s.texts[name] = true
		}
	}
}

func (s *splitter) items(it *syntax.WordIter) {
	if len(it.Items) == 0 { // the script's own arguments
		s.texts[it.Name.Value] = true
	}
	for _, w := range it.Items {
		s.value(it.Name.Value, w)
	}
}

func (s *splitter) assigned(a *syntax.Assign) error {
	if a.Name == nil || a.Naked {
		return nil
	}
	name := a.Name.Value
	s.arrays = s.arrays || a.Index != nil || a.Array != nil
	if err := s.number(a.Index); err != nil {
		return err
	}
	if a.Array == nil {
		s.value(name, a.Value)
		return nil
	}
	for _, e := range a.Array.Elems {
		if err := s.number(e.Index); err != nil {
			return err
		}
		if e.Value != nil {
			s.value(name, e.Value)
		}
	}
	return nil
}

// quotes refuses what shells read differently: a single quote inside an
// expansion that stands in double quotes is none to bash, and what is in it is
// expanded.
func (s *splitter) quotes(n syntax.Node) (err error) {
	syntax.Walk(n, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CmdSubst, *syntax.ProcSubst:
			return false // quotes begin anew
		case *syntax.SglQuoted:
			if strings.ContainsAny(n.Value, "$`\"\\}") {
				err = errors.New("single quotes in an expansion in double quotes do not quote")
			}
		}
		return err == nil
	})
	return err
}

var delimiter = regexp.MustCompile(`^(\\?[A-Za-z0-9_.:%+-]+|'[A-Za-z0-9_.:%+ -]+'|"[A-Za-z0-9_.:%+ -]+")$`)

// document reads where a here-document ends as bash does.
func (s *splitter) document(r *syntax.Redirect) error {
	if r.N != nil && strings.HasPrefix(r.N.Value, "{") {
		name := strings.Trim(r.N.Value, "{}")
		if !syntax.ValidName(name) || risky(name) {
			return fmt.Errorf("%s is given a number", r.N.Value)
		}
		s.numbers[name] = true
	}
	if r.Op != syntax.Hdoc && r.Op != syntax.DashHdoc {
		return nil
	}
	word := s.source(r.Word)
	if !delimiter.MatchString(word) {
		return fmt.Errorf("the end of a here-document, %q, is not a plain word", word)
	}
	if r.Hdoc == nil || strings.ContainsAny(word, `'"\`) {
		return nil
	}
	// A line that ends in a backslash goes on in the next one, also to be the
	// end of the document.
	text := s.source(r.Hdoc)
	for _, joined := range []string{strings.ReplaceAll(text, "\\\n", ""), continued(text)} {
		if ends(joined, word) > ends(text, word) {
			return errors.New("where a here-document ends is not clear")
		}
	}
	return s.quotes(r.Hdoc)
}

// ends counts the lines that could be the end of a here-document.
func ends(text, word string) (n int) {
	for line := range strings.Lines(text) {
		if strings.Trim(line, "\t\n") == word {
			n++
		}
	}
	return n
}

// continued joins lines where their last backslash is not itself escaped.
func continued(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			if i++; text[i] != '\n' {
				out.WriteString(text[i-1 : i+1])
			}
			continue
		}
		out.WriteByte(text[i])
	}
	return out.String()
}
