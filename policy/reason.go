package policy

import "strings"

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

func allowOutcome(r, barrier *Rule, waits FieldSet, granted bool) Outcome {
	o := Outcome{Word: Allow, Rule: r, Granted: granted, Reason: r.allowed}
	if barrier != nil {
		o.Word, o.Waits = Provisional, waits
		o.Reason += ", if rule " + barrier.ID + " does not block it once " + waits.String() + " can be read"
	}
	return o
}

func openOutcome(r *Rule, waits FieldSet) Outcome {
	return Outcome{Word: Open, Rule: r, Waits: waits,
		Reason: "rule " + r.ID + " can allow it only once " + waits.String() + " is known"}
}

func blockOutcome(r *Rule, v truth, fields FieldSet, f *Facts) Outcome {
	o := Outcome{Word: Deny, Rule: r, Reason: r.blocked}
	switch v {
	case hidden:
		o.Reason += ", which cannot be decided: " + fields.String() + " cannot be read at the " + f.layer.String() + " layer"
	case failed:
		o.Reason += ": its condition could not be evaluated"
	}
	return o
}
