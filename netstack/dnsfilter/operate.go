package dnsfilter

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"outcall/policy"
)

// Stats is what `dns status` shows. Durations are in milliseconds.
type Stats struct {
	Running   bool       `json:"running"`
	Observe   bool       `json:"observe,omitempty"`
	IPv6      bool       `json:"ipv6"`
	Upstreams []Upstream `json:"upstreams"`
	Queries   int64      `json:"queries_total"`
	Allowed   int64      `json:"queries_allowed"` // would_deny included
	Blocked   int64      `json:"queries_blocked"`
	Malformed int64      `json:"queries_malformed"` // among the blocked, or not answered
	Failed    int64      `json:"queries_failed"`
	Dropped   int64      `json:"queries_dropped"` // beyond a limit
	InFlight  int64      `json:"in_flight"`
	Cache     CacheStats `json:"cache"`
	Pins      int        `json:"pins"`
}

// Upstream is one resolver of the host.
type Upstream struct {
	Address string `json:"address"`
	Sent    int64  `json:"sent"`
	Failed  int64  `json:"failed"`
	RTT     int64  `json:"rtt_ms"`
}

// CacheStats is the state of the answer cache.
type CacheStats struct {
	Entries   int   `json:"entries"`
	Max       int   `json:"max_entries"`
	Bytes     int   `json:"bytes"`
	Hits      int64 `json:"hits"`
	Misses    int64 `json:"misses"`
	Evictions int64 `json:"evictions"`
}

// A CacheEntry is one cached answer.
type CacheEntry struct {
	Hostname string `json:"hostname"`
	Type     string `json:"record_type"`
	Rcode    string `json:"rcode"`
	Answers  int    `json:"answers"`
	TTLLeft  int64  `json:"ttl_remaining_secs"`
}

// Stats returns the filter's counters.
func (f *Filter) Stats() Stats {
	s := Stats{
		Running: f.stopped.Err() == nil, Observe: f.cfg.Observe, IPv6: f.cfg.IPv6, Upstreams: []Upstream{},
		Queries: f.stats.queries.Load(), Allowed: f.stats.allowed.Load(), Blocked: f.stats.blocked.Load(),
		Malformed: f.stats.malformed.Load(), Failed: f.stats.failed.Load(), Dropped: f.stats.dropped.Load(),
		InFlight: f.stats.inFlight.Load(), Cache: f.cache.stats(), Pins: f.cfg.Pins.Len(),
	}
	for _, u := range f.up.servers {
		s.Upstreams = append(s.Upstreams, Upstream{
			Address: u.addr.String(), Sent: u.sent.Load(), Failed: u.failed.Load(), RTT: u.rtt.Load() / int64(time.Millisecond),
		})
	}
	return s
}

// Cache returns the cached answers, sorted by name and type.
func (f *Filter) Cache() []CacheEntry { return f.cache.list() }

// Flush empties the cache and returns how many entries it had. Pins stay:
// they are what flows are judged by.
func (f *Filter) Flush() int { return f.cache.flush() }

func (c *cache) stats() CacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheStats{
		Entries: c.order.Len(), Max: CacheEntries, Bytes: c.bytes, Hits: c.hits, Misses: c.misses, Evictions: c.evictions,
	}
}

func (c *cache) list() []CacheEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	out := make([]CacheEntry, 0, c.order.Len())
	for el := c.order.Front(); el != nil; el = el.Next() {
		e := el.Value.(*cacheEntry)
		left := e.data.left(now)
		if left <= 0 {
			continue
		}
		out = append(out, CacheEntry{
			Hostname: e.name, Type: typeName(e.qtype), Rcode: rcodeName(e.data.rcode),
			Answers: len(e.data.rrs), TTLLeft: int64(left / time.Second),
		})
	}
	slices.SortFunc(out, func(a, b CacheEntry) int {
		if a.Hostname != b.Hostname {
			if a.Hostname < b.Hostname {
				return -1
			}
			return 1
		}
		if a.Type < b.Type {
			return -1
		}
		return 1
	})
	return out
}

// A TestResult is what `dns test` shows of one question.
type TestResult struct {
	Name       string   `json:"name"`
	Type       string   `json:"record_type"`
	Verdict    string   `json:"verdict"` // allow, deny, would_deny
	Rule       string   `json:"rule,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Structural bool     `json:"structural,omitempty"`
	Rcode      string   `json:"rcode"`
	Answers    []string `json:"answers"` // in zone file form
	Chain      []string `json:"cname_chain,omitempty"`
	Stripped   []string `json:"stripped,omitempty"` // addresses taken out, and why
	Extended   string   `json:"extended_error,omitempty"`
	Cached     bool     `json:"cached"`
	Upstream   string   `json:"upstream,omitempty"`
	TTL        int64    `json:"ttl_secs"`
	Error      string   `json:"error,omitempty"`
}

// Test asks for a name as the agent would, with an unknown process, and says
// what the answer would be. It drives the same code; nothing is pinned, and
// no audit line is written. typ is a mnemonic such as "AAAA", or TYPE123; ""
// is A. The error is for a name or type that cannot be asked.
func (f *Filter) Test(ctx context.Context, host, typ string) (TestResult, error) {
	return f.try(ctx, host, typ, false)
}

// Ask is Test for a question that the agent has brought about, by asking for a
// verdict: it leaves for the agent, and so counts in its budgets.
func (f *Filter) Ask(ctx context.Context, host, typ string) (TestResult, error) {
	return f.try(ctx, host, typ, true)
}

func (f *Filter) try(ctx context.Context, host, typ string, counts bool) (TestResult, error) {
	name, ok := Normalize(host)
	if !ok {
		return TestResult{}, fmt.Errorf("dns test %q: %w", host, ErrName)
	}
	qtype, ok := parseType(typ)
	if !ok {
		return TestResult{}, fmt.Errorf("dns test: unknown record type %q", typ)
	}
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	a := &ask{name: name, qtype: qtype, shown: dns.Fqdn(name), dry: true, counts: counts, id: newID(), proto: policy.UDP}
	r := f.answer(ctx, a)
	t := TestResult{
		Name: name, Type: typeName(qtype), Verdict: r.word(), Rule: r.rule, Reason: r.reason, Structural: r.structural,
		Rcode: rcodeName(r.rcode), Answers: []string{}, Chain: r.chain, Stripped: r.stripped, Extended: r.edeText,
		Cached: r.cached, Upstream: r.server, TTL: int64(r.ttl / time.Second),
	}
	for _, rr := range r.rrs {
		t.Answers = append(t.Answers, rr.String())
	}
	switch {
	case r.err != nil:
		t.Error = r.err.Error()
	case r.spent:
		t.Error = r.reason
	}
	return t, nil
}

// Prewarm asks for a name's addresses so that they are cached; nothing is
// pinned. Only what the rules allow is asked.
func (f *Filter) Prewarm(ctx context.Context, host string) ([]TestResult, error) {
	var out []TestResult
	for _, t := range []string{"A", "AAAA"} {
		r, err := f.Test(ctx, host, t)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Upstreams returns the configured resolvers.
func (f *Filter) Upstreams() []netip.AddrPort { return slices.Clone(f.cfg.Upstreams) }

func parseType(s string) (uint16, bool) {
	if s == "" {
		return typeA, true
	}
	for t, n := range dns.TypeToString {
		if n == s {
			return t, true
		}
	}
	var t uint16
	if n, err := fmt.Sscanf(s, "TYPE%d", &t); err != nil || n != 1 {
		return 0, false
	}
	return t, true
}
