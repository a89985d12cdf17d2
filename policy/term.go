package policy

import (
	"net/netip"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// A term is a condition, or a part of one, as verdicts evaluate it: the
// three-valued logic and the comparisons of one field with constants are ours,
// all else is a leaf that CEL evaluates. Negations stand at the leaves only:
// CEL's &&, || and ! obey De Morgan's laws also over unknowns and errors.
//
// That a term answers what CEL would is a property test, not an argument.
type term struct {
	op    termOp
	neg   bool // of an atom or leaf: the answer is turned round
	field Field
	texts []string // sorted, of == and in; one of domain, endsWith, startsWith, contains
	nums  []int64  // sorted, of == and in; one of >= and <=
	net   netip.Prefix
	kids  []*term // of all and any; those that need CEL last
	leaf  *leaf
}

type termOp uint8

const (
	opFalse  termOp = iota // no; negated: yes
	opAll                  // &&
	opAny                  // ||
	opText                 // a text field is one of texts
	opDomain               // domain(field, text)
	opTail                 // field.endsWith(text)
	opHead                 // field.startsWith(text)
	opInfix                // field.contains(text)
	opNum                  // a number is one of nums
	opMin                  // a number is at least nums[0]
	opMax                  // a number is at most nums[0]
	opNet                  // network.ip lies in net
	opTrue                 // a bool field is true
	opCEL                  // leaf
)

// A leaf is an expression that CEL evaluates.
type leaf struct {
	prg    cel.Program
	text   string // for people
	fields FieldSet
	bounds bool // evaluated under costLimit
}

// isAtom tells whether the term compares one field with constants.
func (t *term) isAtom() bool { return t.op >= opText && t.op <= opTrue }

// eval answers no, yes, hidden (unknown, with the fields it is unknown for;
// the caller tells later from hidden) or failed, as an allow or a block rule
// sees the facts.
func (t *term) eval(f *Facts, block bool) (truth, FieldSet) {
	switch t.op {
	case opFalse:
		return t.turned(false), 0
	case opAll, opAny:
		return t.join(f, block)
	case opCEL:
		v, set := t.leaf.eval(f, block)
		if t.neg && v <= yes {
			v ^= yes
		}
		return v, set
	}
	switch st := f.state[t.field]; {
	case st == Known, st == Absent && block:
		return t.turned(t.holds(f)), 0
	}
	return hidden, FieldSet(0).With(t.field)
}

func (t *term) turned(ok bool) truth {
	if ok != t.neg {
		return yes
	}
	return no
}

// join is && and ||, as CEL has them: the deciding value decides whatever the
// others are; else unknown wins over error, and is made of all unknowns.
func (t *term) join(f *Facts, block bool) (truth, FieldSet) {
	decides, out := no, yes
	if t.op == opAny {
		decides, out = yes, no
	}
	var unknown FieldSet
	for _, k := range t.kids {
		v, set := k.eval(f, block)
		switch {
		case v == decides:
			return v, 0
		case v == hidden:
			out, unknown = hidden, unknown|set
		case v == failed && out != hidden:
			out = failed
		}
	}
	return out, unknown
}

// holds compares the field's value; what is not known has the empty value,
// which is what an absent field is in a block.
func (t *term) holds(f *Facts) bool {
	switch t.op {
	case opText:
		return among(t.texts, f.text(t.field))
	case opDomain:
		return inDomain(f.text(t.field), t.texts[0])
	case opTail:
		return strings.HasSuffix(f.text(t.field), t.texts[0])
	case opHead:
		return strings.HasPrefix(f.text(t.field), t.texts[0])
	case opInfix:
		return strings.Contains(f.text(t.field), t.texts[0])
	case opNum:
		return among(t.nums, f.number(t.field))
	case opMin:
		return f.number(t.field) >= t.nums[0]
	case opMax:
		return f.number(t.field) <= t.nums[0]
	case opNet:
		return t.net.Contains(f.ip)
	}
	b, _ := f.val[t.field].(types.Bool)
	return bool(b)
}

// fewValues are compared one by one; more are searched.
const fewValues = 8

func among[T string | int64](sorted []T, v T) bool {
	if len(sorted) > fewValues {
		_, ok := slices.BinarySearch(sorted, v)
		return ok
	}
	return slices.Contains(sorted, v)
}

// eval runs a planned expression. CEL names only the first unknown operand of
// what it calls, so an unknown answer is taken to be made of all the fields.
func (l *leaf) eval(f *Facts, block bool) (truth, FieldSet) {
	v, err := l.run(f, block)
	if err != nil {
		return failed, 0
	}
	switch v := v.(type) {
	case types.Bool:
		if v {
			return yes, 0
		}
		return no, 0
	case *types.Unknown:
		return hidden, l.fields
	}
	return failed, 0
}

// run asks CEL, which turns panics and the cost limit into errors.
func (l *leaf) run(f *Facts, block bool) (any, error) {
	var view cel.Activation = (*allowView)(f)
	if block {
		view = (*blockView)(f)
	}
	v, _, err := l.prg.Eval(view)
	return v, err
}

// failure returns why a term that answered failed did.
func (t *term) failure(f *Facts, block bool) error {
	for _, k := range t.kids {
		if err := k.failure(f, block); err != nil {
			return err
		}
	}
	if t.op != opCEL {
		return nil
	}
	v, err := t.leaf.run(f, block)
	switch v.(type) {
	case types.Bool, *types.Unknown:
		return nil
	}
	if err == nil {
		err = errNotBool
	}
	return err
}
