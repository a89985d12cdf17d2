package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// explained writes down one verdict.
func (s *Snapshot) explained(f *Facts, fl Flow, a Action, cond string) ExplainedStep {
	g := f.Clone()
	if f.layer == LayerFlow && fl.Name != "" {
		g.SetName(fl.Name) // Flow has judged with the name of the candidate
		g.SetGrants(fl.Grants)
	}
	e := ExplainedStep{Layer: f.layer.String(), If: cond, Facts: map[string]any{}, Unknown: map[string]string{},
		Word: fl.Word.String(), Action: a.String(), Rule: fl.RuleID(), Reason: fl.Reason, Structural: fl.Structural}
	if fl.Rule != nil {
		e.File, e.Line, e.Values = fl.Rule.File, fl.Rule.Line, fl.Rule.values(g)
	}
	var used FieldSet
	for _, r := range s.rules {
		used |= r.c.fields
	}
	for x := Field(0); x < NumFields; x++ {
		switch {
		case g.state[x] == Known && (used.Has(x) || x == DNSQuery || x >= NetworkHostname && x <= NetworkProtocol):
			e.Facts[x.String()] = g.Value(x)
		case used.Has(x) && (g.state[x] == Later || g.state[x] == Hidden):
			e.Unknown[x.String()] = g.state[x].String()
		}
	}
	if a == Refuse && (fl.Rule == nil || !fl.Rule.Block) && !fl.Structural {
		e.Near = s.near(g)
	}
	return e
}

// maxNear bounds the near misses of one step.
const maxNear = 5

// near finds the allow rules that fail on a single known field, the likeliest
// first.
func (s *Snapshot) near(f *Facts) []NearMiss {
	type miss struct {
		NearMiss
		rank int
	}
	var all []miss
	for _, r := range s.rules {
		if r.Block {
			continue
		}
		why, rank := r.failsOn(f)
		if why != "" {
			all = append(all, miss{NearMiss{r.ID, r.File, r.Line, why}, rank})
		}
	}
	slices.SortStableFunc(all, func(a, b miss) int { return cmp.Compare(a.rank, b.rank) })
	var out []NearMiss
	for _, m := range all[:min(len(all), maxNear)] {
		out = append(out, m.NearMiss)
	}
	return out
}

// failsOn says on which single field a rule fails. Lower ranks are likelier
// to be meant: the same name on another port before another name.
func (r *Rule) failsOn(f *Facts) (why string, rank int) {
	if !r.bindsType(f) {
		if v, _ := r.c.parts[0].eval(f, false); v == yes {
			return fmt.Sprintf("its condition does not mention dns.record_type, so type %s is not allowed by it", f.text(DNSRecordType)), 0
		}
		return "", 0
	}
	v, unknown := r.c.parts[0].eval(f, false)
	if v == yes || v == hidden && f.only(unknown, Later) != 0 {
		if r.onPort(f) == no {
			return fmt.Sprintf("network.port is %v, its ports are %s", f.Value(NetworkPort), portList(r.boundPorts())), 0
		}
		if v == yes {
			return "", 0
		}
		return "it waits for " + f.only(unknown, Later).String(), 1
	}
	if v == hidden {
		return cannotKnow(f, unknown), 2
	}
	for _, x := range r.c.fields.Fields() {
		if f.state[x] != Known {
			continue
		}
		g := f.Clone()
		g.Hide(x, Later)
		if v, waits, _ := r.allows(g); v == yes || v == waiting && waits.Has(x) {
			return r.mismatch(x, f)
		}
	}
	return "", 0
}

// cannotKnow says which fields of an unknown answer cannot be known here.
func cannotKnow(f *Facts, unknown FieldSet) string {
	var words []string
	for _, x := range unknown.Fields() {
		words = append(words, fmt.Sprintf("%s is %s at the %s layer", x, f.state[x], f.layer))
	}
	return strings.Join(words, ", ")
}

// mismatch says what a field is and what the rule compares it with.
func (r *Rule) mismatch(x Field, f *Facts) (string, int) {
	rank, want := 3, ""
	for _, u := range r.c.texts {
		if u.field != x {
			continue
		}
		if want == "" {
			want = u.value
		}
		if k := likeness(f.text(x), u.value); k < rank || rank == 3 && want == "" {
			rank, want = k, u.value
		}
	}
	if x == NetworkPort && len(r.c.port.consts) > 0 {
		rank, want = 0, fmt.Sprint(r.c.port.consts[0])
	}
	why := fmt.Sprintf("%s is %v", x, f.Value(x))
	if want != "" {
		why += ", it names " + want
	}
	return why, rank
}

// likeness ranks two names: 1 differ by a slip, 2 share their last two
// labels, 4 have nothing in common.
func likeness(a, b string) int {
	if editDistance(a, b, 3) < 3 {
		return 1
	}
	if lastLabels(a) == lastLabels(b) {
		return 2
	}
	return 4
}

func lastLabels(name string) string {
	labels := strings.Split(name, ".")
	return strings.Join(labels[max(0, len(labels)-2):], ".")
}

func portList(ports []uint16) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = fmt.Sprint(p)
	}
	return strings.Join(words, ", ")
}
