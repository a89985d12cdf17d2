package sandbox

import (
	"maps"
	"sync"
	"sync/atomic"

	"outcall/policy"
)

// counts are the verdicts of every layer by rule, for `rules counters`. They
// are taken from the audit's events, so that counters and log agree.
type counts struct {
	mu     sync.Mutex
	rule   map[string]uint64 // bounded by the rules that ever were loaded
	failed map[string]uint64 // evaluations that gave no answer, likewise
	nx     atomic.Uint64

	captures atomic.Int32 // that run now
}

func (c *counts) add(e policy.Event) {
	n := uint64(max(e.Count, 1))
	if e.Event == "policy" && e.Rule != "" { // policy.FailureEvent
		c.note(&c.failed, e.Rule, n)
	}
	if e.Event != "verdict" {
		return
	}
	if e.Layer == "dns" && e.Verdict == "deny" {
		c.nx.Add(n)
	}
	c.note(&c.rule, e.Rule, n)
}

func (c *counts) note(m *map[string]uint64, rule string, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *m == nil {
		*m = map[string]uint64{}
	}
	(*m)[rule] += n
}

func (c *counts) byRule() (verdicts, failed map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.rule), maps.Clone(c.failed)
}

func (c *counts) dnsDenials() uint64 { return c.nx.Load() }
