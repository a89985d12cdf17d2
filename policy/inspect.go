package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// inspect reads from a checked condition what the kernel's share, the
// address classes and the warnings need to know. It reports constants that
// can never be meant.
func inspect(a *ast.AST, text string) (*compiled, []finding) {
	c := &compiled{}
	var bad []finding
	described := map[int64]bool{} // uses of ip and port that an atom describes
	asked := map[string]bool{}    // headers that are asked whether they are there
	visit(a.Expr(), func(e ast.Expr) {
		if k, ok := guardOf(e); ok {
			asked[k] = true
		}
		switch e.Kind() {
		case ast.SelectKind:
			if s := e.AsSelect(); !s.IsTestOnly() {
				if x, ok := fieldOf(s.Operand()); ok && x == HTTPHeaders {
					c.keys = append(c.keys, s.FieldName())
				}
			}
		case ast.LiteralKind:
			if s, ok := e.AsLiteral().(types.String); ok {
				c.strings = append(c.strings, string(s))
			}
		case ast.CallKind:
			c.doubtful(e.AsCall())
			msg := c.atom(e.AsCall(), described)
			if msg == "" {
				msg = mixed(a, e.AsCall())
			}
			if msg != "" {
				bad = append(bad, finding{exprOffset(a, e, text), msg})
			}
		}
	})
	c.unguarded(asked)
	visit(a.Expr(), func(e ast.Expr) {
		x, ok := fieldOf(e)
		if !ok {
			return
		}
		c.fields = c.fields.With(x)
		if !described[e.ID()] {
			c.ip.opaque = c.ip.opaque || x == NetworkIP
			c.port.opaque = c.port.opaque || x == NetworkPort
		}
	})
	return c, bad
}

// atom notes a comparison of network.ip or network.port with constants.
func (c *compiled) atom(call ast.CallExpr, described map[int64]bool) (bad string) {
	args := call.Args()
	switch fn := call.FunctionName(); fn {
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals,
		operators.Greater, operators.GreaterEquals:
		ordered := fn != operators.Equals && fn != operators.NotEquals
		c.compare(args[0], args[1], ordered, described)
		c.compare(args[1], args[0], ordered, described)
		if fn == operators.Equals {
			c.note(args[0], args[1], false)
			c.note(args[1], args[0], false)
		}
	case operators.In:
		if args[1].Kind() != ast.ListKind {
			return ""
		}
		c.member(args[0], args[1].AsList().Elements(), described)
		for _, e := range args[1].AsList().Elements() {
			c.note(args[0], e, false)
		}
	case "cidr":
		if s, ok := literal[types.String](args[0]); ok {
			if _, err := parseCIDR(string(s)); err != nil {
				return err.Error()
			}
		}
	case overloads.Contains:
		c.network(call, described)
	case "domain":
		c.note(args[0], args[1], true)
		return badDomain(args[0], args[1])
	case overloads.EndsWith:
		if call.IsMemberFunction() {
			c.note(call.Target(), args[0], true)
		}
	}
	return ""
}

// badDomain says what is wrong with domain(name, apex).
func badDomain(name, apex ast.Expr) string {
	if name.Kind() == ast.LiteralKind {
		return `domain() takes the field first: domain(dns.query, "example.com")`
	}
	if v, ok := literal[types.String](apex); ok && strings.Trim(string(v), ".") == "" {
		return fmt.Sprintf("domain() of '%s' matches nothing: it takes a name, such as domain(dns.query, \"example.com\")", v)
	}
	return ""
}

// mixed says which constant of a list is not of the type of what is looked up
// in it. CEL takes such a list for one of anything, and the constant equals
// nothing.
func mixed(a *ast.AST, call ast.CallExpr) string {
	if call.FunctionName() != operators.In || call.Args()[1].Kind() != ast.ListKind {
		return ""
	}
	want := a.GetType(call.Args()[0].ID())
	if want.Kind() == types.DynKind {
		return ""
	}
	for _, e := range call.Args()[1].AsList().Elements() {
		if e.Kind() != ast.LiteralKind {
			continue
		}
		if v := e.AsLiteral(); v.Type().TypeName() != want.TypeName() {
			return fmt.Sprintf("the list holds %v, of type %s, and %s is looked up in it", v.Value(), v.Type().TypeName(), want.TypeName())
		}
	}
	return ""
}

// note keeps which constants a text field is compared with.
func (c *compiled) note(field, constant ast.Expr, below bool) {
	x, ok := fieldOf(field)
	s, isText := literal[types.String](constant)
	if ok && isText {
		c.texts = append(c.texts, textUse{x, string(s), below})
	}
}

// network notes cidr("…").contains(network.ip).
func (c *compiled) network(call ast.CallExpr, described map[int64]bool) {
	s, ok := cidrText(call)
	if !ok {
		return
	}
	if p, err := parseCIDR(s); err == nil {
		c.ip.lits = append(c.ip.lits, p)
		described[call.Args()[0].ID()] = true
	}
}

// compare notes field OP constant.
func (c *compiled) compare(field, constant ast.Expr, ordered bool, described map[int64]bool) {
	x, ok := fieldOf(field)
	if !ok {
		return
	}
	switch x {
	case NetworkIP:
		if !ordered && c.address(constant) {
			described[field.ID()] = true
		}
	case NetworkPort:
		if n, ok := literal[types.Int](constant); ok {
			c.port.consts = append(c.port.consts, int64(n))
			c.port.ranged = c.port.ranged || ordered
			described[field.ID()] = true
		}
	}
}

// member notes field in [constants].
func (c *compiled) member(field ast.Expr, elems []ast.Expr, described map[int64]bool) {
	x, ok := fieldOf(field)
	if !ok || x != NetworkIP && x != NetworkPort {
		return
	}
	all := true
	for _, e := range elems {
		if x == NetworkIP {
			all = c.address(e) && all
		} else if n, ok := literal[types.Int](e); ok {
			c.port.consts = append(c.port.consts, int64(n))
		} else {
			all = false
		}
	}
	described[field.ID()] = all
}

// address notes a string constant that is compared with network.ip. One that
// is no address is never equal to one, and needs no note.
func (c *compiled) address(e ast.Expr) bool {
	s, ok := literal[types.String](e)
	if !ok {
		return false
	}
	if p, err := parseCIDR(string(s)); err == nil && p.IsSingleIP() && p.Addr().String() == string(s) {
		c.ip.lits = append(c.ip.lits, p)
	}
	return true
}

func literal[T any](e ast.Expr) (v T, ok bool) {
	if e.Kind() != ast.LiteralKind {
		return v, false
	}
	v, ok = e.AsLiteral().(T)
	return v, ok
}

// fieldOf returns the field that a node of a checked condition stands for.
// The checker has made one identifier of each dotted field name.
func fieldOf(e ast.Expr) (Field, bool) {
	if e.Kind() != ast.IdentKind {
		return 0, false
	}
	x, ok := fieldByName[e.AsIdent()]
	return x, ok
}

func visit(e ast.Expr, f func(ast.Expr)) {
	ast.PreOrderVisit(e, ast.NewExprVisitor(f))
}

func fieldsOf(e ast.Expr) FieldSet {
	var s FieldSet
	visit(e, func(e ast.Expr) {
		if x, ok := fieldOf(e); ok {
			s = s.With(x)
		}
	})
	return s
}

// needed returns fields without which an expression cannot be true: those of
// every operand of &&, and those that all operands of || share.
func needed(e ast.Expr) FieldSet {
	if e.Kind() == ast.CallKind {
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.LogicalAnd:
			var s FieldSet
			for _, a := range call.Args() {
				s |= needed(a)
			}
			return s
		case operators.LogicalOr:
			s := ^FieldSet(0)
			for _, a := range call.Args() {
				s &= needed(a)
			}
			return s
		case operators.LogicalNot, operators.Conditional:
			return 0 // an operand that decides early may hide the rest
		}
	}
	if e.Kind() == ast.ComprehensionKind {
		return needed(e.AsComprehension().IterRange())
	}
	return fieldsOf(e)
}
