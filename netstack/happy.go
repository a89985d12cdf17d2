package netstack

import (
	"context"
	"errors"
	"time"

	"outcall/netstack/egress"
	"outcall/policy"
)

// errNotDialled is the failure of a dial that did not come to an answer of its own.
var errNotDialled = errors.New("the address was not dialled to the end")

// dialled is what came of one address.
type dialled struct {
	n      int  // its place among the route's
	beside bool // it was not the only one, and had a turn for that
	c      *egress.Conn
	err    error
}

// dialFirst connects to the first address that answers. The proxy's client has
// left the choice to us, so we choose as RFC 8305 says: the next address is
// tried when one has failed or has been silent for a moment, and all are
// waited for. Each stands as a step of the flow for as long as it is dialled.
func (h *httpConn) dialFirst(ctx context.Context, name string, l policy.Layer, ro route) (*egress.Conn, judged, error) {
	ctx, cancel := context.WithTimeout(ctx, h.s.times.dial)
	results, inWork := make(chan dialled, len(ro.addrs)), 0
	defer func() {
		cancel()
		for ; inWork > 0; inWork-- {
			if d := <-results; d.c != nil {
				d.c.Abort()
			}
		}
	}()
	turn := time.NewTicker(h.s.times.stagger)
	defer turn.Stop()
	first := dialled{n: len(ro.addrs), err: errNotDialled} // the failure that the client hears of
	for next := 0; ; {
		if next < len(ro.addrs) && ctx.Err() == nil && h.mayDialBeside(inWork) {
			j := ro.addrs[next]
			h.f.hold(h.s.cfg.Pins, name, j.dst.Addr())
			h.f.try(name, j.dst, step{l, j.facts, j.dst.Addr(), j.rul.allowedBy()}, next == 0)
			if !h.s.current(h.f, ro.snap) {
				if inWork > 0 {
					<-h.s.beside
				}
				return nil, j, errRevoked
			}
			h.dialOne(ctx, dialled{n: next, beside: inWork > 0}, name, ro, results)
			next, inWork = next+1, inWork+1
			turn.Reset(h.s.times.stagger)
		}
		if inWork == 0 {
			return nil, judged{}, first.err
		}
		select {
		case d := <-results:
			inWork--
			if d.err == nil {
				return h.won(name, l, ro, d)
			}
			if d.n < first.n {
				first = d
			}
		case <-turn.C:
		}
	}
}

// maxBeside is how many addresses of all flows together are dialled beside
// another one of the same flow: the files of the process are counted by flows.
// Where there is no more room, one address of a flow is tried after the other.
const maxBeside = spareFiles / 4

func (h *httpConn) mayDialBeside(inWork int) bool {
	if inWork == 0 {
		return true
	}
	select {
	case h.s.beside <- struct{}{}:
		return true
	default:
		return false
	}
}

// dialOne dials on a goroutine of the session's, which ends with ctx. Where
// there are several addresses each has a share of the time.
func (h *httpConn) dialOne(ctx context.Context, d dialled, name string, ro route, results chan<- dialled) {
	d.err = errNotDialled
	h.s.wg.Go(func() {
		defer func() {
			if d.beside {
				<-h.s.beside
			}
			results <- d
		}()
		ctx, cancel := context.WithTimeout(ctx, h.s.times.dial/time.Duration(min(len(ro.addrs), 4)))
		defer cancel()
		h.s.guard("dial", func() { d.c, d.err = h.s.dial(ctx, name, ro.addrs[d.n].dst) })
	})
}

// won binds the flow to the address that answered.
func (h *httpConn) won(name string, l policy.Layer, ro route, d dialled) (*egress.Conn, judged, error) {
	j := ro.addrs[d.n]
	h.f.bind(name, j.dst, step{l, j.facts, j.dst.Addr(), j.rul.allowedBy()})
	if !h.s.current(h.f, ro.snap) {
		d.c.Abort()
		return nil, j, errRevoked
	}
	h.f.open(d.c.Via)
	return d.c, j, nil
}
