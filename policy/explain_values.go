package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// A Value is one comparison of the rule that decided a step, and what it gave.
type Value struct {
	Text  string `json:"text"`
	Value string `json:"value"` // true | false | later | hidden | absent | error
}

// maxValues bounds the comparisons that a step shows.
const maxValues = 24

// values evaluates each comparison of a rule's condition by itself, as the
// rule sees the facts.
func (r *Rule) values(f *Facts) []Value {
	var out []Value
	var walk func(t *term)
	walk = func(t *term) {
		for _, k := range t.kids {
			walk(k)
		}
		if len(t.kids) == 0 && t.op != opFalse && len(out) < maxValues {
			out = append(out, Value{t.String(), t.told(f, r.Block)})
		}
	}
	for _, t := range r.c.parts {
		walk(t)
	}
	return out
}

// told is what a comparison gives, in a word.
func (t *term) told(f *Facts, block bool) string {
	v, unknown := t.eval(f, block)
	switch v {
	case no:
		return "false"
	case yes:
		return "true"
	case hidden:
		for _, st := range []State{Later, Hidden, Absent} {
			for _, x := range unknown.Fields() {
				if f.state[x] == st {
					return st.String()
				}
			}
		}
	}
	return "error"
}

// String writes a comparison as a condition has it.
func (t *term) String() string {
	text := ""
	switch t.op {
	case opText, opNum:
		return t.equality()
	case opDomain:
		text = fmt.Sprintf("domain(%s, %q)", t.field, t.texts[0])
	case opTail:
		text = fmt.Sprintf("%s.endsWith(%q)", t.field, t.texts[0])
	case opHead:
		text = fmt.Sprintf("%s.startsWith(%q)", t.field, t.texts[0])
	case opInfix:
		text = fmt.Sprintf("%s.contains(%q)", t.field, t.texts[0])
	case opMin:
		return fmt.Sprintf("%s %s %d", t.field, map[bool]string{false: ">=", true: "<"}[t.neg], t.nums[0])
	case opMax:
		return fmt.Sprintf("%s %s %d", t.field, map[bool]string{false: "<=", true: ">"}[t.neg], t.nums[0])
	case opNet:
		text = fmt.Sprintf("cidr(%q).contains(%s)", t.net, t.field)
	case opTrue:
		text = t.field.String()
	case opCEL:
		if text = t.leaf.text; t.neg {
			text = "(" + text + ")"
		}
	}
	if t.neg {
		return "!" + text
	}
	return text
}

func (t *term) equality() string {
	var list []string
	for _, s := range t.texts {
		list = append(list, strconv.Quote(s))
	}
	for _, n := range t.nums {
		list = append(list, strconv.FormatInt(n, 10))
	}
	switch {
	case len(list) == 1 && t.neg:
		return fmt.Sprintf("%s != %s", t.field, list[0])
	case len(list) == 1:
		return fmt.Sprintf("%s == %s", t.field, list[0])
	case t.neg:
		return fmt.Sprintf("!(%s in [%s])", t.field, strings.Join(list, ", "))
	}
	return fmt.Sprintf("%s in [%s]", t.field, strings.Join(list, ", "))
}
