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
	mu   sync.Mutex
	rule map[string]uint64 // bounded by the rules that ever were loaded
	nx   atomic.Uint64

	captures atomic.Int32 // that run now
}

func (c *counts) add(e policy.Event) {
	if e.Event != "verdict" {
		return
	}
	n := uint64(max(e.Count, 1))
	if e.Layer == "dns" && e.Verdict == "deny" {
		c.nx.Add(n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rule == nil {
		c.rule = map[string]uint64{}
	}
	c.rule[e.Rule] += n
}

func (c *counts) byRule() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.rule)
}

func (c *counts) dnsDenials() uint64 { return c.nx.Load() }
