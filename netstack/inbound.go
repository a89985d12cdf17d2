package netstack

import (
	"context"
	"net"
	"net/netip"

	"outcall/netstack/egress"
	"outcall/policy"
)

// An Inbound is one connection of the host to a port inside that the operator
// has published. It is no attempt of the agent's: no rule is asked, and its
// line says that it came in.
type Inbound struct {
	Conn *egress.Conn // from the host; closed by Stack.Inbound
	Port uint16       // inside
	// Dial opens the inside's end, whose Release is called at the end.
	Dial func(ctx context.Context) (Inner, error)
	// Closed says why nothing may come in now, "" where it may.
	Closed func() string
}

// An Inner is a connection to a port of the agent.
type Inner interface {
	stream
	// Release frees what the connection used, when nothing uses it any more.
	Release(ctx context.Context)
}

// Inbound serves one published connection to its end: it is a flow like any
// other to the operator, and ends with the session, by a kill, and with the
// bridge. Its audit line is written before anything inside is asked, with the
// far end's address and the port inside.
func (s *Stack) Inbound(in Inbound) {
	defer in.Conn.Close()
	if !s.enter() {
		in.Conn.Abort()
		return
	}
	defer s.wg.Done()
	s.guard("published connection", func() { s.inbound(in) })
}

func (s *Stack) inbound(in Inbound) {
	from := in.Conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	to := netip.AddrPortFrom(from.Addr(), in.Port)
	ctx, f := s.begin(Tuple{Proto: policy.TCP, Src: from, Dst: to})
	defer s.finish(f)
	stop := context.AfterFunc(ctx, in.Conn.Abort)
	defer stop()
	r := ruling{Flow: policy.Flow{Outcome: policy.Outcome{Word: policy.Allow}}, pass: true}
	if why := in.Closed(); why != "" {
		r = structural(why)
	}
	e := eventOf(f.id, to, policy.TCP, "", nil)
	e.Via = policy.ViaPublish
	if r = s.verdict(policy.LayerFlow, r, e); !r.pass {
		in.Conn.Abort()
		return
	}
	f.open(policy.ViaPublish)
	c, err := in.Dial(ctx)
	if err != nil {
		in.Conn.Abort() // nobody listens inside
		return
	}
	defer c.Release(s.ctx)
	stopInner := context.AfterFunc(ctx, c.Abort)
	defer stopInner()
	d := &duplex{s: s, f: f, agent: c, up: in.Conn, dst: to}
	d.relay(ctx)
}

// Limited writes a limit event for what carries to and from this stack.
func (s *Stack) Limited(text string) { s.limited("%s", text) }
