package dnsfilter

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"outcall/netstack/pin"
	"outcall/policy"
)

// Limits; each is a bound on what an agent can make the filter hold.
const (
	// MaxTTL bounds what is cached, and what a client is told.
	MaxTTL = 300 * time.Second
	// CacheEntries is the number of cached answers; beyond it the one that was
	// used least recently goes.
	CacheEntries = 10_000
	// CacheBytes bounds all cached answers together, CacheEntryBytes one of
	// them; a larger one is answered and not cached.
	CacheBytes      = 16 << 20
	CacheEntryBytes = 8 << 10
	// maxTurns is how many questions are looked at at once. Were a flood of them
	// all ready to run, every packet of other flows would stand behind them, and
	// every flow's search for its process.
	maxTurns = 4
	// MaxQuestions is the number of UDP questions in work at once. Beyond it a
	// question is dropped, as a full socket buffer would, and counted.
	MaxQuestions = 1024
	// MaxUpstream is the number of upstream exchanges at once; others wait.
	MaxUpstream = 64
	// MaxTCP is the number of TCP connections; beyond it one is closed at once
	// and counted. MaxTCPQueries and TCPIdle bound one connection.
	MaxTCP        = 64
	MaxTCPQueries = 128
	TCPIdle       = 10 * time.Second
	// MaxAddrs is how many addresses of one answer are used, MaxRecords how
	// many records, and MaxChain how many CNAME links.
	MaxAddrs   = 64
	MaxRecords = 256
	MaxChain   = 16
	// MaxUDPReply bounds UDP replies whatever size the client offers, so that
	// they are never fragmented; a longer one is cut and asked again by TCP.
	MaxUDPReply = 1232
	// AnswerTimeout bounds the work for one question; a client's resolver has
	// asked again by then.
	AnswerTimeout = 10 * time.Second
	// JoinFor is how long a repeated question (same socket, id, name and type)
	// counts as a retransmission, and MaxJoined how many are remembered.
	JoinFor   = 30 * time.Second
	MaxJoined = 4096
	// maxRejudge is how often reloads may come between judging and pinning.
	maxRejudge = 4
)

// Names that the filter answers itself.
const (
	// HostName is the host's loopback as seen from inside, by rule only.
	HostName = "host.outcall.internal"
	// GatewayName is the session's gateway: this resolver and the proxy.
	GatewayName = "gateway.outcall.internal"
	ownZone     = "outcall.internal"
)

// An Auditor takes audit events; netstack.Auditor satisfies it.
type Auditor interface {
	Record(e policy.Event)
	Err() error
}

// Config of a Filter. Snapshot, Pins, Audit and Exchanger are required; a
// nil Snapshot, or one that returns nil, denies everything.
type Config struct {
	Who      policy.Who
	Snapshot func() *policy.Snapshot // the rules in force
	Host     func() *policy.Host     // the machine's own addresses, now; may be nil
	Pins     *pin.Table
	Audit    Auditor

	// Attribute finds the process behind a question, within its own bound; nil
	// as function or answer leaves process.* hidden.
	Attribute func(ctx context.Context, proto policy.Proto, src, dst netip.AddrPort) *policy.Process

	Exchanger Exchanger
	Upstreams []netip.AddrPort // asked in this order, the last good one first

	// Synthetic is a block (IPv4, /16 or larger) from which each name gets an
	// address where only an upstream proxy can resolve names; no question is
	// asked upstream then. The zero value is off. policy.Host.Synthetic and
	// package egress must know the same block.
	Synthetic netip.Prefix

	Observe bool // rule denials are let through and marked would_deny
	IPv6    bool // the session has IPv6; without it AAAA is NODATA

	Gateway4, Gateway6 netip.Addr // GatewayName
	Host4, Host6       netip.Addr // HostName
	// Hosts returns the addresses that the host's own hosts file has for a
	// name (lower case, no trailing dot); they are judged and pinned like any
	// answer. May be nil.
	Hosts func(name string) []netip.Addr

	Clock func() time.Time // nil: time.Now
}

// A Filter answers questions for one session. Its methods are safe for
// concurrent use.
type Filter struct {
	cfg   Config
	rules func() *ruleset // the rules in force; replaced in tests
	clock func() time.Time

	questions chan struct{} // one token a UDP question in work
	conns     chan struct{} // one a TCP connection
	turns     chan struct{} // one a question that is looked at and waits for nobody
	cache     *cache
	up        *upstream
	recent    *recent
	synth     *synthetic // nil: names are resolved upstream
	limits    *limiter
	budgets   *budgets
	nat64     nat64
	stats     counters

	stopped context.Context
	stop    context.CancelFunc
}

// counters are what Stats reports.
type counters struct {
	queries, allowed, blocked, malformed, failed, dropped, inFlight atomic.Int64
}

// New returns a filter. It starts no goroutine; Close ends exchanges that are
// under way.
func New(c Config) *Filter {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Host == nil {
		c.Host = func() *policy.Host { return nil }
	}
	if c.Hosts == nil {
		c.Hosts = func(string) []netip.Addr { return nil }
	}
	if c.Attribute == nil {
		c.Attribute = func(context.Context, policy.Proto, netip.AddrPort, netip.AddrPort) *policy.Process { return nil }
	}
	f := &Filter{
		cfg: c, clock: c.Clock,
		questions: make(chan struct{}, MaxQuestions),
		conns:     make(chan struct{}, MaxTCP),
		turns:     make(chan struct{}, maxTurns),
		cache:     newCache(c.Clock),
		recent:    newRecent(c.Clock),
		synth:     newSynthetic(c.Synthetic),
		limits:    &limiter{},
		budgets:   newBudgets(c.Clock),
	}
	f.rules = f.current
	f.limits.report = f.limitEvent
	f.stopped, f.stop = context.WithCancel(context.Background())
	f.up = newUpstream(f.stopped, c.Clock, c.Exchanger, c.Upstreams)
	return f
}

// Close ends upstream exchanges, and reports what was dropped and not yet
// reported. Questions asked afterwards fail.
func (f *Filter) Close() {
	f.stop()
	f.limits.flush()
}

// A limiter sums events of reaching one bound, so that a flood of them is one
// line a second with its count.
type limiter struct {
	mu      sync.Mutex
	pending map[string]int
	timers  map[string]*time.Timer
	report  func(reason string, count int)
}

func (l *limiter) hit(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timers[reason] != nil {
		l.pending[reason]++
		return
	}
	if l.timers == nil {
		l.timers, l.pending = map[string]*time.Timer{}, map[string]int{}
	}
	l.timers[reason] = time.AfterFunc(time.Second, func() { l.expire(reason) })
	l.report(reason, 1)
}

// expire reports what gathered within the second.
func (l *limiter) expire(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.pending[reason]
	delete(l.pending, reason)
	delete(l.timers, reason)
	if n > 0 {
		l.report(reason, n)
	}
}

func (l *limiter) flush() {
	l.mu.Lock()
	reasons := make([]string, 0, len(l.timers))
	for r, t := range l.timers {
		t.Stop()
		reasons = append(reasons, r)
	}
	l.mu.Unlock()
	for _, r := range reasons {
		l.expire(r)
	}
}
