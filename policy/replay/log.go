// Package replay asks a rule set about the attempts that an audit log tells:
// what would these rules have decided. It composes the verdict functions of
// package policy in the order of the data path, as explain does, so that its
// answer is what the wire would do.
//
// A log tells less than the wire saw. Where it is silent the answer rests on
// what is usual: TLS 1.3 without ALPN, a request without query, headers and
// body, and a public address where a name was denied before it was resolved.
// What was refused because it could not be read stays refused.
package replay

import (
	"outcall/policy"
)

// The verdicts of an attempt (contract 7).
const (
	Allow     = "allow"
	Deny      = "deny"
	WouldDeny = "would_deny" // observe let pass what enforce denies
)

// An Attempt is one thing that the command tried to reach.
type Attempt struct {
	// Event is the attempt's first line: what was asked for, and by whom.
	Event policy.Event
	Layer policy.Layer // of that line
	// The verdict is that of the last line, with its rule and reason.
	Verdict, Rule, Reason string
	Structural            bool
	Decided               policy.Layer
	// Content is what the bytes turned out to be: hello, request or raw. It is
	// flow or connect where they were not looked at, and 0 where the log does
	// not tell.
	Content policy.Layer
	SNI     string // of a ClientHello
	Count   int    // equal attempts in one line
}

// A Log gathers the attempts of an audit log, line by line.
type Log struct {
	Attempts []*Attempt
	Lost     int // attempts that the log only counts, for they were too many

	open map[string]*Attempt // by id, so that later lines find them
}

// Total returns how many attempts there were, equal ones counted, without the
// lost ones.
func (l *Log) Total() int {
	n := 0
	for _, a := range l.Attempts {
		n += a.Count
	}
	return n
}

// Add takes the next line.
func (l *Log) Add(e policy.Event) {
	if e.Via == policy.ViaPublish {
		return // no attempt of the agent's
	}
	layer := layerOf(e.Layer)
	switch e.Event {
	case "overflow":
		l.Lost += e.Count
	case "end":
		if a := l.open[e.ID]; a != nil {
			if e.BytesIn != 0 || e.BytesOut != 0 || layer == policy.LayerHello {
				a.content(layer, e.SNI) // a flow without a byte tells nothing of its use
			}
			delete(l.open, e.ID)
		}
	case "verdict":
		a := l.open[e.ID]
		// An id is short: one that begins an attempt again is another's.
		if a == nil || layer != policy.LayerHello && layer != policy.LayerRaw {
			a = l.begin(e, layer)
		}
		a.decide(e, layer)
	}
}

func (l *Log) begin(e policy.Event, layer policy.Layer) *Attempt {
	a := &Attempt{Event: e, Layer: layer, Count: max(1, e.Count)}
	l.Attempts = append(l.Attempts, a)
	if l.open == nil {
		l.open = map[string]*Attempt{}
	}
	if e.ID != "" {
		l.open[e.ID] = a
	}
	return a
}

// decide takes a verdict line: a later layer's denial is the attempt's.
func (a *Attempt) decide(e policy.Event, layer policy.Layer) {
	a.content(layer, e.SNI)
	if a.Verdict != "" && rank(e.Verdict) < rank(a.Verdict) {
		return
	}
	a.Verdict, a.Rule, a.Reason, a.Structural, a.Decided = e.Verdict, e.Rule, e.Reason, e.Structural, layer
}

func rank(verdict string) int {
	switch verdict {
	case Allow:
		return 0
	case WouldDeny:
		return 1
	}
	return 2 // what is no known word is no allow
}

func (a *Attempt) content(layer policy.Layer, sni string) {
	switch layer {
	case policy.LayerHello:
		a.SNI = sni
	case policy.LayerFlow, policy.LayerConnect:
		if a.Content != 0 {
			return
		}
		if a.Verdict == "" {
			return // the first line tells nothing of the bytes; an end does
		}
	case policy.LayerRequest, policy.LayerRaw:
	default:
		return
	}
	a.Content = layer
}

func layerOf(word string) policy.Layer {
	for l := policy.LayerDNS; l <= policy.LayerRun; l++ {
		if l.String() == word {
			return l
		}
	}
	return 0
}
