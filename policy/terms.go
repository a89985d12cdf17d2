package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"
	"cel.dev/cel-go/parser"
)

var errNotBool = errors.New("the condition gives no bool")

// A planner makes terms of one checked condition.
type planner struct {
	env   *cel.Env
	whole *ast.AST
}

// term turns an expression (or, if neg, its negation) into a term.
func (p *planner) term(e ast.Expr, neg bool) (*term, error) {
	if v, ok := literal[types.Bool](e); ok {
		return &term{op: opFalse, neg: bool(v) != neg}, nil
	}
	if e.Kind() == ast.CallKind {
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.LogicalNot:
			return p.term(call.Args()[0], !neg)
		case operators.LogicalAnd:
			return p.join(opAll, call.Args(), neg)
		case operators.LogicalOr:
			return p.join(opAny, call.Args(), neg)
		}
	}
	if t := comparison(e); t != nil {
		t.neg = t.neg != neg
		return t, nil
	}
	l, err := p.leaf(e)
	if err != nil {
		return nil, err
	}
	return &term{op: opCEL, neg: neg, leaf: l}, nil
}

// join makes && or ||. Those parts that need CEL stand last: most answers need
// none of them.
func (p *planner) join(op termOp, args []ast.Expr, neg bool) (*term, error) {
	if neg {
		op = opAll + opAny - op
	}
	t := &term{op: op}
	for _, a := range args {
		k, err := p.term(a, neg)
		if err != nil {
			return nil, err
		}
		if k.op == op {
			t.kids = append(t.kids, k.kids...)
		} else {
			t.kids = append(t.kids, k)
		}
	}
	slices.SortStableFunc(t.kids, func(a, b *term) int { return a.weight() - b.weight() })
	return t, nil
}

// weight orders the parts of && and ||.
func (t *term) weight() int {
	switch {
	case t.op == opCEL && t.leaf.bounds:
		return 2
	case t.op == opCEL, slices.ContainsFunc(t.kids, func(k *term) bool { return k.weight() > 0 }):
		return 1
	}
	return 0
}

// leaf plans one sub-expression. cel-go's constant folding stays off: see
// foldCIDR.
func (p *planner) leaf(e ast.Expr) (*leaf, error) {
	l := &leaf{fields: fieldsOf(e), bounds: needsLimit(e)}
	if text, err := parser.Unparse(e, p.whole.SourceInfo()); err == nil {
		l.text = text
	} else { // a macro, which the parser has expanded
		l.text = "an expression over " + l.fields.String()
	}
	opts := []cel.ProgramOption{
		cel.OptimizeRegex(interpreter.MatchesRegexOptimization),
		cel.CustomDecoratorV2(foldCIDR),
	}
	if l.bounds {
		opts = append(opts, cel.CostLimit(costLimit))
	}
	sub := ast.NewCheckedAST(ast.NewAST(e, p.whole.SourceInfo()), p.whole.TypeMap(), p.whole.ReferenceMap())
	var err error
	if l.prg, err = p.env.PlanProgram(sub, opts...); err != nil {
		return nil, fmt.Errorf("cannot plan the condition: %w", err)
	}
	return l, nil
}

// comparison returns the comparison of one field with constants that an
// expression is, or nil.
func comparison(e ast.Expr) *term {
	if x, ok := fieldOf(e); ok && fieldTypes[x].Kind() == types.BoolKind {
		return &term{op: opTrue, field: x}
	}
	if e.Kind() != ast.CallKind {
		return nil
	}
	call := e.AsCall()
	args := call.Args()
	switch fn := call.FunctionName(); fn {
	case operators.Equals, operators.NotEquals:
		t := equals(args[0], args[1:])
		if t == nil {
			t = equals(args[1], args[:1])
		}
		if t != nil {
			t.neg = fn == operators.NotEquals
		}
		return t
	case operators.In:
		if args[1].Kind() == ast.ListKind && len(args[1].AsList().OptionalIndices()) == 0 {
			return equals(args[0], args[1].AsList().Elements())
		}
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		return bound(fn, args)
	case "domain":
		return compares(opDomain, args[0], args[1])
	case overloads.EndsWith:
		return receives(opTail, call)
	case overloads.StartsWith:
		return receives(opHead, call)
	case overloads.Contains:
		if t := receives(opInfix, call); t != nil {
			return t
		}
		return network(call)
	}
	return nil
}

// equals is a field that is one of some constants of its type.
func equals(field ast.Expr, constants []ast.Expr) *term {
	x, ok := fieldOf(field)
	if !ok || len(constants) == 0 {
		return nil
	}
	t := &term{field: x}
	for _, c := range constants {
		if s, ok := literal[types.String](c); ok && fieldTypes[x].Kind() == types.StringKind {
			t.op, t.texts = opText, append(t.texts, string(s))
		} else if n, ok := literal[types.Int](c); ok && fieldTypes[x].Kind() == types.IntKind {
			t.op, t.nums = opNum, append(t.nums, int64(n))
		} else {
			return nil
		}
	}
	slices.Sort(t.texts)
	slices.Sort(t.nums)
	return t
}

// bound is a number that is at least or at most a constant.
func bound(fn string, args []ast.Expr) *term {
	x, ok := fieldOf(args[0])
	n, isNum := literal[types.Int](args[1])
	if !ok {
		x, ok = fieldOf(args[1])
		n, isNum = literal[types.Int](args[0])
		fn = map[string]string{operators.Less: operators.Greater, operators.LessEquals: operators.GreaterEquals,
			operators.Greater: operators.Less, operators.GreaterEquals: operators.LessEquals}[fn]
	}
	if !ok || !isNum || fieldTypes[x].Kind() != types.IntKind {
		return nil
	}
	t := &term{op: opMin, field: x, nums: []int64{int64(n)}}
	switch fn {
	case operators.LessEquals:
		t.op = opMax
	case operators.Less:
		if n == math.MinInt64 {
			return nil
		}
		t.op, t.nums[0] = opMax, int64(n)-1
	case operators.Greater:
		if n == math.MaxInt64 {
			return nil
		}
		t.nums[0] = int64(n) + 1
	}
	return t
}

func compares(op termOp, field, constant ast.Expr) *term {
	x, ok := fieldOf(field)
	s, isText := literal[types.String](constant)
	if !ok || !isText || fieldTypes[x].Kind() != types.StringKind {
		return nil
	}
	return &term{op: op, field: x, texts: []string{string(s)}}
}

func receives(op termOp, call ast.CallExpr) *term {
	if !call.IsMemberFunction() || len(call.Args()) != 1 {
		return nil
	}
	return compares(op, call.Target(), call.Args()[0])
}

// network is cidr("…").contains(network.ip).
func network(call ast.CallExpr) *term {
	s, ok := cidrText(call)
	if !ok {
		return nil
	}
	p, err := parseCIDR(s)
	if err != nil {
		return nil
	}
	return &term{op: opNet, field: NetworkIP, net: p}
}

// cidrText returns the constant of cidr("…").contains(network.ip).
func cidrText(call ast.CallExpr) (string, bool) {
	if !call.IsMemberFunction() || call.Target().Kind() != ast.CallKind {
		return "", false
	}
	t := call.Target().AsCall()
	if t.FunctionName() != "cidr" || len(t.Args()) != 1 {
		return "", false
	}
	s, ok := literal[types.String](t.Args()[0])
	x, isField := fieldOf(call.Args()[0])
	return string(s), ok && isField && x == NetworkIP
}
