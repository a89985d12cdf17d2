package policy

import "net/netip"

// Uses are the constants that a condition compares fields with, for what
// tries a rule set at the borders of its rules.
type Uses struct {
	Texts   []TextUse
	Ports   []int64 // of network.port
	Nets    []netip.Prefix
	Strings []string // all string constants, whatever they are for
}

// A TextUse is one text and the field that it is compared with.
type TextUse struct {
	Field Field
	Value string
	Below bool // by domain() or endsWith(): what is below it, too
}

// Uses returns the constants of the rule's condition.
func (r *Rule) Uses() Uses {
	u := Uses{Ports: r.c.port.consts, Nets: r.c.ip.lits, Strings: r.c.strings}
	for _, t := range r.c.texts {
		u.Texts = append(u.Texts, TextUse{t.field, t.value, t.below})
	}
	return u
}
