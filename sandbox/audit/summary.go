package audit

import (
	"cmp"
	"net"
	"slices"
	"strconv"

	"outcall/policy"
)

const (
	// TopDenials is how many kinds of denials a summary names.
	TopDenials = 5
	// maxKinds bounds the kinds that are told apart.
	maxKinds = 1024
)

// A Denial is one kind of what was denied, by rule and target.
type Denial struct {
	Verdict string // deny or would_deny
	Layer   string
	Target  string // the name asked for, else address and port
	Rule    string
	Reason  string
	ID      string // of the first
	Count   uint64

	Structural bool // no rule opens it
	Tool       bool // a command or file that the agent asked about, nothing on the wire
}

// A Summary says what a session denied.
type Summary struct {
	Top   []Denial // the most frequent, at most TopDenials
	Total uint64   // all denials
	Rest  uint64   // those that are not in Top
}

// Summary returns what has been denied so far.
func (w *Writer) Summary() Summary {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.top.summary()
}

type kind struct{ verdict, layer, target, rule string }

// summary counts kinds of denials, also those that never became a line.
type summary struct {
	kinds map[kind]*Denial
	total uint64
}

func (s *summary) init() { s.kinds = map[kind]*Denial{} }

func (s *summary) add(e *policy.Event) {
	if e.Event != "verdict" || e.Verdict == "allow" {
		return
	}
	n := weight(e)
	s.total += n
	k := kind{e.Verdict, e.Layer, target(e), e.Rule}
	d := s.kinds[k]
	if d == nil {
		if len(s.kinds) >= maxKinds {
			s.shrink()
		}
		d = &Denial{Verdict: k.verdict, Layer: k.layer, Target: k.target, Rule: k.rule, Reason: e.Reason, ID: e.ID, Structural: e.Structural, Tool: e.Layer == "run" && e.Host == ""}
		s.kinds[k] = d
	}
	d.Count += n
}

// shrink forgets the rarer half: a flood of ever new names does not push out
// what happens again and again.
func (s *summary) shrink() {
	all := s.sorted()
	for _, d := range all[len(all)/2:] {
		delete(s.kinds, kind{d.Verdict, d.Layer, d.Target, d.Rule})
	}
}

func (s *summary) sorted() []*Denial {
	all := make([]*Denial, 0, len(s.kinds))
	for _, d := range s.kinds {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *Denial) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Target, b.Target),
			cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Verdict, b.Verdict))
	})
	return all
}

func (s *summary) summary() Summary {
	out := Summary{Total: s.total, Rest: s.total}
	for i, d := range s.sorted() {
		if i == TopDenials {
			break
		}
		out.Top = append(out.Top, *d)
		out.Rest -= d.Count
	}
	return out
}

// target names what an event was about.
func target(e *policy.Event) string {
	name := cmp.Or(e.Query, e.Host, e.SNI, e.IP)
	if e.Layer == "run" && name == "" {
		return e.Path
	}
	if e.Layer == "dns" || e.Port == 0 {
		return name
	}
	return net.JoinHostPort(name, strconv.Itoa(int(e.Port)))
}
