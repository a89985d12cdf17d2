// Package rulediff tells what would be decided otherwise by another rule set:
// over the attempts of an audit log, or over events that the constants of the
// rules themselves suggest.
//
// The derived events lie at the borders of every rule: the names that it
// names, what is below and beside them, its ports and their neighbours, the
// first and last address of its networks and the one after, its methods,
// paths, programs and agents and others. They are no proof: a rule that
// compares by a pattern can differ where no event lies.
package rulediff

import (
	"fmt"
	"io"
	"strings"

	"outcall/policy"
	"outcall/policy/escape"
	"outcall/policy/probe"
	"outcall/policy/replay"
)

// A Report is what differs.
type Report struct {
	Events  int      `json:"events"`  // that were asked about, equal ones counted
	Changed int      `json:"changed"` // of them, those whose verdict changes
	Changes []Change `json:"changes"`
	ByRule  int      `json:"by_another_rule"` // keep their verdict, by another rule
	// What could not be asked: attempts that the log tells too little of or
	// only counts, and rules that have more events than are tried.
	Unjudged int `json:"unjudged,omitempty"`
	Lost     int `json:"lost,omitempty"`
	Left     int `json:"rules_left,omitempty"`
}

// A Change is one event and its two verdicts.
type Change struct {
	Event  string  `json:"event"`
	Count  int     `json:"count"`
	Before Verdict `json:"before"`
	After  Verdict `json:"after"`
}

// A Verdict is what one of the two rule sets says.
type Verdict struct {
	Verdict string `json:"verdict"`
	Rule    string `json:"rule"`
	Reason  string `json:"reason"`
}

func (r *Report) add(event string, count int, a, b Verdict) {
	r.Events += count
	switch {
	case a.Verdict != b.Verdict:
		r.Changed += count
		r.Changes = append(r.Changes, Change{event, count, a, b})
	case a.Rule != b.Rule:
		r.ByRule += count
	}
}

// Derived asks both sets about the events that their own constants suggest.
func Derived(a, b *policy.Snapshot) (*Report, error) {
	events, left := Events(a, b)
	r := &Report{Changes: []Change{}, Left: left}
	for _, e := range events {
		x, err := e.Ask(a)
		if err != nil {
			return nil, fmt.Errorf("ask about %s: %w", e, err)
		}
		y, err := e.Ask(b)
		if err != nil {
			return nil, fmt.Errorf("ask about %s: %w", e, err)
		}
		r.add(e.String(), 1, verdict(x), verdict(y))
	}
	return r, nil
}

func verdict(a probe.Answer) Verdict { return Verdict{a.Verdict, a.Rule, a.Reason} }

// Replayed asks both sets about the attempts of an audit log.
func Replayed(a, b *policy.Snapshot, log *replay.Log) *Report {
	r := &Report{Changes: []Change{}, Lost: log.Lost}
	for _, t := range log.Attempts {
		x, ok1 := t.Judge(a)
		y, ok2 := t.Judge(b)
		if !ok1 || !ok2 {
			r.Unjudged += t.Count
			continue
		}
		r.add(attempt(t), t.Count, judged(x), judged(y))
	}
	return r
}

func judged(v replay.Verdict) Verdict {
	w := policy.VerdictDeny
	if v.Allow {
		w = policy.VerdictAllow
	}
	return Verdict{w, v.Rule, v.Reason}
}

// attempt names an attempt in one line.
func attempt(t *replay.Attempt) string {
	e := t.Event
	words := []string{e.Layer}
	for _, w := range []string{e.Query, e.RecordType, e.Method, e.Host, e.IP} {
		if w != "" {
			words = append(words, w)
		}
	}
	if e.Port != 0 {
		words = append(words, fmt.Sprintf("%s/%d", e.Protocol, e.Port))
	}
	if e.Path != "" {
		words = append(words, e.Path)
	}
	return strings.Join(words, " ")
}

// WriteText writes one change a line, and the count.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, c := range r.Changes {
		times := ""
		if c.Count > 1 {
			times = fmt.Sprintf(", %d times", c.Count)
		}
		line := fmt.Sprintf("%s → %s: %s (%s → %s%s)", c.Before.Verdict, c.After.Verdict, c.Event, c.Before.Rule, c.After.Rule, times)
		b.WriteString(escape.Text(line) + "\n")
	}
	fmt.Fprintf(&b, "%d of %d events change verdict, %d keep it by another rule\n", r.Changed, r.Events, r.ByRule)
	for _, t := range []struct {
		n    int
		text string
	}{
		{r.Unjudged, "attempts cannot be judged from the log"},
		{r.Lost, "attempts are only counted in the log"},
		{r.Left, "rules have more events than are tried"},
	} {
		if t.n > 0 {
			fmt.Fprintf(&b, "%d %s\n", t.n, t.text)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
