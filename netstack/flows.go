package netstack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"outcall/policy"
)

// Why flows end from our side; each is a context's cause.
var (
	errStopped = errors.New("the session ends")
	errKilled  = errors.New("closed by the operator")
	errEvicted = errors.New("the longest idle flow, closed for a new one")
	errRevoked = errors.New("the rules deny it now")
)

// A flow of the agent while it lives is one TCP connection (transparent, to the
// proxy, or to a resolver), the datagrams of one UDP socket to one address, or
// the echo requests with one identifier to one address.
type flow struct {
	id    string
	tuple Tuple
	proc  *policy.Process
	start time.Time
	end   context.CancelCauseFunc
	*lender

	in, out atomic.Int64 // octets to and from the agent
	last    atomic.Int64 // unix nanoseconds of the last octet

	mu     sync.Mutex
	name   string
	rule   string
	dst    netip.AddrPort // dialled, or asked for
	via    string
	opened bool               // a connection outside exists: the end is audited
	steps  []step             // what was judged, for a reload
	held   map[heldPin]func() // the pins that it keeps alive, with their release
}

type heldPin struct {
	name string
	addr netip.Addr
}

// A step is one verdict that a live flow stands on.
type step struct {
	layer policy.Layer
	facts *policy.Facts
	addr  netip.Addr
	rule  string // that allowed it; "" in observe where none did
}

// FlowInfo is one live flow as the operator sees it.
type FlowInfo struct {
	ID       string          `json:"id"`
	Src      netip.AddrPort  `json:"src"`
	Dst      netip.AddrPort  `json:"dst"`
	Host     string          `json:"host,omitempty"`
	Rule     string          `json:"rule,omitempty"` // that allowed it last
	Protocol policy.Proto    `json:"protocol"`
	Process  *policy.Process `json:"process,omitempty"`
	Via      string          `json:"via,omitempty"`
	Start    time.Time       `json:"start"`
	BytesIn  int64           `json:"bytes_in"`
	BytesOut int64           `json:"bytes_out"`
}

func (f *flow) touch() { f.last.Store(time.Now().UnixNano()) }

// bind tells where the flow goes, and what was judged for it. A later verdict
// of the same layer takes the place of the earlier ones.
func (f *flow) bind(name string, dst netip.AddrPort, st step) { f.try(name, dst, st, true) }

// try is bind for one of the addresses that are dialled at once: with alone
// false it stands beside the earlier verdicts of its layer.
func (f *flow) try(name string, dst netip.AddrPort, st step, alone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name, f.dst, f.rule = name, dst, st.rule
	at := len(f.steps)
	if alone {
		if i := slices.IndexFunc(f.steps, func(o step) bool { return o.layer == st.layer }); i >= 0 {
			at = i
		}
		f.steps = slices.DeleteFunc(f.steps, func(o step) bool { return o.layer == st.layer })
	}
	f.steps = slices.Insert(f.steps, at, st)
}

// hold keeps a pin alive until the flow ends. A flow that said several names
// of its address stands on each of them.
func (f *flow) hold(p Pins, name string, addr netip.Addr) {
	if name == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k := heldPin{name, addr}
	if f.held[k] != nil {
		return
	}
	if f.held == nil {
		f.held = map[heldPin]func(){}
	}
	f.held[k] = p.Hold(name, addr)
}

func (f *flow) judged() []step {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]step(nil), f.steps...)
}

func (f *flow) info() FlowInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return FlowInfo{ID: f.id, Src: f.tuple.Src, Dst: f.dst, Host: f.name, Rule: f.rule, Protocol: f.tuple.Proto, Process: f.proc,
		Via: f.via, Start: f.start, BytesIn: f.in.Load(), BytesOut: f.out.Load()}
}

// A registry holds the live flows, at most max of them.
type registry struct {
	mu  sync.Mutex
	max int
	m   map[*flow]struct{}
}

// spareFiles are the descriptors that flows leave to all else of the process:
// the audit, questions, the host API, and flows that are being closed.
const spareFiles = 1024

// flowLimit is MaxFlows, or less where the process may have few files: each flow
// has one, and one datagram is enough to begin a flow.
func flowLimit() (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("netstack: limit of open files: %w", err)
	}
	return flowsWith(r.Cur), nil
}

func flowsWith(files uint64) int {
	if files >= MaxFlows+spareFiles {
		return MaxFlows
	}
	return int(max(files/2, files-min(files, spareFiles)))
}

func (r *registry) init(limit int) { r.max, r.m = limit, make(map[*flow]struct{}) }

// add enters a flow. Where the table is full the longest idle flow is ended,
// and evicted is true.
func (r *registry) add(f *flow) (evicted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.m) >= r.max {
		var idle *flow
		for o := range r.m {
			if idle == nil || o.last.Load() < idle.last.Load() {
				idle = o
			}
		}
		delete(r.m, idle)
		idle.end(errEvicted)
		evicted = true
	}
	r.m[f] = struct{}{}
	return evicted
}

func (r *registry) remove(f *flow) {
	r.mu.Lock()
	delete(r.m, f)
	r.mu.Unlock()
}

// drop ends a flow and takes it out at once, so that it is counted once.
func (r *registry) drop(f *flow, cause error) {
	r.remove(f)
	f.end(cause)
}

func (r *registry) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.m)
}

func (r *registry) all() []*flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*flow, 0, len(r.m))
	for f := range r.m {
		out = append(out, f)
	}
	return out
}

func (r *registry) killAll(cause error) {
	for _, f := range r.all() {
		r.drop(f, cause)
	}
}

// begin makes a flow and enters it. Its context ends when the flow shall end;
// finish must be called.
func (s *Stack) begin(t Tuple) (context.Context, *flow) {
	ctx, end := context.WithCancelCause(s.ctx)
	f := &flow{id: newID(), tuple: t, dst: t.Dst, start: time.Now(), end: end, lender: s.lender}
	f.touch()
	if s.flows.add(f) {
		s.limited("more than %d flows", s.flows.max)
	}
	s.stats.total.Add(1)
	return ctx, f
}

// finish leaves the table, frees the pins, and writes the end line.
func (s *Stack) finish(f *flow) {
	s.flows.remove(f)
	f.end(context.Canceled)
	f.mu.Lock()
	opened, held := f.opened, f.held
	f.held = nil
	f.mu.Unlock()
	for _, rel := range held {
		rel()
	}
	if !opened {
		return
	}
	i := f.info()
	e := eventOf(i.ID, i.Dst, i.Protocol, i.Host, i.Process)
	e.Time, e.Event = time.Now(), "end"
	e.Session, e.Agent, e.Via = s.cfg.Who.Session, s.cfg.Who.Agent, i.Via
	e.BytesIn, e.BytesOut = i.BytesIn, i.BytesOut
	e.Layer, e.SNI = f.contentOf()
	e.DurationMS = time.Since(f.start).Milliseconds()
	s.cfg.Auditor.Record(e)
}

// Flows returns the live flows, in no order.
func (s *Stack) Flows() []FlowInfo {
	all := s.flows.all()
	out := make([]FlowInfo, 0, len(all))
	for _, f := range all {
		out = append(out, f.info())
	}
	return out
}

// Kill ends the flow with this id, and reports whether there was one.
func (s *Stack) Kill(id string) bool {
	for _, f := range s.flows.all() {
		if f.id == id {
			s.flows.drop(f, errKilled)
			return true
		}
	}
	return false
}
