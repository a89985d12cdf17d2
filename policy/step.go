package policy

import (
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// truth is what one condition gives over the facts.
type truth uint8

const (
	no      truth = iota
	yes           // a definite true
	waiting       // unknown, and a later layer can know more
	hidden        // unknown, and nothing later can change that
	failed        // an error, the cost limit or a panic
)

// Step is the one verdict function: the walk over the rules with the facts of
// one step of a flow. It is pure: the same snapshot and facts give the same
// outcome. Without a snapshot everything is denied.
func (s *Snapshot) Step(f *Facts) Outcome {
	if s == nil {
		return Outcome{Reason: "no policy is loaded"}
	}
	return walk(s.rules, f, nil)
}

// walk asks the rules in order.
//
//	allow  true                → the end: Allow, or Provisional behind a waiting block
//	allow  waiting             → the first is remembered
//	block  true, hidden, error → the end: Deny, or Open behind a waiting allow
//	block  waiting             → remembered
//
// opens, where given, tells whether an allow rule opens the flow's address: it
// is a part of what the rule must be true of.
func walk(rules []*Rule, f *Facts, opens func(*Rule, *Facts) (truth, FieldSet)) Outcome {
	var open *Rule            // the first waiting allow
	var openWaits FieldSet    // what the waiting allows wait for
	var barrier *Rule         // the first waiting block
	var barrierWaits FieldSet // what the waiting blocks wait for
	for _, r := range rules {
		if r.Block {
			v, fields := r.blocks(f)
			if v == waiting {
				if barrier == nil {
					barrier = r
				}
				barrierWaits |= fields
			} else if v != no {
				if open != nil {
					return openOutcome(open, openWaits|barrierWaits)
				}
				return blockOutcome(r, v, fields, f)
			}
			continue
		}
		v, fields, granted := r.allows(f)
		if v == no {
			continue
		}
		if opens != nil {
			if open, more := opens(r, f); open == no {
				continue
			} else if open == waiting {
				v, fields = waiting, fields|more
			}
		}
		if v == yes {
			return allowOutcome(r, barrier, barrierWaits, granted)
		}
		if open == nil {
			open = r
		}
		openWaits |= fields
	}
	if open != nil {
		return openOutcome(open, openWaits|barrierWaits)
	}
	return Outcome{Reason: "no rule allows it"}
}

// allows evaluates an allow rule: yes, waiting (with the fields it waits
// for), or neither. granted tells that a direct_ip grant made it true.
func (r *Rule) allows(f *Facts) (v truth, waits FieldSet, granted bool) {
	port := r.onPort(f)
	if port == no || !r.bindsType(f) {
		return no, 0, false
	}
	if r.Mode == ModeDirectIP && f.granted(r.ID) {
		return yes, 0, true
	}
	v, unknown := evalAllow(&r.c.parts[0], f)
	switch {
	case v == yes && port == waiting:
		return waiting, FieldSet(0).With(NetworkPort), false
	case v == yes:
		return yes, 0, false
	case v == hidden:
		if waits = f.only(unknown, Later); waits != 0 {
			return waiting, waits, false
		}
	}
	// Through the explicit proxy a name has no address, hence no grant, before
	// it is resolved.
	if r.Mode == ModeDirectIP && f.layer >= LayerConnect && f.layer <= LayerRequest && f.state[NetworkIP] == Later {
		return waiting, FieldSet(0).With(NetworkIP), false
	}
	return no, 0, false
}

// onPort applies egress.ports: they bind wherever the layer has a port, and a
// packet without ports (ICMP) is on none of them.
func (r *Rule) onPort(f *Facts) truth {
	ports := r.boundPorts()
	if ports == nil || f.layer == LayerRun && f.state[NetworkPort] == Absent {
		return yes
	}
	switch f.state[NetworkPort] {
	case Known:
		p, _ := f.val[NetworkPort].(types.Int)
		for _, q := range ports {
			if int64(q) == int64(p) {
				return yes
			}
		}
		return no
	case Later:
		if f.layer == LayerDNS {
			return yes // a question is on no port; the flow that follows is
		}
		return waiting
	}
	return no
}

// bindsType keeps unusual DNS types to rules that speak of types: they carry
// what no later layer sees.
func (r *Rule) bindsType(f *Facts) bool {
	if f.layer != LayerDNS || r.c.fields.Has(DNSRecordType) {
		return true
	}
	return typeIsUsual(f.text(DNSRecordType))
}

func typeIsUsual(typ string) bool {
	switch typ {
	case "A", "AAAA", "CNAME", "HTTPS", "SVCB":
		return true
	}
	return false
}

// granted reports whether a direct_ip grant of the rule holds for the port
// and protocol of the facts.
func (f *Facts) granted(rule string) bool {
	if len(f.grants) == 0 || f.state[NetworkPort] != Known {
		return false
	}
	port, _ := f.val[NetworkPort].(types.Int)
	for _, g := range f.grants {
		if g.Rule == rule && int64(g.Port) == int64(port) && string(g.Proto) == f.text(NetworkProtocol) {
			return true
		}
	}
	return false
}

// blocks evaluates a block rule, each part of its top-level || on its own.
// fields are what it waits for, or what hid the answer.
func (r *Rule) blocks(f *Facts) (v truth, fields FieldSet) {
	var waits FieldSet
	for i := range r.c.parts {
		v, unknown := evalBlock(&r.c.parts[i], f)
		switch v {
		case yes, failed:
			return v, 0
		case hidden:
			later := f.only(unknown, Later)
			if later == 0 {
				return hidden, f.only(unknown, Hidden)
			}
			waits |= later
		}
	}
	if waits != 0 {
		return waiting, waits
	}
	return no, 0
}

// evalAllow evaluates a part as an allow rule sees the facts.
func evalAllow(p *part, f *Facts) (truth, FieldSet) {
	if waits, ok := p.guarded(f, false); ok {
		return orHidden(waits)
	}
	return eval(p, (*allowView)(f))
}

// evalBlock evaluates a part as a block rule sees the facts.
func evalBlock(p *part, f *Facts) (truth, FieldSet) {
	if waits, ok := p.guarded(f, true); ok {
		return orHidden(waits)
	}
	return eval(p, (*blockView)(f))
}

func orHidden(waits FieldSet) (truth, FieldSet) {
	if waits == 0 {
		return no, 0
	}
	return hidden, waits
}

// eval runs one planned expression. Its unknown results are `hidden` with the
// fields they are made of; the caller tells later from hidden.
func eval(p *part, view cel.Activation) (truth, FieldSet) {
	out, _, err := p.prg.Eval(view)
	if err != nil {
		return failed, 0
	}
	switch out := out.(type) {
	case types.Bool:
		if out {
			return yes, 0
		}
		return no, 0
	case *types.Unknown:
		set := p.unknownFields(out)
		for _, g := range p.groups {
			if g&set != 0 {
				set |= g
			}
		}
		return hidden, set
	}
	return failed, 0
}

// only returns the fields of a set that are in a state.
func (f *Facts) only(s FieldSet, st State) FieldSet {
	var out FieldSet
	for x := Field(0); x < NumFields; x++ {
		if s.Has(x) && f.state[x] == st {
			out = out.With(x)
		}
	}
	return out
}
