package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"outcall/netstack/egress"
	"outcall/netstack/hello"
	"outcall/netstack/quic"
	"outcall/policy"
)

// An association is one flow of datagrams: UDP between one socket of the agent
// and one address, or the echo requests that have one identifier. Outside it is
// one connected socket.
//
//	first datagram ─ judge (flow) ─ deny: ICMP admin-prohibited
//	                              └ each datagram ─ granted or literal, ICMP: out, unread
//	                                              ├ QUIC long header ─ hello, judged once; held until it is whole
//	                                              └ anything else ─ raw, judged once
//	reply, ICMP error ─ back to the agent
//
// What is denied or cannot be read ends the flow with ICMP admin-prohibited, so
// that the client falls back to TCP at once. Its next datagram begins another
// flow, with a verdict and a line of its own.
type association struct {
	s  *Stack
	f  *flow
	in chan datagram
	up *egress.Datagrams

	reader *quic.Reader // nil: nothing is read
	raw    bool         // what is not QUIC has been judged, and may go
	held   []datagram   // what a ClientHello that is not whole came in
	octets int64        // of held
	whole  <-chan time.Time

	latest atomic.Pointer[datagram] // the last one that left: an ICMP error quotes it
	uncut  atomic.Bool              // too large for the path is too large, and told
	down   chan struct{}            // closed when no reply will come any more
}

// associate serves a flow from its first datagram to its end. closed tells that
// it was not the flow that ended itself: what is left, and what has come since,
// begins another.
func (s *Stack) associate(t Tuple, in chan datagram) (closed bool, left []datagram) {
	ctx, f := s.begin(t)
	defer s.finish(f)
	a := &association{s: s, f: f, in: in, down: make(chan struct{})}
	d := <-in // lead put it there
	r := a.open(ctx, d)
	if a.up == nil {
		return false, nil
	}
	defer a.up.Close()
	f.open(egress.Direct)
	if !r.Unread && t.Proto == policy.UDP {
		a.reader = quic.NewReader(s.seen)
	}
	stop := context.AfterFunc(ctx, func() { _ = a.up.Close() })
	defer stop()
	s.wg.Go(func() {
		defer close(a.down)
		s.guard("relay", a.replies)
	})
	left = a.serve(ctx, d)
	a.release()
	closed = ctx.Err() != nil
	_ = a.up.Close()
	<-a.down
	return closed, left
}

// open judges the flow by its first datagram and opens its outward side. Without
// one the agent has its answer.
func (a *association) open(ctx context.Context, d datagram) ruling {
	s, f, t := a.s, a.f, a.f.tuple
	f.proc = s.attribute(ctx, t)
	r, snap, facts := s.judgeFlow(ctx, t, f.proc)
	name := r.Name
	var up *egress.Datagrams
	var err error
	if r.pass {
		// A socket sends nothing by itself, and that there can be none is a
		// part of the verdict.
		if up, err = dialDatagrams(s.cfg.Egress, t.Proto, name, t.Dst); neverGoesOut(err) {
			r = structural(whyNever(t.Proto, err))
		}
	}
	r = s.verdict(policy.LayerFlow, r, eventOf(f.id, t.Dst, t.Proto, name, f.proc))
	switch {
	case !r.pass:
		a.answer(d, adminProhibited)
	case err != nil:
		a.answer(d, hostUnreachable)
	default:
		f.hold(s.cfg.Pins, name, t.Dst.Addr())
		f.bind(name, t.Dst, step{policy.LayerFlow, facts, t.Dst.Addr(), r.allowedBy()})
		if s.current(f, snap) {
			a.up = up
			return r
		}
		a.answer(d, adminProhibited)
	}
	if up != nil {
		_ = up.Close()
	}
	return r
}

func dialDatagrams(d Dialer, p policy.Proto, name string, dst netip.AddrPort) (*egress.Datagrams, error) {
	if p == policy.ICMP {
		return d.DialEcho(name, dst.Addr())
	}
	return d.DialUDP(name, dst)
}

// CannotGoOut is policy.ExplainQuery's: it tries, which sends nothing.
func (s *Stack) CannotGoOut(p policy.Proto, name string, dst netip.AddrPort) string {
	return CannotGoOut(s.cfg.Egress, p, name, dst)
}

// CannotGoOut is the same without a stack.
func CannotGoOut(d Dialer, p policy.Proto, name string, dst netip.AddrPort) string {
	up, err := dialDatagrams(d, p, name, dst)
	switch {
	case neverGoesOut(err):
		return whyNever(p, err)
	case err == nil:
		_ = up.Close()
	}
	return "" // no route: what is answered then is no verdict
}

func whyNever(p policy.Proto, err error) string {
	return fmt.Sprintf("%s cannot go out: %v", p, errors.Unwrap(err))
}

func neverGoesOut(err error) bool {
	var e *egress.Error
	return errors.As(err, &e) && (e.Kind == egress.Forbidden || e.Kind == egress.Proxy)
}

// serve moves the agent's datagrams out, d first, until the flow ends. It returns
// the one that came too late.
func (a *association) serve(ctx context.Context, d datagram) (left []datagram) {
	wait := a.s.times.udp
	if a.f.tuple.Proto == policy.ICMP {
		wait = a.s.times.echo
	}
	idle := time.NewTimer(wait)
	defer idle.Stop()
	for {
		a.f.touch()
		if ctx.Err() != nil {
			return []datagram{d}
		}
		if !a.outward(d) {
			return nil
		}
		for next := false; !next; {
			select {
			case d = <-a.in:
				next = true
			case <-a.whole:
				a.refuse(d, policy.LayerHello, structural("a ClientHello over QUIC that was not whole in time"), "")
				return nil
			case <-idle.C:
				rest := wait - time.Since(time.Unix(0, a.f.last.Load()))
				if rest <= 0 && a.s.mux.leave(a.f.tuple, a.in, true) {
					return nil
				}
				idle.Reset(max(rest, time.Millisecond))
			case <-ctx.Done():
				return nil
			case <-a.down:
				return nil
			}
		}
	}
}

// outward judges one datagram as what it is, and sends it if it may leave;
// false ends the flow.
func (a *association) outward(d datagram) bool {
	if a.reader == nil {
		return a.send(d)
	}
	rep := a.reader.Datagram(d.body)
	switch rep.Answer {
	case quic.NotQUIC:
		return a.judgeRaw(d) && a.send(d)
	case quic.NeedMore:
		return a.hold(d)
	case quic.Complete:
		if rep.First && !a.judgeHello(d, rep.Hello) {
			return false
		}
		held := a.held
		a.release()
		for _, h := range held {
			if !a.send(h) {
				return false
			}
		}
		return a.send(d)
	case quic.Pass:
		return a.send(d)
	}
	a.refuse(d, policy.LayerHello, structural("QUIC that cannot be judged: "+rep.Err.Error()), "")
	return false
}

// hold keeps a datagram until its ClientHello is whole.
func (a *association) hold(d datagram) bool {
	size := int64(len(d.body))
	if a.s.held.Add(size) > maxHeldOctets {
		a.s.held.Add(-size)
		a.s.limited("more than %d octets of QUIC wait for their ClientHello to be whole", maxHeldOctets)
		a.refuse(d, policy.LayerHello, structural("too much of QUIC waits to be whole"), "")
		return false
	}
	a.octets += size
	a.held = append(a.held, d)
	if a.whole == nil {
		a.whole = time.After(a.s.times.first)
	}
	return true
}

// release gives the room of what was held back.
func (a *association) release() {
	a.s.held.Add(-a.octets)
	a.held, a.octets, a.whole = nil, 0, nil
}

// judgeHello judges the one ClientHello of the flow: the reader has seen that
// any other one asks for the same.
func (a *association) judgeHello(d datagram, h hello.Hello) bool {
	facts := a.facts(policy.LayerHello)
	facts.SetHello(policy.TLS{SNI: h.SNI, ALPN: h.ALPN, ECH: h.ECH, Version: h.Version})
	return a.passes(d, facts, h.SNI)
}

// judgeRaw judges what is no QUIC, once.
func (a *association) judgeRaw(d datagram) bool {
	if a.raw {
		return true
	}
	facts := a.facts(policy.LayerRaw)
	facts.SetName(a.name())
	a.raw = a.passes(d, facts, "")
	return a.raw
}

func (a *association) name() string { return a.f.info().Host }

func (a *association) facts(l policy.Layer) *policy.Facts {
	return a.s.facts(l, a.f.proc, a.f.tuple.Dst, a.f.tuple.Proto)
}

// passes asks for the verdict on content. Where observe alone lets it pass, that
// has a line of its own.
func (a *association) passes(d datagram, facts *policy.Facts, sni string) bool {
	r := a.s.content(a.f, facts, a.name(), a.f.tuple.Dst)
	if r.pass && !r.would {
		return true
	}
	if r.pass {
		if r = a.s.verdict(facts.Layer(), r, a.event(sni)); r.pass {
			return true
		}
		a.answer(d, adminProhibited)
		return false
	}
	a.refuse(d, facts.Layer(), r, sni)
	return false
}

func (a *association) event(sni string) policy.Event {
	e := eventOf(a.f.id, a.f.tuple.Dst, a.f.tuple.Proto, a.name(), a.f.proc)
	e.SNI = sni
	return e
}

// refuse writes the line of a denial, and then answers the datagram.
func (a *association) refuse(d datagram, l policy.Layer, r ruling, sni string) {
	a.s.verdict(l, r, a.event(sni))
	a.answer(d, adminProhibited)
}

func (a *association) answer(d datagram, code icmpCode) {
	a.s.inject(icmpError(d.packet.raw, a.s.cfg.Gateway4, a.s.cfg.Gateway6, code))
}

// send puts one datagram on the way, and tells the agent what the outside says.
func (a *association) send(d datagram) bool {
	if a.reader != nil && !a.raw && a.latest.Load() == nil {
		// QUIC measures its path by what does not arrive. Where the kernel
		// refuses this, it cuts as for any other UDP.
		a.uncut.Store(a.up.DontFragment() == nil)
	}
	a.latest.Store(&d)
	for range 2 { // the error of an earlier datagram is told by the next write
		n, err := a.up.Write(d.body)
		if err == nil {
			a.f.out.Add(int64(n))
			return true
		}
		if errors.Is(err, net.ErrClosed) {
			return false
		}
		told := a.complain()
		switch {
		case errors.Is(err, syscall.EMSGSIZE):
			return true
		case !told:
			a.answer(d, hostUnreachable)
			return true
		}
	}
	return true
}

// complain passes on the ICMP errors that have come; false is none.
func (a *association) complain() bool {
	d := a.latest.Load()
	all := a.up.Complaints()
	for _, c := range all {
		if d == nil || c.MTU != 0 && !a.uncut.Load() {
			continue // the kernel cuts the next one up
		}
		a.answer(*d, icmpCode{c.Type, c.Code, c.Type, c.Code, c.MTU})
	}
	return len(all) > 0
}

// maxStrange bounds the errors of a socket that say nothing of a datagram.
const maxStrange = 16

// replies moves the outside's datagrams to the agent until the socket is
// closed.
func (a *association) replies() {
	for strange := 0; strange < maxStrange; {
		err := a.up.Receive(a.reply)
		switch {
		case err == nil:
			strange = 0
		case errors.Is(err, net.ErrClosed):
			return
		case !a.complain():
			strange++
		}
	}
}

func (a *association) reply(b []byte) {
	t := a.f.tuple
	a.f.touch()
	a.f.in.Add(int64(len(b)))
	if t.Proto == policy.ICMP {
		a.s.inject(echoReply(t.Dst.Addr(), t.Src.Addr(), t.Src.Port(), b))
		return
	}
	a.s.inject(udpPacket(t.Dst, t.Src, b))
}
