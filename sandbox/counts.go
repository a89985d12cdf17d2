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
	steps  map[step]uint64   // bounded by the contract's words
	nx     atomic.Uint64

	captures atomic.Int32 // that run now
}

// A step is what one layer said.
type step struct{ layer, verdict string }

func (c *counts) add(e policy.Event) {
	n := uint64(max(e.Count, 1))
	if e.Event == "policy" && e.Rule != "" { // policy.FailureEvent
		note(c, &c.failed, e.Rule, n)
	}
	if e.Event != "verdict" {
		return
	}
	if e.Layer == "dns" && e.Verdict == "deny" {
		c.nx.Add(n)
	}
	note(c, &c.rule, e.Rule, n)
	note(c, &c.steps, step{e.Layer, e.Verdict}, n)
}

func note[K comparable](c *counts, m *map[K]uint64, key K, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *m == nil {
		*m = map[K]uint64{}
	}
	(*m)[key] += n
}

func (c *counts) bySteps() map[step]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.steps)
}

func (c *counts) byRule() (verdicts, failed map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.rule), maps.Clone(c.failed)
}

func (c *counts) dnsDenials() uint64 { return c.nx.Load() }
