package policy

import (
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
	o := s.walk(f, nil, nil)
	if o.Word == Open && f.layer == LayerDNS {
		o.Reason = s.questionReason(f, o)
	}
	return o
}

// StepCall is what the run layer alone says of a network call: a block decides
// here only if it speaks of the question itself or of who asks. What every
// other block says the wire says, too, with all the facts, and perhaps behind
// an allow that needs more of them than a question has.
func (s *Snapshot) StepCall(f *Facts) Outcome {
	if s == nil {
		return s.Step(f)
	}
	return s.walk(f, nil, func(r *Rule) bool { return r.Block && r.c.fields&(runFields|processFields) == 0 })
}

// walk asks the rules in order.
//
//	allow  true                → the end: Allow, or Provisional behind a waiting block
//	allow  waiting             → the first is remembered
//	allow  error               → no match; the first is told
//	block  true, hidden, error → the end: Deny, or Open behind a waiting allow
//	block  waiting             → remembered
//
// d, where given, is what stands before the flow's address: that an allow rule
// opens it is a part of what the rule must be true of. Rules that skip, where
// given, is true of are passed over.
func (s *Snapshot) walk(f *Facts, d *door, skip func(*Rule) bool) Outcome {
	door := d.kind(f.name)
	q := s.ask(f, door, false)
	defer q.end()
	var m memory
	for r := q.rule(); r != nil; r = q.rule() {
		if skip != nil && skip(r) {
			continue
		}
		if r.Block {
			if v, fields := r.blocks(f); v == waiting {
				m.wait(&m.barrier, r, fields)
			} else if v != no {
				return m.blocked(r, v, fields, f)
			}
			continue
		}
		if !r.mayPass(door) {
			continue
		}
		v, fields, granted := r.allows(f)
		if d != nil && (v == yes || v == waiting) {
			if open, more := r.opens(f, d.addr, d.class, d.host); open == no {
				continue
			} else if open == waiting {
				v, fields = waiting, fields|more
			}
		}
		switch v {
		case yes:
			return m.allowed(r, granted)
		case waiting:
			m.wait(&m.open, r, fields)
		case failed:
			m.fail(r, f)
		}
	}
	return m.nothing()
}

// A memory is what a walk has met.
type memory struct {
	open    waiter   // the allows that wait
	barrier waiter   // the blocks that wait
	failed  *Failure // of the first rule that could not be evaluated
}

// A waiter is the first of several rules, and what they wait for.
type waiter struct {
	rule  *Rule
	waits FieldSet
}

func (m *memory) wait(w *waiter, r *Rule, fields FieldSet) {
	if w.rule == nil {
		w.rule = r
	}
	w.waits |= fields
}

func (m *memory) fail(r *Rule, f *Facts) {
	if m.failed == nil {
		m.failed = r.failure(f)
	}
}

// allows evaluates an allow rule: yes, waiting (with the fields it waits
// for), failed, or no. granted tells that a direct_ip grant made it true.
func (r *Rule) allows(f *Facts) (v truth, waits FieldSet, granted bool) {
	port := r.onPort(f)
	if port == no || !r.bindsType(f) {
		return no, 0, false
	}
	if r.Mode == ModeDirectIP && f.granted(r.ID) {
		return yes, 0, true
	}
	v, unknown := r.c.parts[0].eval(f, false)
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
	if v == failed {
		return failed, 0, false
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
	for _, t := range r.c.parts {
		v, unknown := t.eval(f, true)
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
