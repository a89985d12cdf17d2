package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"outcall/netstack/egress"
	"outcall/policy"
)

const dnsPort = 53

// syn serves one connection from its SYN to its end:
//
//	SYN ─ gateway:proxy ── accept ── proxy.go
//	    ├ any:53 ───────── accept ── DNS filter
//	    └ judge (flow) ─ deny: reset
//	                   └ dial ─ fails: reset, ICMP or silence
//	                          └ accept ── first.go: judge the first flight, relay
//
// It runs on the goroutine that the forwarder made for the SYN.
func (s *Stack) syn(r *tcp.ForwarderRequest) {
	id := r.ID()
	q := &request{s: s, r: r, raw: s.syns.take(id)}
	defer q.reset() // whatever happens, the request is answered
	t := Tuple{Proto: policy.TCP,
		Src: netip.AddrPortFrom(fromAddr(id.RemoteAddress), id.RemotePort),
		Dst: netip.AddrPortFrom(fromAddr(id.LocalAddress), id.LocalPort)}
	s.guard("flow", func() {
		if s.ctx.Err() != nil {
			return
		}
		ctx, f := s.begin(t)
		defer s.finish(f)
		switch {
		case t.Dst.Port() == dnsPort:
			s.serveDNS(ctx, f, q)
		case s.isGateway(t.Dst.Addr()) && t.Dst.Port() == s.cfg.ProxyPort && !s.cfg.NoProxy:
			s.serveProxy(ctx, f, q)
		default:
			s.transparent(ctx, f, q)
		}
	})
}

func (s *Stack) isGateway(a netip.Addr) bool { return a == s.cfg.Gateway4 || a == s.cfg.Gateway6 }

// accepted is accept with the flow's end tied to the connection's.
func (s *Stack) accepted(ctx context.Context, q *request) (c *agentConn, stop func(), err error) {
	c, err = q.accept()
	if err != nil {
		return nil, nil, err
	}
	cancel := context.AfterFunc(ctx, c.Abort)
	return c, func() { cancel() }, nil
}

func (s *Stack) serveDNS(ctx context.Context, f *flow, q *request) {
	c, stop, err := s.accepted(ctx, q)
	if err != nil {
		return // the client went away
	}
	defer stop()
	s.cfg.DNS.ServeTCP(ctx, c, f.tuple.Src, f.tuple.Dst)
	_ = c.Close() // closed by ServeTCP already, unless it panicked
}

// transparent serves a connection to an address of the outside.
func (s *Stack) transparent(ctx context.Context, f *flow, q *request) {
	dst := f.tuple.Dst
	f.proc = s.attribute(ctx, f.tuple)
	r, snap, facts := s.judgeFlow(ctx, f.tuple, f.proc)
	e := eventOf(f.id, dst, policy.TCP, r.Name, f.proc)
	r = s.verdict(policy.LayerFlow, r, e)
	if !r.pass {
		q.reset()
		return
	}
	f.hold(s.cfg.Pins, r.Name, dst.Addr())
	f.bind(r.Name, dst, step{policy.LayerFlow, facts, dst.Addr(), r.allowedBy()})
	if !s.current(f, snap) {
		return
	}
	up, err := s.dial(ctx, r.Name, dst)
	if err != nil {
		q.failed(err)
		return
	}
	defer up.Close()
	f.open(up.Via)
	c, stop, err := s.accepted(ctx, q)
	if err != nil {
		up.Abort()
		return
	}
	defer stop()
	defer c.Close()
	d := &duplex{s: s, f: f, agent: c, up: up, proc: f.proc, dst: dst, name: r.Name, hold: r.hold}
	if r.Unread {
		d.relay(ctx)
		return
	}
	d.serve(ctx)
}

// judgeFlow judges a first packet, after its name has been resolved again
// where the pin has run out.
func (s *Stack) judgeFlow(ctx context.Context, t Tuple, proc *policy.Process) (ruling, *policy.Snapshot, *policy.Facts) {
	cands := s.cfg.Pins.Candidates(t.Dst.Addr())
	if len(cands) == 0 {
		s.renew(ctx, t, proc)
		cands = s.cfg.Pins.Candidates(t.Dst.Addr())
	}
	snap := s.snapshot()
	facts := s.facts(policy.LayerFlow, proc, t.Dst, t.Proto)
	if snap == nil {
		return structural("no rules are loaded"), nil, facts
	}
	return s.rule(facts, snap.Flow(facts, t.Dst.Addr(), cands, s.cfg.Host()), len(cands) > 0), snap, facts
}

// renew resolves the names of expired pins again, so that the address is
// theirs once more if the rules still allow it. Which of them the client means
// its bytes will tell. A failure leaves the address without that name.
func (s *Stack) renew(ctx context.Context, t Tuple, proc *policy.Process) {
	names := s.cfg.Pins.ExpiredNames(t.Dst.Addr())
	if len(names) > maxRenewed {
		s.limited("more than %d names of %s have run out", maxRenewed, t.Dst.Addr())
		names = names[:maxRenewed]
	}
	ctx, cancel := context.WithTimeout(ctx, s.times.resolve)
	defer cancel()
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() {
			s.guard("renewal", func() { s.resolveAgain(ctx, name, t, proc) })
		})
	}
	all.Wait()
}

// resolveAgain asks for one name of an expired pin. An error, like a denial,
// shows in the candidates, by which the flow is judged.
func (s *Stack) resolveAgain(ctx context.Context, name string, t Tuple, proc *policy.Process) {
	_, _ = s.cfg.DNS.Resolve(ctx, Question{Name: name, Src: t.Src, Process: proc, NeedAllow: true, Keep: t.Dst.Addr()})
}

// candidates returns the names at an address for bytes that say name. Where
// that name's own pin has run out while another's lives, it is asked for again.
func (s *Stack) candidates(f *flow, name string, addr netip.Addr) []policy.Candidate {
	cands := s.cfg.Pins.Candidates(addr)
	if name == "" || slices.ContainsFunc(cands, func(c policy.Candidate) bool { return c.Name == name }) ||
		!slices.Contains(s.cfg.Pins.ExpiredNames(addr), name) {
		return cands
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.times.resolve)
	defer cancel()
	s.resolveAgain(ctx, name, Tuple{Proto: f.tuple.Proto, Src: f.tuple.Src, Dst: netip.AddrPortFrom(addr, f.tuple.Dst.Port())}, f.proc)
	return s.cfg.Pins.Candidates(addr)
}

// dial opens the outward side to one judged address, in its turn.
func (s *Stack) dial(ctx context.Context, name string, dst netip.AddrPort) (*egress.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.times.dial)
	defer cancel()
	leave, err := s.gates.enter(ctx, dst)
	if err != nil {
		return nil, &egress.Error{Kind: egress.Timeout, Addr: dst, Err: err}
	}
	defer leave()
	return s.cfg.Egress.Dial(ctx, name, dst)
}

// open marks that a connection outside exists.
func (f *flow) open(via string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened, f.via = true, via
}

// failed answers a SYN as the outside answered the dial (contract 6).
func (q *request) failed(err error) {
	switch kindOf(err) {
	case egress.Unreachable:
		q.unreachable()
	case egress.Timeout:
		q.silence()
	default: // refused, the proxy said no, never dialled
		q.reset()
	}
}

func kindOf(err error) egress.Kind {
	var e *egress.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return egress.Refused
}

// failure is one line on a failed dial for the explicit proxy's client.
func failure(err error) (status int, text string) {
	switch {
	case errors.Is(err, errAnswer):
		return 502, err.Error()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 502, "the server closed the connection without an answer"
	}
	k := kindOf(err)
	if k == egress.Timeout {
		return 504, "upstream " + k.String()
	}
	return 502, fmt.Sprintf("upstream %s", k)
}
