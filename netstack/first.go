package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"time"

	"outcall/netstack/hello"
	"outcall/netstack/httphead"
	"outcall/policy"
)

// A duplex is one accepted flow between the agent and the outside.
//
// The server's bytes pass from the start. The client's are held while they may
// still become TLS or HTTP, and, where the flow's word is short of allow, until
// a verdict on what they are. A server that speaks first so works at once, and
// nothing that was not judged leaves.
type duplex struct {
	s         *Stack
	f         *flow
	agent, up stream
	proc      *policy.Process
	dst       netip.AddrPort
	name      string
	hold      bool

	watch atomic.Pointer[hello.Watch] // set before the first ClientHello leaves
	down  chan error                  // the server's direction has ended
}

// relay moves bytes both ways, unread.
func (d *duplex) relay(ctx context.Context) {
	stop := context.AfterFunc(ctx, d.up.Abort)
	defer stop()
	d.startDown()
	err := d.f.pump(d.up, d.agent, &d.f.out, nil)
	finishWrite(d.up, d.agent, err)
	<-d.down
}

// startDown moves the server's bytes to the agent on a goroutine of its own,
// which ends with either connection; d.down tells.
func (d *duplex) startDown() {
	d.down = make(chan error, 1)
	d.s.wg.Go(func() {
		var err error = errors.New("internal error")
		d.s.guard("relay", func() {
			err = d.f.pump(d.agent, d.up, &d.f.in, d.watchServer)
		})
		if !timedOut(err) { // interrupted by stopDown: the connections live on
			finishWrite(d.agent, d.up, err)
		}
		d.down <- err
	})
}

func (d *duplex) watchServer() filter {
	w := d.watch.Load()
	if w == nil || w.ServerDone() {
		return nil
	}
	return func(b []byte) ([]byte, error) { w.Server(b); return b, nil }
}

// stopDown interrupts the server's direction without losing a byte: what was
// read has been written.
func (d *duplex) stopDown() error {
	_ = d.up.SetReadDeadline(past) // an error means that it has ended
	err := <-d.down
	_ = d.up.SetReadDeadline(time.Time{})
	return err
}

// serve reads the client's first flight, judges it, and carries on as what it
// turned out to be.
func (d *duplex) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, d.up.Abort)
	defer stop()
	d.startDown()
	first, kind, err := d.firstFlight()
	switch {
	case errors.Is(err, errHeld):
		d.refuse(policy.LayerRaw, structural(err.Error()), policy.Event{}, nil)
	case err != nil: // the client reset, or the flow was ended
		finishWrite(d.up, d.agent, err)
		<-d.down
	case kind == flightTLS:
		d.serveTLS(first)
	case kind == flightHTTP:
		d.serveHTTP(ctx, first)
	case kind == flightProxy:
		d.refuse(policy.LayerRaw, structural("a PROXY protocol header hides what follows it"), policy.Event{}, nil)
	default:
		d.serveRaw(first, kind)
	}
}

// The kinds of a first flight.
type flight uint8

const (
	flightRaw flight = iota
	flightDoubt
	flightTLS
	flightHTTP
	flightProxy
)

var errHeld = errors.New("the first bytes were not complete in time")

// firstFlight reads until the first bytes tell what they are, or end. At an
// allow a client may be silent for ever; its first byte starts the clock.
func (d *duplex) firstFlight() ([]byte, flight, error) {
	if d.hold {
		_ = d.agent.SetReadDeadline(time.Now().Add(d.s.times.first)) // a failure shows in Read
	}
	defer d.agent.SetReadDeadline(time.Time{})
	buf := make([]byte, 0, smallBuffer)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, len(buf))...)[:len(buf)]
		}
		n, err := d.agent.Read(buf[len(buf):cap(buf)])
		if n > 0 && len(buf) == 0 {
			d.f.touch()
			_ = d.agent.SetReadDeadline(time.Now().Add(d.s.times.first))
		}
		buf = buf[:len(buf)+n]
		switch {
		case timedOut(err):
			return nil, 0, errHeld
		case err != nil && err != io.EOF:
			return nil, 0, err
		}
		if k, ok := classify(buf, err == io.EOF); ok {
			return buf, k, nil
		}
		if len(buf) > max(httphead.MaxHead, hello.MaxWire) {
			return nil, 0, fmt.Errorf("%w, in %d octets", errHeld, len(buf))
		}
	}
}

// classify decides on first bytes; false asks for more.
func classify(b []byte, end bool) (flight, bool) {
	yes, more := hello.IsTLS(b)
	if yes {
		if _, _, err := hello.Parse(b); errors.Is(err, hello.ErrShort) && !end {
			return 0, false
		}
		return flightTLS, true
	}
	if more && !end {
		return 0, false
	}
	switch httphead.Classify(b, end) {
	case httphead.HTTP:
		return flightHTTP, true
	case httphead.Proxy:
		return flightProxy, true
	case httphead.Raw:
		return flightRaw, true
	case httphead.Doubt:
		return flightDoubt, true
	}
	return 0, false
}

// judge asks for a verdict on content and keeps it for reloads.
func (d *duplex) judge(facts *policy.Facts) ruling { return d.s.content(d.f, facts, d.name, d.dst) }

// content asks for a verdict on what a flow's bytes turned out to be, and keeps
// it for reloads. name is the flow's own, where the bytes say none.
func (s *Stack) content(f *flow, facts *policy.Facts, name string, dst netip.AddrPort) ruling {
	snap := s.snapshot()
	if snap == nil {
		return structural("no rules are loaded")
	}
	cands := s.candidates(f, facts.Name(), dst.Addr())
	r := s.rule(facts, snap.Content(facts, dst.Addr(), cands, s.cfg.Host()), len(cands) > 0)
	if r.pass {
		if r.Name != "" {
			name = r.Name
		}
		f.hold(s.cfg.Pins, name, dst.Addr())
		f.bind(name, dst, step{facts.Layer(), facts, dst.Addr(), r.allowedBy()})
		if !s.current(f, snap) {
			return structural(errRevoked.Error())
		}
	}
	return r
}

// refuse ends a flow whose content is denied: the line, then the outside is
// closed without a byte, then the client gets its words.
func (d *duplex) refuse(l policy.Layer, r ruling, e policy.Event, words []byte) {
	base := eventOf(d.f.id, d.dst, policy.TCP, d.name, d.proc)
	base.SNI, base.Method, base.Path = e.SNI, e.Method, e.Path
	d.s.verdict(l, r, base)
	d.drop(words)
}

// drop is refuse behind its line.
func (d *duplex) drop(words []byte) {
	_ = d.agent.SetWriteDeadline(past) // a client that does not read must not keep it alive
	_ = d.stopDown()                   // the flow is over either way
	d.up.Abort()
	if words == nil {
		d.agent.Abort()
		return
	}
	d.s.lastWords(d.agent, words)
}

// serveRaw relays what is neither TLS nor HTTP, if that is allowed.
func (d *duplex) serveRaw(first []byte, kind flight) {
	facts := d.s.facts(policy.LayerRaw, d.proc, d.dst, policy.TCP)
	facts.SetName(d.name)
	r := d.judge(facts)
	if !r.pass {
		d.refuse(policy.LayerRaw, r, policy.Event{}, nil)
		return
	}
	if r.would {
		r = d.s.verdict(policy.LayerRaw, r, eventOf(d.f.id, d.dst, policy.TCP, d.name, d.proc))
		if !r.pass {
			d.drop(nil)
			return
		}
	}
	var look func() filter
	if kind == flightDoubt {
		line := &httphead.Line{}
		check := filter(func(b []byte) ([]byte, error) {
			if line.HTTP(b) {
				return nil, errors.New("an HTTP request behind octets that no request line has")
			}
			return b, nil
		})
		look = func() filter { return check }
	}
	d.upward(policy.LayerRaw, first, look)
}

// upward sends the first flight and then the rest of the client's direction.
func (d *duplex) upward(l policy.Layer, first []byte, look func() filter) {
	err := d.f.forward(d.up, first, &d.f.out, look)
	if err == nil {
		err = d.f.pump(d.up, d.agent, &d.f.out, look)
	}
	if why, ok := isFiltered(err); ok {
		words := []byte(nil)
		if l == policy.LayerHello {
			words = hello.Alert()
		}
		d.refuse(l, structural(why.Error()), policy.Event{}, words)
		return
	}
	finishWrite(d.up, d.agent, err)
	<-d.down
}

// serveTLS judges the ClientHello and relays the rest untouched, with an eye
// on a second hello.
func (d *duplex) serveTLS(first []byte) {
	h, _, err := hello.Parse(first)
	if err != nil {
		r := structural("TLS that cannot be judged: " + err.Error())
		d.refuse(policy.LayerHello, r, policy.Event{}, hello.Alert())
		return
	}
	facts := d.s.facts(policy.LayerHello, d.proc, d.dst, policy.TCP)
	facts.SetHello(policy.TLS{SNI: h.SNI, ALPN: h.ALPN, ECH: h.ECH, Version: h.Version})
	r := d.judge(facts)
	if !r.pass {
		d.refuse(policy.LayerHello, r, policy.Event{SNI: h.SNI}, hello.Alert())
		return
	}
	if r.would {
		e := eventOf(d.f.id, d.dst, policy.TCP, d.name, d.proc)
		e.SNI = h.SNI
		if r = d.s.verdict(policy.LayerHello, r, e); !r.pass {
			d.drop(hello.Alert())
			return
		}
	}
	w := hello.NewWatch(h)
	d.watch.Store(w)
	// The watch sees the stream from behind the first hello on.
	_, n, _ := hello.Parse(first) // parsed above
	if err := d.f.forward(d.up, first[:n], &d.f.out, nil); err != nil {
		finishWrite(d.up, d.agent, err)
		<-d.down
		return
	}
	d.upward(policy.LayerHello, first[n:], func() filter {
		if w.ClientDone() {
			return nil
		}
		return w.Client
	})
}
