package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
)

// compiled is the checked and planned form of a condition.
type compiled struct {
	parts  []*term  // the top-level || of a block; an allow is one part
	fields FieldSet // all fields that the condition names

	ip      ipUse
	port    portUse
	texts   []textUse
	needs   []FieldSet // of each part of the top-level ||: fields that must be known for it to be true
	strings []string   // string constants, for what a rule must name in so many words
	keys    []string   // of http.headers that are asked for
	doubts  []doubt
}

// textUse says that a text field is compared with a constant.
type textUse struct {
	field Field
	value string
	below bool // by domain() or endsWith(), not by ==
}

// ipUse says how a condition uses network.ip.
type ipUse struct {
	lits   []netip.Prefix // addresses and networks that it is compared with
	opaque bool           // also used in a way that those do not describe
}

// portUse says how a condition uses network.port.
type portUse struct {
	consts []int64 // numbers that it is compared with
	ranged bool    // compared by order, not only by ==, != and in
	opaque bool    // used in a way that the constants do not describe
}

// A finding is one thing wrong with a condition: where in its text (byte
// offset), and what.
type finding struct {
	off int
	msg string
}

// compileCondition checks and plans an expanded condition.
func compileCondition(env *cel.Env, text string, block bool) (*compiled, []finding) {
	native, bad := checkCondition(env, text)
	if bad != nil {
		return nil, bad
	}
	return compileChecked(env, native, text, block)
}

// checkCondition parses and checks a condition.
func checkCondition(env *cel.Env, text string) (*ast.AST, []finding) {
	checked, bad := check(env, text)
	if bad != nil {
		return nil, bad
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, []finding{{0, fmt.Sprintf("the condition is of type %s, not bool", cel.FormatCELType(t))}}
	}
	return checked.NativeRep(), nil
}

// compileChecked inspects and plans a checked condition. A block is split at
// its top-level ||.
func compileChecked(env *cel.Env, native *ast.AST, text string, block bool) (*compiled, []finding) {
	c, bad := inspect(native, text)
	if bad != nil {
		return nil, bad
	}
	parts := splitOr(native.Expr(), nil)
	for _, e := range parts {
		c.needs = append(c.needs, needed(e))
	}
	exprs := []ast.Expr{native.Expr()}
	if block {
		exprs = parts
	}
	for _, e := range exprs {
		t, err := (&planner{env, native}).term(e, false)
		if err != nil {
			return nil, []finding{{exprOffset(native, e, text), err.Error()}}
		}
		c.parts = append(c.parts, t)
	}
	return c, nil
}

// check parses and type-checks one expression of any type.
func check(env *cel.Env, text string) (*cel.Ast, []finding) {
	parsed, iss := env.Parse(text)
	if iss.Err() != nil {
		return nil, celFindings(iss, text)
	}
	bad := append(undefined(parsed.NativeRep(), text), hiding(parsed.NativeRep(), text)...)
	checked, iss := env.Check(parsed)
	if iss.Err() != nil {
		for _, f := range celFindings(iss, text) {
			if !reported(bad, f.msg) {
				bad = append(bad, f)
			}
		}
	}
	if bad != nil {
		return nil, bad
	}
	return checked, nil
}

// reported tells whether an unknown name was found before: cel-go names its
// first word only.
func reported(bad []finding, msg string) bool {
	name, ok := strings.CutPrefix(msg, "undefined identifier '")
	if !ok {
		return false
	}
	name, _, _ = strings.Cut(name, "'")
	return slices.ContainsFunc(bad, func(f finding) bool {
		return strings.Contains(f.msg, "'"+name+"'") || strings.Contains(f.msg, "'"+name+".")
	})
}

// splitOr appends the operands of e's top-level ||.
func splitOr(e ast.Expr, out []ast.Expr) []ast.Expr {
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalOr {
		for _, a := range e.AsCall().Args() {
			out = splitOr(a, out)
		}
		return out
	}
	return append(out, e)
}

var undeclaredRef = regexp.MustCompile(`^undeclared reference to '([^']*)'`)

// celFindings turns cel-go's issues into ours: one line each, without its
// container suffix and its own suggestions.
func celFindings(iss *cel.Issues, text string) []finding {
	var out []finding
	for _, e := range iss.Errors() {
		msg := strings.TrimSpace(strings.SplitN(e.Message, "\n", 2)[0])
		if m := undeclaredRef.FindStringSubmatch(msg); m != nil {
			msg = "undefined identifier '" + m[1] + "'" + suggest(m[1], functionNames)
		}
		msg = strings.TrimPrefix(msg, "Syntax error: ")
		out = append(out, finding{locOffset(e.Location, text), msg})
	}
	if len(out) == 0 {
		out = append(out, finding{0, strings.SplitN(iss.Err().Error(), "\n", 2)[0]})
	}
	return out
}

// locOffset turns a CEL location (line from 1, column in code points from 0)
// into a byte offset.
func locOffset(l common.Location, text string) int {
	off := 0
	for line := 1; line < l.Line(); line++ {
		i := strings.IndexByte(text[off:], '\n')
		if i < 0 {
			return max(len(text)-1, 0)
		}
		off += i + 1
	}
	col := 0
	for i := range text[off:] {
		if col == l.Column() {
			return off + i
		}
		col++
	}
	return min(off, max(len(text)-1, 0))
}

func exprOffset(a *ast.AST, e ast.Expr, text string) int {
	return locOffset(a.SourceInfo().GetStartLocation(e.ID()), text)
}
