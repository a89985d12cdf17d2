package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// cidrType is the CEL type of cidr("10.0.0.0/8").
var cidrType = cel.ObjectType("outcall.Cidr")

// functionOptions declares what conditions have beyond standard CEL.
func functionOptions() []cel.EnvOption {
	return []cel.EnvOption{
		cel.Function("domain", cel.Overload("domain_string_string",
			[]*cel.Type{cel.StringType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(func(name, apex ref.Val) ref.Val {
				n, ok1 := name.(types.String)
				a, ok2 := apex.(types.String)
				if !ok1 || !ok2 {
					return types.NoSuchOverloadErr()
				}
				return types.Bool(inDomain(string(n), string(a)))
			}))),
		cel.Function("cidr", cel.Overload("cidr_string",
			[]*cel.Type{cel.StringType}, cidrType, cel.UnaryBinding(newCidr))),
		cel.Function("contains", cel.MemberOverload("cidr_contains_string",
			[]*cel.Type{cidrType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(func(c, ip ref.Val) ref.Val {
				p, ok1 := c.(cidrVal)
				s, ok2 := ip.(types.String)
				if !ok1 || !ok2 {
					return types.NoSuchOverloadErr()
				}
				a, err := netip.ParseAddr(string(s))
				// No address is in no network; so is what is not an address.
				return types.Bool(err == nil && p.Contains(a))
			}))),
	}
}

// inDomain reports whether name is apex or below it, on label boundaries.
// Names in facts are normalised; the apex is as the rule's author wrote it.
func inDomain(name, apex string) bool {
	apex = strings.ToLower(strings.Trim(apex, "."))
	if apex == "" || !strings.HasSuffix(name, apex) {
		return false
	}
	rest := len(name) - len(apex)
	return rest == 0 || name[rest-1] == '.'
}

// parseCIDR reads a network, or an address as the network of itself. Host
// bits must be zero, so that a slip of the pen is an error, not another
// network.
func parseCIDR(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("'%s' is no network address", s)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("'%s' is no network address", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("'%s' has host bits set (did you mean %s?)", s, p.Masked())
	}
	return p, nil
}

// cidrVal is the value of cidr("…").
type cidrVal struct{ netip.Prefix }

func newCidr(v ref.Val) ref.Val {
	s, ok := v.(types.String)
	if !ok {
		return types.NoSuchOverloadErr()
	}
	p, err := parseCIDR(string(s))
	if err != nil {
		return types.WrapErr(err)
	}
	return cidrVal{p}
}

// ConvertToNative implements ref.Val.
func (c cidrVal) ConvertToNative(t reflect.Type) (any, error) {
	if reflect.TypeOf(c.Prefix).AssignableTo(t) {
		return c.Prefix, nil
	}
	return nil, fmt.Errorf("a network is no %s", t)
}

// ConvertToType implements ref.Val.
func (c cidrVal) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return cidrType
	}
	return types.NewErr("a network is no %s", t.TypeName())
}

// Equal implements ref.Val.
func (c cidrVal) Equal(o ref.Val) ref.Val {
	d, ok := o.(cidrVal)
	return types.Bool(ok && c == d)
}

// Type implements ref.Val.
func (c cidrVal) Type() ref.Type { return cidrType }

// Value implements ref.Val.
func (c cidrVal) Value() any { return c.Prefix }

// foldCIDR parses cidr("constant") once, when the condition is planned. It is
// the only folding that is done: cel-go's own OptOptimize turns
// `!(unknown in [])` into a definite true, and an allow needs a definite true
// that the facts gave.
func foldCIDR(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok || call.Function() != "cidr" || len(call.Args()) != 1 {
		return i, nil
	}
	c, ok := call.Args()[0].(interpreter.InterpretableConst)
	if !ok {
		return i, nil
	}
	v := newCidr(c.Value())
	if types.IsError(v) {
		return i, nil // the load reports it at its line
	}
	return interpreter.NewConstValue(call.ID(), v), nil
}
