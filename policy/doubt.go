package policy

import (
	"fmt"
	"regexp/syntax"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"outcall/policy/urlpath"
)

// A doubt is a comparison that does other than it says at first sight. It is
// noted while a condition is inspected, and becomes a warning where the rule's
// action makes it one.
type doubt struct {
	code, msg string
	in        doubtIn
}

// doubtIn says in which rules a doubt is one: a wide block blocks too much,
// which shows; a wide allow does not show.
type doubtIn uint8

const (
	inAny doubtIn = iota
	inAllow
	inBlock
)

func (d doubt) of(r *Rule) bool { return d.in == inAny || (d.in == inBlock) == r.Block }

func (c *compiled) doubt(in doubtIn, code, format string, args ...any) {
	c.doubts = append(c.doubts, doubt{code, fmt.Sprintf(format, args...), in})
}

// doubtful notes what is doubtful in one call.
func (c *compiled) doubtful(call ast.CallExpr) {
	fn, operands := call.FunctionName(), operandsOf(call)
	switch fn {
	case operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional:
		for _, o := range operands {
			if b, ok := literal[types.Bool](o); ok {
				c.doubt(inAny, WarnConstant, "has the constant %v as a part of its condition", b)
			}
		}
		return
	case operators.Index:
		if x, ok := fieldOf(operands[0]); ok && x == HTTPHeaders {
			c.doubtfulKey(operands[1])
		}
		return
	}
	if !tellsOf[fn] {
		return
	}
	if isConstant(operands...) {
		c.doubt(inAny, WarnConstant, "compares constants: %s depends on no field", spelt[fn])
		return
	}
	switch fn {
	case operators.Equals, operators.In:
		c.doubtfulEqual(operands[0], operands[1])
	case overloads.StartsWith, overloads.EndsWith, overloads.Contains, overloads.Matches:
		if x, ok := fieldOf(operands[0]); ok {
			if v, ok := literal[types.String](operands[1]); ok {
				c.doubtfulPart(x, fn, string(v))
			}
		}
	}
}

// tellsOf are the calls that tell something of their operands.
var tellsOf = map[string]bool{
	operators.Equals: true, operators.NotEquals: true, operators.Less: true, operators.LessEquals: true, operators.Greater: true,
	operators.GreaterEquals: true, operators.In: true, overloads.StartsWith: true, overloads.EndsWith: true,
	overloads.Contains: true, overloads.Matches: true, "domain": true,
}

var spelt = func() map[string]string {
	m := map[string]string{}
	for fn := range tellsOf {
		m[fn] = fn + "()"
		if s, ok := operators.FindReverse(fn); ok && s != "" {
			m[fn] = s
		}
	}
	return m
}()

func operandsOf(call ast.CallExpr) []ast.Expr {
	if !call.IsMemberFunction() {
		return call.Args()
	}
	return append([]ast.Expr{call.Target()}, call.Args()...)
}

// isConstant reports whether no field and no variable is in the expressions.
func isConstant(list ...ast.Expr) bool {
	for _, e := range list {
		switch e.Kind() {
		case ast.LiteralKind:
		case ast.ListKind:
			if !isConstant(e.AsList().Elements()...) {
				return false
			}
		case ast.CallKind:
			if !isConstant(operandsOf(e.AsCall())...) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// emptyIsAbsent are the fields that are absent, and not empty, where a message
// lacks them: in an allow rule they never are "".
const emptyIsAbsent = nameFields | 1<<NetworkIP | 1<<NetworkProtocol | 1<<HTTPMethod | 1<<HTTPPath | 1<<HTTPScheme | 1<<TLSVersion

func (c *compiled) doubtfulEqual(a, b ast.Expr) {
	x, isField := fieldOf(a)
	if y, ok := fieldOf(b); ok {
		if isField && 1<<x&whereFields != 0 && 1<<y&whereFields != 0 {
			c.doubt(inAllow, WarnAllBut, "compares %s with %s, and neither with a name: it allows every one for which they are the same", x, y)
			return
		}
		x, isField, b = y, true, a
	}
	if !isField {
		return
	}
	values := []ast.Expr{b}
	if b.Kind() == ast.ListKind {
		if values = b.AsList().Elements(); len(values) == 0 {
			c.doubt(inAny, WarnNever, "compares %s with the members of an empty list", x)
		}
	}
	for _, v := range values {
		if s, ok := literal[types.String](v); ok && s == "" && 1<<x&emptyIsAbsent != 0 {
			c.doubt(inAllow, WarnNever, "compares %s with '', which it never is: where there is none it is not empty but unknown, and an allow does not match by that", x)
		}
		if n, ok := literal[types.Int](v); ok && x == NetworkPort {
			switch n {
			case 0:
				c.doubt(inAllow, WarnNever, "compares network.port with 0, which it never is: ports are 1 to 65535")
			case 65536:
				c.doubt(inAny, WarnNever, "compares network.port with 65536, which it never is: ports are 1 to 65535")
			}
		}
	}
}

// doubtfulPart looks at a field and a part of it.
func (c *compiled) doubtfulPart(x Field, fn, v string) {
	isName := 1<<x&nameFields != 0
	switch {
	case fn == overloads.Matches:
		if isName {
			c.doubtfulPattern(x, v)
		}
	case v == "":
		c.doubt(inAny, WarnConstant, "asks whether %s.%s(''), which is true of every text", x, fn)
	case isName && fn == overloads.StartsWith:
		c.doubt(inAllow, WarnPart, "%s.startsWith('%s') also matches %s.example, which anyone may own", x, v, strings.TrimSuffix(v, "."))
	case isName && fn == overloads.Contains:
		c.doubt(inAllow, WarnPart, "%s.contains('%s') also matches %s.example, which anyone may own", x, v, strings.Trim(v, "."))
	case x == HTTPPath && fn == overloads.StartsWith:
		if why := neverPath(v, true); why != "" {
			c.doubt(inAny, WarnNever, "asks whether http.path begins with '%s', which it never does: %s", v, why)
		} else if !strings.HasSuffix(v, "/") {
			c.doubt(inAllow, WarnPart, "http.path.startsWith('%s') also matches %s-other: end it with a /, and allow the path itself by ==", v, v)
		}
	}
}

// doubtfulPattern looks at a pattern for names. One that cannot be read is
// the load's to report.
func (c *compiled) doubtfulPattern(x Field, pattern string) {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return
	}
	if !begins(re, syntax.OpBeginText) || !begins(re, syntax.OpEndText) {
		c.doubt(inAllow, WarnPart, "%s.matches('%s') matches a part of a name: begin it with ^ and end it with $, around all alternatives", x, pattern)
	}
	if anyOne(re) {
		c.doubt(inAllow, WarnPart, "%s.matches('%s') has a dot that stands for any character: write \\.", x, pattern)
	}
}

// begins reports whether all that a pattern matches begins (OpBeginText) or
// ends (OpEndText) with the text itself.
func begins(re *syntax.Regexp, anchor syntax.Op) bool {
	switch re.Op {
	case anchor:
		return true
	case syntax.OpCapture:
		return begins(re.Sub[0], anchor)
	case syntax.OpConcat:
		if anchor == syntax.OpEndText {
			return begins(re.Sub[len(re.Sub)-1], anchor)
		}
		return begins(re.Sub[0], anchor)
	case syntax.OpAlternate:
		for _, s := range re.Sub {
			if !begins(s, anchor) {
				return false
			}
		}
		return true
	}
	return false
}

// anyOne reports whether a pattern has a dot that is not repeated.
func anyOne(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return true
	case syntax.OpCapture, syntax.OpConcat, syntax.OpAlternate:
		for _, s := range re.Sub {
			if anyOne(s) {
				return true
			}
		}
	}
	return false
}

// doubtfulKey looks at http.headers["key"]: a request without the header is
// an error, which is a match for a block.
func (c *compiled) doubtfulKey(key ast.Expr) {
	if k, ok := literal[types.String](key); ok {
		c.keys = append(c.keys, string(k))
	}
}

// unguarded notes the headers that are asked for and not first asked whether
// they are there.
func (c *compiled) unguarded(asked map[string]bool) {
	told := map[string]bool{}
	for _, k := range c.keys {
		if !asked[k] && !told[k] && strings.ToLower(k) == k { // else it is told that no header is called so
			told[k] = true
			c.doubt(inBlock, WarnMissing, "asks for the header '%s': a request without it is an error, and so blocked; begin with \"%s\" in http.headers &&", k, k)
		}
	}
}

// guardOf returns the header that a node asks whether it is there.
func guardOf(e ast.Expr) (string, bool) {
	switch e.Kind() {
	case ast.SelectKind:
		if s := e.AsSelect(); s.IsTestOnly() {
			if x, ok := fieldOf(s.Operand()); ok && x == HTTPHeaders {
				return s.FieldName(), true
			}
		}
	case ast.CallKind:
		if call := e.AsCall(); call.FunctionName() == operators.In {
			if x, ok := fieldOf(call.Args()[1]); ok && x == HTTPHeaders {
				k, ok := literal[types.String](call.Args()[0])
				return string(k), ok
			}
		}
	}
	return "", false
}

// neverPath says why a path, or one that begins so, is not in its normal form,
// which is the one that rules see.
func neverPath(v string, begin bool) string {
	if !strings.HasPrefix(v, "/") {
		if v == "*" && !begin {
			return ""
		}
		return "a path begins with /"
	}
	if path, _, ok := strings.Cut(v, "?"); ok {
		return "what follows ? is http.query" + meant(path)
	}
	whole, tail := v, ""
	if begin { // the last segment may go on
		at := strings.LastIndexByte(v, '/') + 1
		whole, tail = v[:at], v[at:]
	}
	n, err := urlpath.Normal(whole)
	if err != nil {
		return "no request with such a path is let through: " + err.Error()
	}
	if strings.Trim(tail, ".") != "" {
		if t, err := urlpath.Normal("/" + tail); err == nil {
			tail = t[1:]
		}
	}
	if n+tail != v {
		return "paths are judged in their normal form" + meant(n+tail)
	}
	return ""
}
