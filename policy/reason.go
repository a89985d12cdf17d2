package policy

import (
	"errors"
	"math/bits"
	"strings"

	"cel.dev/cel-go/interpreter"
)

// first returns the first field of a set that is not empty.
func (s FieldSet) first() Field { return Field(bits.TrailingZeros64(uint64(s))) }

// Fields returns the members of the set in the order of Field.
func (s FieldSet) Fields() []Field {
	var out []Field
	for x := Field(0); x < NumFields; x++ {
		if s.Has(x) {
			out = append(out, x)
		}
	}
	return out
}

// String returns the names of the fields, separated by commas.
func (s FieldSet) String() string {
	var names []string
	for _, x := range s.Fields() {
		names = append(names, x.String())
	}
	return strings.Join(names, ", ")
}

// allowed ends a walk with a true allow.
func (m *memory) allowed(r *Rule, granted bool) Outcome {
	o := Outcome{Word: Allow, Rule: r, Granted: granted, Reason: r.allowed, Failed: m.failed}
	if b := m.barrier; b.rule != nil {
		o.Word, o.Waits = Provisional, b.waits
		o.Reason += ", if rule " + b.rule.ID + " does not block it once " + b.waits.String() + " can be read"
	}
	return o
}

// blocked ends a walk with a block.
func (m *memory) blocked(r *Rule, v truth, fields FieldSet, f *Facts) Outcome {
	if v == failed {
		m.fail(r, f)
	}
	if m.open.rule != nil {
		return m.nothing()
	}
	o := Outcome{Word: Deny, Rule: r, Reason: r.blocked, Failed: m.failed}
	switch v {
	case hidden:
		o.Reason += ", which cannot be decided: " + fields.String() + " cannot be read at the " + f.layer.String() + " layer"
	case failed:
		o.Reason += ": its condition could not be evaluated"
	}
	return o
}

// nothing ends a walk in which nothing decided.
func (m *memory) nothing() Outcome {
	if m.open.rule == nil {
		return Outcome{Reason: "no rule allows it", Failed: m.failed}
	}
	waits := m.open.waits | m.barrier.waits
	return Outcome{Word: Open, Rule: m.open.rule, Waits: waits, Failed: m.failed,
		Reason: "rule " + m.open.rule.ID + " can allow it only once " + waits.String() + " is known"}
}

// questionReason says why a question is denied that an allow waits for. Almost
// every allow waits at DNS for the names that later layers read; most wait for
// another name than the one that is asked for, and speak of nothing here.
func (s *Snapshot) questionReason(f *Facts, o Outcome) string {
	named := f.Clone()
	for _, x := range []Field{NetworkHostname, HTTPHost, TLSSNI} {
		named.set(x, f.name)
	}
	then := s.walk(named, nil, nil)
	if then.Word == Deny {
		return then.Reason
	}
	m := memory{open: waiter{rule: o.Rule, waits: o.Waits}}
	if r := then.Rule; r != o.Rule {
		_, waits, _ := r.allows(f)
		m.open = waiter{rule: r, waits: waits}
	}
	return m.nothing().Reason
}

// failure says why a rule that answered failed did. The text may hold values
// of the facts.
func (r *Rule) failure(f *Facts) *Failure {
	for _, t := range r.c.parts {
		err := t.failure(f, r.Block)
		if err == nil {
			continue
		}
		out := &Failure{Rule: r, Why: err.Error()}
		var cancelled interpreter.EvalCancelledError
		out.Limit = errors.As(err, &cancelled)
		return out
	}
	return &Failure{Rule: r, Why: "the condition gives neither true nor false"}
}
