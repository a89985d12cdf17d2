package netstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"outcall/netstack/egress"
	"outcall/netstack/httphead"
	"outcall/policy"
)

// healthPath is answered by the proxy itself.
const healthPath = "/outcall-health"

// serveProxy serves one connection to the explicit proxy.
func (s *Stack) serveProxy(ctx context.Context, f *flow, q *request) {
	c, stop, err := s.accepted(ctx, q)
	if err != nil {
		return // the client went away
	}
	defer stop()
	defer c.Close()
	s.stats.proxyActive.Add(1)
	defer s.stats.proxyActive.Add(-1)
	f.proc = s.attribute(ctx, f.tuple)
	h := newHTTPConn(s, f, c, nil)
	h.proc = f.proc
	h.serve(ctx)
}

// explicit serves one request to the proxy.
func (h *httpConn) explicit(ctx context.Context, r *httphead.Request) error {
	switch {
	case r.Form == httphead.Tunnel:
		return h.connect(ctx, r)
	case h.isHealth(r):
		h.end(answer(200, "", "application/json", `{"status":"ok"}`, false))
		return errDone
	case r.Form == httphead.Absolute:
		return h.forwardTo(ctx, r)
	}
	return h.malformed(errors.New("neither CONNECT nor an absolute target, as a proxy wants"))
}

// isHealth knows the question for the proxy itself, also as a client sends it
// that goes through the proxy to reach it.
func (h *httpConn) isHealth(r *httphead.Request) bool {
	if r.Method != "GET" || r.Path != healthPath || r.HasQuery || !r.Body.None() {
		return false
	}
	return r.Form == httphead.Origin ||
		r.Form == httphead.Absolute && h.s.isGateway(r.Target.Addr) && r.Target.PortOr(80) == h.s.cfg.ProxyPort
}

// A target is what a client of the proxy asks for.
type target struct {
	layer policy.Layer
	auth  httphead.Authority
	port  uint16
	facts func(netip.AddrPort) *policy.Facts
}

// A route is a judged way to a target.
type route struct {
	snap  *policy.Snapshot // that judged it
	addrs []judged
	rul   ruling // of the best address, or the denial
	fail  string // why there is none although no verdict stands against it
	late  bool   // the failure is a time-out
}

// judged is one address with its verdict.
type judged struct {
	dst   netip.AddrPort
	rul   ruling
	facts *policy.Facts
}

// maxRoutes is how often a target is judged from the start because the rules
// were replaced while its name was resolved; beyond it, it is denied.
const maxRoutes = 4

// route finds the way to a target under rules that are in force at its end: a
// name can take long to resolve, and a reload does not see what is not
// connected yet.
func (h *httpConn) route(ctx context.Context, t target) route {
	for range maxRoutes {
		snap := h.s.snapshot()
		if snap == nil {
			return route{rul: structural("no rules are loaded")}
		}
		if ro := h.routeBy(ctx, snap, t); h.s.snapshot() == snap {
			ro.snap = snap
			return ro
		}
	}
	return route{rul: structural("the rules were replaced each time the name was resolved")}
}

// routeBy judges a target without its address, resolves it, and judges again
// with each address known.
func (h *httpConn) routeBy(ctx context.Context, snap *policy.Snapshot, t target) route {
	if t.auth.IsAddr() {
		return h.weigh(snap, t, []netip.Addr{t.auth.Addr})
	}
	out := snap.Content(t.facts(netip.AddrPortFrom(netip.Addr{}, t.port)), netip.Addr{}, nil, h.s.cfg.Host())
	if out.Word == policy.Deny && (out.Structural || !h.s.cfg.Observe) {
		return route{rul: ruling{Flow: out}}
	}
	// What enforce denies gets here in observe alone.
	known := ruling{Flow: out, pass: true, would: out.Word == policy.Deny}
	ctx, cancel := context.WithTimeout(ctx, h.s.times.resolve)
	defer cancel()
	a, err := h.s.cfg.DNS.Resolve(ctx, Question{Name: t.auth.Host, Src: h.f.tuple.Src, Process: h.proc,
		NeedAllow: out.Word == policy.Open})
	switch {
	case err != nil:
		return route{rul: known, fail: "the name could not be resolved", late: errors.Is(err, context.DeadlineExceeded)}
	case a.Denied:
		return route{rul: ruling{Flow: policy.Flow{Outcome: a.Outcome, Name: t.auth.Host, Structural: a.Structural}}}
	case len(a.Addrs) == 0:
		return route{rul: known.under(a), fail: a.Reason, late: a.Timeout}
	}
	ro := h.weigh(snap, t, a.Addrs)
	ro.rul = ro.rul.under(a)
	return ro
}

// under is a ruling on a name that observe alone let be resolved: without the
// answer there would be nothing to reach.
func (r ruling) under(a Answer) ruling {
	if a.WouldDeny && r.pass && !r.would {
		r.would, r.Outcome = true, a.Outcome
	}
	return r
}

// weigh judges each address, in the order of the answer.
func (h *httpConn) weigh(snap *policy.Snapshot, t target, addrs []netip.Addr) (out route) {
	for i, a := range addrs {
		dst := netip.AddrPortFrom(a, t.port)
		facts := t.facts(dst)
		cands := h.s.cfg.Pins.Candidates(a)
		rul := h.s.rule(facts, snap.Content(facts, a, cands, h.s.cfg.Host()), !t.auth.IsAddr() || len(cands) > 0)
		if rul.pass {
			out.addrs = append(out.addrs, judged{dst, rul, facts})
		}
		if i == 0 || rul.pass && !out.rul.pass {
			out.rul = rul
		}
	}
	return out
}

// reach turns a route into a connection: it writes the verdict, and dials the
// addresses in turn. On failure the client has been answered, and errDone or
// the connection's own error is returned.
func (h *httpConn) reach(ctx context.Context, t target, id string, e policy.Event, head bool) (*egress.Conn, judged, error) {
	ro := h.route(ctx, t)
	if ro.fail != "" {
		h.s.verdict(t.layer, ro.rul, e)
		status := 502
		if ro.late {
			status = 504
		}
		h.end(answer(status, "", "text/plain; charset=utf-8", "outcall: "+ro.fail+"\n", head))
		return nil, judged{}, errDone
	}
	switch {
	case len(ro.addrs) > 0:
		e.IP = addrText(ro.addrs[0].dst.Addr())
	case t.auth.IsAddr():
		e.IP = addrText(t.auth.Addr)
	}
	if len(ro.addrs) == 0 {
		ro.rul.pass, ro.rul.would = false, false
	}
	ro.rul = h.s.verdict(t.layer, ro.rul, e)
	if !ro.rul.pass {
		h.end(refusal(403, ro.rul, id, head))
		return nil, judged{}, errDone
	}
	name := t.auth.Host
	if t.auth.IsAddr() {
		name = ""
	}
	c, j, err := h.dialFirst(ctx, name, t.layer, ro)
	if err != nil {
		return nil, judged{}, h.closeWith(err)
	}
	return c, j, nil
}

// connect serves a CONNECT: after 200 the tunnel's first flight is judged as
// that of a transparent flow is.
func (h *httpConn) connect(ctx context.Context, r *httphead.Request) error {
	t := target{layer: policy.LayerConnect, auth: r.Target, port: r.Target.Port}
	t.facts = func(dst netip.AddrPort) *policy.Facts {
		f := h.s.facts(policy.LayerConnect, h.proc, dst, policy.TCP)
		f.SetConnect(r.Target.Host, r.Target.IsAddr())
		return f
	}
	if h.origin != nil {
		_ = h.origin.Close() // of an earlier request on this connection
		h.origin = nil
	}
	e := eventOf(h.f.id, netip.AddrPortFrom(netip.Addr{}, t.port), policy.TCP, r.Target.Host, h.proc)
	e.Method = "CONNECT"
	up, j, err := h.reach(ctx, t, h.f.id, e, false)
	if err != nil {
		return err
	}
	defer up.Close()
	if _, err := h.c.Write([]byte("HTTP/1.1 200 Connection Established\r\n\r\n")); err != nil {
		return err
	}
	rest, _ := h.br.Peek(h.br.Buffered()) // what is buffered is there
	h.br = nil                            // no request follows, and a tunnel may be idle for long
	d := &duplex{s: h.s, f: h.f, agent: &buffered{stream: h.c, src: &prefixed{bytes.Clone(rest), h.in}}, up: up, proc: h.proc,
		dst: j.dst, name: h.f.info().Host, hold: j.rul.hold}
	if t.auth.IsAddr() {
		d.name = j.rul.Name
	}
	if j.rul.Unread {
		d.relay(ctx)
	} else {
		d.serve(ctx)
	}
	return errDone
}

// buffered is a stream whose first bytes have been read into a buffer.
type buffered struct {
	stream
	src source
}

func (b *buffered) Read(p []byte) (int, error) { return b.src.Read(p) }

// Wait and Ready implement source.
func (b *buffered) Wait() (int, error) { return b.src.Wait() }
func (b *buffered) Ready() int         { return b.src.Ready() }

// forwardTo serves a request with an absolute target.
func (h *httpConn) forwardTo(ctx context.Context, r *httphead.Request) error {
	t := target{layer: policy.LayerRequest, auth: r.Target, port: r.Target.PortOr(80)}
	t.facts = func(dst netip.AddrPort) *policy.Facts { return h.requestFacts(r, dst) }
	id := newID()
	e := h.event(id, r, netip.AddrPortFrom(netip.Addr{}, t.port))
	if h.origin != nil && h.reusable(r, t) {
		rul := h.judge(r, h.dst)
		e.IP = addrText(h.dst.Addr())
		rul = h.s.verdict(t.layer, rul, e)
		if !rul.pass {
			h.end(refusal(403, rul, id, r.Method == "HEAD"))
			return errDone
		}
		return h.exchange(ctx, r)
	}
	if h.origin != nil {
		_ = h.origin.Close() // another target
		h.origin = nil
	}
	up, j, err := h.reach(ctx, t, id, e, r.Method == "HEAD")
	if err != nil {
		return err
	}
	h.dst, h.origin = j.dst, newOrigin(up, originKey(t))
	return h.exchange(ctx, r)
}

// reusable reports that the open connection is to this target, and that a
// request that cannot be repeated will not meet a server which has just hung
// up: such a one goes on a new connection.
func (h *httpConn) reusable(r *httphead.Request, t target) bool {
	return h.origin.key == originKey(t) && (r.Method == "GET" || r.Method == "HEAD")
}

func originKey(t target) string { return fmt.Sprintf("%s:%d", t.auth.Host, t.port) }
