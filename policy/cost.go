package policy

import (
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// costLimit bounds one evaluation by CEL. A unit is about one comparison;
// beyond the limit an allow does not match and a block does. Expressions whose
// cost no estimate bounds (macros, patterns, string building) are counted
// while they run; the others are estimated once, for the largest input, and
// counted only if that may be too much.
const costLimit = 200_000

// maxInput is the largest value that a message can bring in one field: an HTTP
// header and an agent API body have 64 KiB.
const maxInput = 64 << 10

// cheap are the operations whose cost does not grow with what the agent sends
// by more than one pass over it.
var cheap = map[string]bool{
	operators.LogicalAnd: true, operators.LogicalOr: true, operators.LogicalNot: true, operators.Conditional: true,
	operators.Equals: true, operators.NotEquals: true, operators.Less: true, operators.LessEquals: true,
	operators.Greater: true, operators.GreaterEquals: true, operators.In: true, operators.Index: true,
	overloads.Size: true, overloads.Contains: true, overloads.StartsWith: true, overloads.EndsWith: true,
	"domain": true, "cidr": true,
}

// needsLimit reports whether an expression must be evaluated under the cost
// limit.
func needsLimit(e ast.Expr) bool {
	cost, bounded := estimate(e)
	return !bounded || cost > costLimit
}

// estimate returns the most that an expression can cost, if anything bounds
// it.
func estimate(e ast.Expr) (cost int, bounded bool) {
	bounded = true
	visit(e, func(e ast.Expr) {
		cost++
		switch e.Kind() {
		case ast.ComprehensionKind:
			bounded = false
		case ast.CallKind:
			bounded = bounded && cheap[e.AsCall().FunctionName()]
			cost += passes(e.AsCall())
		}
	})
	return cost, bounded
}

// passes is what one call costs for going over its operands: a text costs a
// tenth of its length, as CEL counts it, a list each of its members.
func passes(call ast.CallExpr) int {
	if call.FunctionName() == operators.In && call.Args()[1].Kind() != ast.ListKind {
		return maxInput
	}
	operands := call.Args()
	if call.IsMemberFunction() {
		operands = append([]ast.Expr{call.Target()}, operands...)
	}
	cost := 0
	for _, o := range operands {
		if x, ok := fieldOf(o); ok && fieldTypes[x].Kind() == types.IntKind || o.Kind() == ast.LiteralKind {
			continue
		}
		cost += maxInput / 10
	}
	return cost
}
