package policy

import (
	"strconv"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Many rules differ in their constants only: http.host == "…" || …. Such
// conditions are parsed and checked once, as a template, and the others are
// made of a copy with their own constants put in. Parsing and checking look at
// the kind of a constant, never at its value; what does look at values
// (inspect, and planning what CEL evaluates) is done for each. Where anything
// at all is wrong or unusual the condition is compiled in full, so that there
// is one source of errors.

// maxTemplates bounds the templates of one load. Conditions that are like none
// of them are compiled in full.
const maxTemplates = 256

// templates are those of one load, by outline.
type templates struct {
	env *cel.Env
	mu  sync.Mutex
	by  map[string]*template // nil: not a template
}

// A template is a checked condition and its constants.
type template struct {
	whole *ast.AST
	slots []int64 // ids of the literals, in the order of the text
}

func newTemplates(env *cel.Env) *templates {
	return &templates{env: env, by: map[string]*template{}}
}

// compile compiles one condition.
func (ts *templates) compile(text string, block bool) (*compiled, []finding) {
	outline, constants, ok := outlineOf(text)
	if !ok {
		return compileCondition(ts.env, text, block)
	}
	ts.mu.Lock()
	t, seen := ts.by[outline]
	full := len(ts.by) >= maxTemplates
	ts.mu.Unlock()
	if t != nil {
		if c := t.fill(ts.env, constants, text, block); c != nil {
			return c, nil
		}
	}
	if seen || full {
		return compileCondition(ts.env, text, block)
	}
	native, bad := checkCondition(ts.env, text)
	t = nil
	if bad == nil {
		t = newTemplate(native, constants, text)
	}
	ts.mu.Lock()
	ts.by[outline] = t
	ts.mu.Unlock()
	if bad != nil {
		return nil, bad
	}
	return compileChecked(ts.env, native, text, block)
}

// A constant is a literal of a condition's text.
type constant struct {
	off int
	v   ref.Val
}

// outlineOf returns the text with a mark in place of each constant, and the
// constants. It is not ok for texts with anything that it does not read
// without doubt: escapes, raw and long strings, comments, maps.
func outlineOf(text string) (outline string, constants []constant, ok bool) {
	out := make([]byte, 0, len(text))
	last := byte(0) // the last byte that is no space
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '"' || c == '\'':
			end := plainString(text, i)
			if end < 0 || i > 0 && isWordByte(text[i-1]) {
				return "", nil, false
			}
			constants = append(constants, constant{i, types.String(text[i+1 : end-1])})
			out, i = append(out, '"'), end
		case c >= '0' && c <= '9' && last != '-' && last != '.' && (i == 0 || !isWordByte(text[i-1])):
			end := i
			for end < len(text) && (isWordByte(text[end]) || text[end] == '.') {
				end++
			}
			n, err := strconv.ParseInt(text[i:end], 10, 64)
			if err != nil {
				return "", nil, false
			}
			constants = append(constants, constant{i, types.Int(n)})
			out, i = append(out, '#'), end
		case c >= 0x7f || c == '{' || c == '\\' || c == '/' || c == '#' || c == '`':
			return "", nil, false
		default:
			out, i = append(out, c), i+1
		}
		if c != ' ' && c != '\t' && c != '\n' {
			last = c
		}
	}
	return string(out), constants, len(constants) > 0 && len(text) <= maxConditionSize
}

// plainString returns where a string literal of plain characters ends, or -1.
func plainString(text string, start int) int {
	for i := start + 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == text[start]:
			if i == start+1 && i+1 < len(text) && text[i+1] == c {
				return -1 // a long string begins
			}
			return i + 1
		case c < ' ' || c >= 0x7f || c == '\\':
			return -1
		}
	}
	return -1
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// newTemplate finds the literals of a checked condition that are the constants
// of its text, or returns nil.
func newTemplate(whole *ast.AST, constants []constant, text string) *template {
	t := &template{whole: whole, slots: make([]int64, len(constants))}
	place := map[int]int{}
	for i, c := range constants {
		place[c.off] = i
	}
	ok := true
	visit(whole.Expr(), func(e ast.Expr) {
		if e.Kind() != ast.LiteralKind {
			return
		}
		i, found := place[exprOffset(whole, e, text)]
		if !found {
			return // a macro made it
		}
		ok = ok && t.slots[i] == 0 && e.AsLiteral().Equal(constants[i].v) == types.True
		t.slots[i] = e.ID()
	})
	for _, id := range t.slots {
		ok = ok && id != 0
	}
	if !ok {
		return nil
	}
	return t
}

// fill makes a condition of the template, or nil where it must be compiled in
// full.
func (t *template) fill(env *cel.Env, constants []constant, text string, block bool) *compiled {
	values := make(map[int64]ref.Val, len(t.slots))
	for i, id := range t.slots {
		values[id] = constants[i].v
	}
	factory := ast.NewExprFactory()
	e := factory.CopyExpr(t.whole.Expr())
	visit(e, func(e ast.Expr) {
		if v := values[e.ID()]; v != nil {
			e.SetKindCase(factory.NewLiteral(e.ID(), v))
		}
	})
	native := ast.NewCheckedAST(ast.NewAST(e, t.whole.SourceInfo()), t.whole.TypeMap(), t.whole.ReferenceMap())
	c, bad := compileChecked(env, native, text, block)
	if bad != nil {
		return nil
	}
	return c
}
