package policy

import (
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// A guard is a comparison without which one alternative of a condition's
// top-level || cannot be true. Where every alternative has one, most rules
// are known not to match without asking CEL. It is exact, not a heuristic:
// false && x is false also where x is unknown or an error.
type guard struct {
	field  Field
	values []string
	below  bool // by domain(), not by == or in
	alone  bool // the alternative is this comparison and nothing else
}

// guardsOf returns one guard for each alternative, or nil.
func guardsOf(e ast.Expr) []guard {
	var out []guard
	for _, alt := range splitOr(e, nil) {
		g, ok := guardOf(alt)
		if !ok {
			return nil
		}
		out = append(out, g)
	}
	return out
}

// guardOf finds a comparison of a text field among the operands of e's
// top-level &&.
func guardOf(e ast.Expr) (g guard, ok bool) {
	if e.Kind() != ast.CallKind {
		return g, false
	}
	call := e.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalAnd:
		for _, a := range args {
			if g, ok = guardOf(a); ok {
				g.alone = false
				return g, true
			}
		}
		return g, false
	case operators.Equals:
		if g, ok = textGuard(args[0], args[1:]); !ok {
			g, ok = textGuard(args[1], args[:1])
		}
	case operators.In:
		if args[1].Kind() == ast.ListKind {
			g, ok = textGuard(args[0], args[1].AsList().Elements())
		}
	case "domain":
		g, ok = textGuard(args[0], args[1:])
		g.below = true
	}
	return g, ok
}

// textGuard compares a field with constants that are not empty: so that an
// absent field, which is empty in a block, is none of them.
func textGuard(field ast.Expr, constants []ast.Expr) (g guard, ok bool) {
	x, ok := fieldOf(field)
	if !ok || fieldTypes[x].Kind() != types.StringKind || len(constants) == 0 {
		return g, false
	}
	for _, c := range constants {
		s, ok := literal[types.String](c)
		if !ok || s == "" {
			return g, false
		}
		g.values = append(g.values, string(s))
	}
	g.field, g.alone = x, true
	return g, true
}

// guarded answers a part from its guards alone, where they suffice: it is not
// true, nor can become so, or (waits) it is unknown for those later fields.
func (p *part) guarded(f *Facts, block bool) (waits FieldSet, ok bool) {
	for i := range p.guards {
		g := &p.guards[i]
		switch f.state[g.field] {
		case Known:
			if g.matches(f.text(g.field)) {
				return 0, false
			}
		case Absent:
			// In a block it is empty, which is none of the values. In an allow it
			// is unknown for good; with nothing beside it, that is all there is.
			if !block && !g.alone {
				return 0, false
			}
		case Hidden:
			if block || !g.alone {
				return 0, false
			}
		case Later:
			if !g.alone {
				return 0, false
			}
			waits = waits.With(g.field)
		}
	}
	return waits, len(p.guards) > 0
}

func (g *guard) matches(v string) bool {
	if g.below {
		return inDomain(v, g.values[0])
	}
	return slices.Contains(g.values, v)
}
