package policy

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"
)

// Limits of what the warnings look into. They are about clarity, not safety:
// beyond maxShapes a warning says that not all was compared.
const (
	maxShapes = 1000 // conditions of one load
	maxCubes  = 64   // alternatives of one condition
)

// A shape is a condition as alternatives, for the warnings alone: verdicts
// never rest on it. Nil is a condition that is never true.
type shape []cube

// A cube is one alternative: atoms that must all hold. Without atoms it
// always holds.
type cube []atom

// An atom is one comparison. What is none of those that are understood is
// kept by its text.
type atom struct {
	field  Field
	kind   atomKind
	values []string // of isEqual: any of them; of isUnder and isEnding: one
	ports  [][2]int64
	net    netip.Prefix
	text   string // of isOther
	not    bool
}

type atomKind uint8

const (
	isOther atomKind = iota
	isEqual
	isUnder  // domain()
	isEnding // endsWith()
	isPorts  // network.port in ranges
	isWithin // network.ip in a network
)

// shape looks into a rule's condition. Not ok: it cannot be had.
func (w *warner) shape(r *Rule) (shape, bool) {
	if s, ok := w.shapes[r]; ok {
		return s, true
	}
	e, ok := w.parse(r)
	if !ok {
		return nil, false
	}
	s := shapeOf(e, false)
	w.shapes[r] = s
	return s, true
}

// parse returns the expanded condition of a rule.
func (w *warner) parse(r *Rule) (ast.Expr, bool) {
	if w.parsed++; w.parsed > maxShapes {
		w.left = true
		return nil, false
	}
	text, ok := w.text[r.ID]()
	if !ok {
		return nil, false
	}
	if w.env == nil {
		var err error
		if w.env, err = newEnv(); err != nil {
			return nil, false
		}
	}
	parsed, iss := w.env.Parse(text)
	if iss.Err() != nil {
		return nil, false
	}
	return parsed.NativeRep().Expr(), true
}

// shapeOf reads a parsed condition, or its negation.
func shapeOf(e ast.Expr, not bool) shape {
	if b, ok := literal[types.Bool](e); ok {
		if bool(b) != not {
			return shape{{}}
		}
		return nil
	}
	if e.Kind() == ast.CallKind {
		call := e.AsCall()
		fn, args := call.FunctionName(), call.Args()
		switch {
		case fn == operators.LogicalNot:
			return shapeOf(args[0], !not)
		case fn == operators.LogicalOr && !not, fn == operators.LogicalAnd && not:
			var s shape
			for _, a := range args {
				s = append(s, shapeOf(a, not)...)
			}
			if len(s) <= maxCubes {
				return s
			}
			return shape{{opaque(e, not)}}
		case fn == operators.LogicalAnd, fn == operators.LogicalOr:
			return product(e, args, not)
		}
	}
	return shape{{atomOf(e, not)}}
}

// product joins every alternative of each operand.
func product(e ast.Expr, args []ast.Expr, not bool) shape {
	s := shape{{}}
	for _, a := range args {
		var next shape
		for _, right := range shapeOf(a, not) {
			for _, left := range s {
				next = append(next, append(slices.Clone(left), right...))
			}
			if len(next) > maxCubes {
				return shape{{opaque(e, not)}}
			}
		}
		s = next
	}
	return s
}

func opaque(e ast.Expr, not bool) atom {
	text, err := parser.Unparse(e, nil)
	if err != nil {
		text = fmt.Sprint(e.ID()) // equal to no other
	}
	return atom{kind: isOther, text: text, not: not, field: NumFields}
}

// fieldNamed returns the field of a parsed (not yet checked) name.
func fieldNamed(e ast.Expr) (Field, bool) {
	x, ok := fieldByName[strings.TrimPrefix(dottedName(e), ".")]
	return x, ok
}

// atomOf reads one comparison.
func atomOf(e ast.Expr, not bool) atom {
	a := opaque(e, not)
	if e.Kind() != ast.CallKind {
		return a
	}
	call := e.AsCall()
	args := call.Args()
	if call.IsMemberFunction() {
		return member(a, call, args)
	}
	if len(args) != 2 {
		return a
	}
	x, ok := fieldNamed(args[0])
	fn, right := call.FunctionName(), args[1]
	if y, isField := fieldNamed(right); !ok && isField {
		x, ok, right, fn = y, true, args[0], mirrored(fn)
	}
	if !ok {
		return a
	}
	a.field = x
	switch {
	case fn == operators.NotEquals:
		a.not = !a.not
		return a.with(isEqual, right)
	case fn == operators.Equals:
		return a.with(isEqual, right)
	case fn == operators.In:
		return a.list(right)
	case fn == "domain":
		return a.with(isUnder, right)
	case x == NetworkPort:
		return a.order(fn, right)
	}
	return a
}

// mirrored is the operator with its sides exchanged.
func mirrored(fn string) string {
	switch fn {
	case operators.Equals, operators.NotEquals:
		return fn
	case operators.Less:
		return operators.Greater
	case operators.LessEquals:
		return operators.GreaterEquals
	case operators.Greater:
		return operators.Less
	case operators.GreaterEquals:
		return operators.LessEquals
	}
	return ""
}

func member(a atom, call ast.CallExpr, args []ast.Expr) atom {
	t := call.Target()
	if x, ok := fieldNamed(t); ok {
		a.field = x
		if call.FunctionName() == overloads.EndsWith && len(args) == 1 {
			return a.with(isEnding, args[0])
		}
		return a
	}
	if call.FunctionName() != overloads.Contains || t.Kind() != ast.CallKind || t.AsCall().FunctionName() != "cidr" || len(args) != 1 {
		return a
	}
	x, isField := fieldNamed(args[0])
	s, ok := literal[types.String](t.AsCall().Args()[0])
	if p, err := parseCIDR(string(s)); ok && isField && x == NetworkIP && err == nil {
		a.field, a.kind, a.net = x, isWithin, p
	}
	return a
}

// with reads the constant of a comparison.
func (a atom) with(kind atomKind, e ast.Expr) atom {
	if n, ok := literal[types.Int](e); ok && a.field == NetworkPort && kind == isEqual {
		a.kind, a.ports = isPorts, [][2]int64{{int64(n), int64(n)}}
	}
	if s, ok := literal[types.String](e); ok {
		v := string(s)
		if kind == isUnder {
			v = strings.ToLower(strings.Trim(v, ".")) // as domain() does
		}
		a.kind, a.values = kind, []string{v}
	}
	return a
}

// list reads the constants of `in`.
func (a atom) list(e ast.Expr) atom {
	if e.Kind() != ast.ListKind {
		return a
	}
	b := a
	for _, el := range e.AsList().Elements() {
		one := a.with(isEqual, el)
		if one.kind == isOther || b.kind != isOther && b.kind != one.kind {
			return a
		}
		b.kind, b.values, b.ports = one.kind, append(b.values, one.values...), append(b.ports, one.ports...)
	}
	return b
}

// order reads network.port < N and its like.
func (a atom) order(fn string, e ast.Expr) atom {
	n, ok := literal[types.Int](e)
	if !ok {
		return a
	}
	low, high := int64(0), int64(math.MaxUint16)
	switch fn {
	case operators.Less:
		high = int64(n) - 1
	case operators.LessEquals:
		high = int64(n)
	case operators.Greater:
		low = int64(n) + 1
	case operators.GreaterEquals:
		low = int64(n)
	default:
		return a
	}
	a.kind, a.ports = isPorts, [][2]int64{{low, high}}
	return a
}
