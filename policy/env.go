package policy

import (
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/parser"
)

// What one expression may be. Beyond any of these the file does not load.
const (
	maxConditionSize  = 256 << 10 // code points after definitions are expanded
	maxConditionDepth = 250       // nesting that the parser follows
	maxRegexProgram   = 1 << 12   // instructions of one compiled pattern
)

// fieldTypes are the CEL types of the fields, in the order of Field.
var fieldTypes = [NumFields]*cel.Type{
	DNSQuery: cel.StringType, DNSRecordType: cel.StringType,
	NetworkHostname: cel.StringType, NetworkIP: cel.StringType, NetworkPort: cel.IntType, NetworkProtocol: cel.StringType,
	HTTPHost: cel.StringType, HTTPScheme: cel.StringType, HTTPMethod: cel.StringType, HTTPPath: cel.StringType,
	HTTPQuery: cel.StringType, HTTPHeaders: cel.MapType(cel.StringType, cel.StringType), HTTPBodySize: cel.IntType,
	TLSSNI: cel.StringType, TLSALPN: cel.ListType(cel.StringType), TLSECH: cel.BoolType, TLSVersion: cel.StringType,
	AgentName: cel.StringType, SessionName: cel.StringType,
	ProcessExe: cel.StringType, ProcessName: cel.StringType, ProcessArgs: cel.ListType(cel.StringType),
	RunTool: cel.StringType, RunArgs: cel.ListType(cel.StringType), RunFlags: cel.ListType(cel.StringType),
	RunCwd: cel.StringType, RunContext: cel.MapType(cel.StringType, cel.DynType),
	DockerImage: cel.StringType, DockerCommand: cel.ListType(cel.StringType), DockerVolumes: cel.ListType(cel.StringType),
	DockerEnvKeys: cel.ListType(cel.StringType), DockerCapabilities: cel.ListType(cel.StringType),
}

// fieldByName finds the field that a condition names.
var fieldByName = func() map[string]Field {
	m := make(map[string]Field, NumFields)
	for x := Field(0); x < NumFields; x++ {
		m[x.String()] = x
	}
	return m
}()

// emptyValues are what an absent field is in a block rule: its type's empty
// value.
var emptyValues = func() (v [NumFields]ref.Val) {
	for x, t := range fieldTypes {
		v[x] = emptyOf(t)
	}
	return v
}()

func emptyOf(t *cel.Type) ref.Val {
	switch t.Kind() {
	case types.IntKind:
		return types.Int(0)
	case types.BoolKind:
		return types.False
	case types.ListKind:
		return types.NewStringList(types.DefaultTypeAdapter, nil)
	case types.MapKind:
		return types.NewStringStringMap(types.DefaultTypeAdapter, map[string]string{})
	}
	return types.String("")
}

// unknowns holds one CEL unknown per field. Its id is the field, so that a
// merged set tells which fields a result waits for.
var unknowns = func() (u [NumFields]*types.Unknown) {
	for x := Field(0); x < NumFields; x++ {
		u[x] = types.NewUnknown(int64(x), types.NewAttributeTrail(x.String()))
	}
	return u
}()

// allowView is what an allow rule sees of facts: all that is not known is
// unknown.
type allowView Facts

// ResolveName implements the CEL activation.
func (v *allowView) ResolveName(name string) (any, bool) {
	x, ok := fieldByName[name]
	if !ok {
		return nil, false
	}
	if v.state[x] == Known {
		return v.val[x], true
	}
	return unknowns[x], true
}

// Parent implements the CEL activation.
func (v *allowView) Parent() cel.Activation { return nil }

// blockView is what a block rule sees of facts: what cannot exist is empty,
// the rest of what is not known is unknown.
type blockView Facts

// ResolveName implements the CEL activation.
func (v *blockView) ResolveName(name string) (any, bool) {
	x, ok := fieldByName[name]
	if !ok {
		return nil, false
	}
	switch v.state[x] {
	case Known:
		return v.val[x], true
	case Absent:
		return emptyValues[x], true
	}
	return unknowns[x], true
}

// Parent implements the CEL activation.
func (v *blockView) Parent() cel.Activation { return nil }

// newEnv declares the language of conditions: the fields, standard CEL, the
// strings extension, domain() and cidr().
func newEnv() (*cel.Env, error) {
	macros := []cel.Macro{parser.NewGlobalMacro(operators.Has, 1, expandHas)}
	for _, m := range cel.StandardMacros {
		if m.Function() != operators.Has {
			macros = append(macros, m)
		}
	}
	opts := []cel.EnvOption{
		cel.ClearMacros(), cel.Macros(macros...),
		cel.ParserExpressionSizeLimit(maxConditionSize),
		cel.ParserRecursionLimit(maxConditionDepth),
		cel.RegexProgramSizeLimit(maxRegexProgram),
		ext.Strings(),
	}
	for x := Field(0); x < NumFields; x++ {
		opts = append(opts, cel.Variable(x.String(), fieldTypes[x]))
	}
	return cel.NewEnv(append(opts, functionOptions()...)...)
}

// expandHas keeps has() usable on our fields. They are declared as dotted
// variables, which has a price: `has(dns.query)` would not compile. It means
// what the original's users mean by it: the field is there and not empty.
func expandHas(eh parser.ExprHelper, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
	if x, ok := fieldByName[dottedName(args[0])]; ok {
		switch fieldTypes[x].Kind() {
		case types.ListKind, types.MapKind:
			return eh.NewCall(operators.NotEquals, eh.NewMemberCall("size", args[0]), eh.NewLiteral(types.Int(0))), nil
		case types.BoolKind:
			return args[0], nil
		}
		return eh.NewCall(operators.NotEquals, args[0], eh.NewLiteral(emptyValues[x])), nil
	}
	if args[0].Kind() != ast.SelectKind {
		return nil, eh.NewError(args[0].ID(), "has() takes a field or a key of a map, such as has(http.headers.accept)")
	}
	s := args[0].AsSelect()
	return eh.NewPresenceTest(s.Operand(), s.FieldName()), nil
}

// dottedName returns a.b.c for a chain of plain selections, "" for all else.
func dottedName(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		s := e.AsSelect()
		if s.IsTestOnly() {
			return ""
		}
		if left := dottedName(s.Operand()); left != "" {
			return left + "." + s.FieldName()
		}
	}
	return ""
}
