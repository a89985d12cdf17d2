package netstack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"outcall/netstack/quic"
	"outcall/policy"
)

// nic is the one interface of the stack.
const nic tcpip.NICID = 1

// A Stack carries the flows of one session. Its methods are safe for
// concurrent use.
type Stack struct {
	cfg                Config
	times              timeouts
	net                *stack.Stack
	flows              registry
	mux                mux        // of UDP and ICMP flows
	seen               *quic.Seen // the session's ClientHellos over QUIC
	held               atomic.Int64
	gates              gates
	syns               synTable
	asked              judgingSet
	askers             askers
	packets, questions chan struct{} // slots of packets and DNS datagrams in work
	beside             chan struct{} // slots of dials beside another one of the same flow

	// next is the rule set of a reload under way; see Reload.
	next atomic.Pointer[reloading]

	mu      sync.Mutex
	running bool
	ctx     context.Context // ends with Run; set while running
	wg      sync.WaitGroup  // every goroutine that serves a flow or packet

	lender *lender // of buffers to busy flows

	stats counters
}

// New builds the stack over cfg.Link. Nothing is received before Run.
func New(cfg Config) (*Stack, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Stack{
		cfg:       cfg,
		times:     defaultTimeouts,
		packets:   make(chan struct{}, maxPackets),
		questions: make(chan struct{}, maxQuestions),
		beside:    make(chan struct{}, maxBeside),
		lender:    newLender(largeBuffers),
		seen:      quic.NewSeen(),
		net: stack.New(stack.Options{
			// No neighbour discovery, no address configuration, no multicast
			// listener reports: the zero options turn all of them off. A packet
			// to a loopback address is an attempt like any other: it is judged
			// and refused, not lost.
			NetworkProtocols: []stack.NetworkProtocolFactory{
				ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
				ipv6.NewProtocolWithOptions(ipv6.Options{AllowExternalLoopbackTraffic: true})},
			TransportProtocols: []stack.TransportProtocolFactory{
				tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		}),
	}
	quietLogs()
	limit, err := flowLimit()
	if err != nil {
		return nil, err
	}
	s.flows.init(limit)
	s.mux.init(limit + maxPackets)
	s.gates.init(MaxDialing)
	if err := s.tune(); err != nil {
		return nil, err
	}
	return s, nil
}

// tune sets what libs.md measured; the buffers bound what one flow can hold.
func (s *Stack) tune() error {
	sack := tcpip.TCPSACKEnabled(true)
	recv := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: fullBuffer, Max: 2 * fullBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: fullBuffer, Max: 2 * fullBuffer}
	// A client that uses its port again meets what is left of the old connection:
	// no listener takes its SYN out of that. The round trip is below a millisecond.
	wait := tcpip.TCPTimeWaitTimeoutOption(500 * time.Millisecond)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &recv, &send, &wait} {
		if err := s.net.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("netstack: TCP option %T: %w", o, tcpErr(err))
		}
	}
	fwd := tcp.NewForwarder(s.net, 0, MaxFlows, func(r *tcp.ForwarderRequest) {
		if !s.enter() {
			r.Complete(false)
			return
		}
		defer s.wg.Done()
		s.syn(r)
	})
	s.net.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		s.syns.note(id, pkt)
		return fwd.HandlePacket(id, pkt)
	})
	s.net.SetTransportProtocolHandler(udp.ProtocolNumber, s.udp)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber4, s.icmp)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber6, s.icmp)
	return nil
}

// attach makes the interface: it takes every destination and answers from any.
func (s *Stack) attach() error {
	ep := s.cfg.Link.Endpoint()
	if err := s.net.CreateNIC(nic, ep); err != nil {
		return fmt.Errorf("netstack: interface: %w", tcpErr(err))
	}
	for _, set := range []func(tcpip.NICID, bool) tcpip.Error{s.net.SetPromiscuousMode, s.net.SetSpoofing} {
		if err := set(nic, true); err != nil {
			return fmt.Errorf("netstack: interface mode: %w", tcpErr(err))
		}
	}
	for _, a := range []netip.Addr{s.cfg.Gateway4, s.cfg.Gateway6} {
		proto := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
		if a.Is6() {
			proto = header.IPv6ProtocolNumber
		}
		pa := tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: toAddr(a).WithPrefix()}
		if err := s.net.AddProtocolAddress(nic, pa, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("netstack: address %s: %w", a, tcpErr(err))
		}
	}
	s.net.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	return nil
}

// Run serves packets until ctx ends or the link fails. Then every flow is
// aborted, and Run returns when nothing of them is left. It can be called once.
func (s *Stack) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.ctx, s.running = ctx, true
	s.mu.Unlock()
	defer s.leave()
	if err := s.attach(); err != nil {
		cancel()                          // what has begun is waited for
		s.cfg.Link.Endpoint().Attach(nil) // what reads there already, ends
		return err
	}
	err := s.cfg.Link.Run(ctx)
	cancel()
	s.flows.killAll(errStopped)
	s.leave()
	s.net.Close()
	// RemoveNIC waits for the link's readers under the lock of the stack, which a
	// reader that delivers by itself takes for each packet: it ends first.
	s.cfg.Link.Endpoint().Attach(nil)
	if e := s.net.RemoveNIC(nic); e != nil {
		err = errors.Join(err, fmt.Errorf("netstack: remove interface: %w", tcpErr(e)))
	}
	s.net.Wait()
	return err
}

// enter counts one goroutine of the session's; false means that it has ended.
// Done of wg must follow a true.
func (s *Stack) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.wg.Add(1)
	}
	return s.running
}

// leave lets nothing new begin, and waits for what has.
func (s *Stack) leave() {
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	s.wg.Wait()
}

// later serves one packet on a goroutine of its own, in one of slots, or
// loses it, and tells which.
func (s *Stack) later(slots chan struct{}, f func(context.Context)) bool {
	select {
	case slots <- struct{}{}:
	default:
		s.stats.lost.Add(1)
		s.limited("more than %d packets wait for an answer", cap(slots))
		return false
	}
	if !s.enter() {
		<-slots
		return false
	}
	go func() {
		defer s.wg.Done()
		defer func() { <-slots }()
		s.guard("packet", func() { f(s.ctx) })
	}()
	return true
}

// guard keeps a panic inside one packet or flow: no verdict is a deny, and the
// session lives on.
func (s *Stack) guard(what string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			s.stats.panics.Add(1)
			s.cfg.Auditor.Record(policy.Event{Time: time.Now(), Event: "verdict", Session: s.cfg.Who.Session,
				Agent: s.cfg.Who.Agent, ID: newID(), Layer: policy.LayerFlow.String(), Verdict: "deny",
				Structural: true, Reason: fmt.Sprintf("internal error in a %s: %v", what, p)})
		}
	}()
	f()
}

// limited tells each time that a limit was reached: the audit sums what is
// equal, so that its counts are exact.
func (s *Stack) limited(format string, args ...any) {
	s.cfg.Auditor.Record(policy.Event{Time: time.Now(), Event: "limit", Session: s.cfg.Who.Session,
		Agent: s.cfg.Who.Agent, Reason: fmt.Sprintf(format, args...)})
}

// quietLogs turns off gVisor's own logger, which the agent's packets can make
// write to standard error: that belongs to the command.
var quietLogs = sync.OnceFunc(func() {
	log.SetLevel(log.Warning) // loggers made at start-up keep their target
	log.SetTarget(silence{})
})

type silence struct{}

// Emit implements log.Emitter.
func (silence) Emit(int, log.Level, time.Time, string, ...any) {}

func tcpErr(e tcpip.Error) error { return errors.New(e.String()) }

func toAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fromAddr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice()) // 4 or 16 octets by its type
	return addr
}

type counters struct {
	lost, panics, total, refused             atomic.Int64
	proxyActive, proxyRequests, proxyBlocked atomic.Int64
}

// Stats are counts since the start.
type Stats struct {
	Flows   int   // live now
	Total   int64 // flows that were asked for
	Refused int64 // denials that this package answered
	Lost    int64 // packets that no worker took
	Panics  int64
	Proxy   ProxyStats
}

// ProxyStats are the explicit proxy's counts.
type ProxyStats struct {
	Active   int64 // connections now
	Requests int64 // CONNECT and absolute requests, malformed ones included
	Blocked  int64 // those that were answered 403 or 400
}

// Stats returns the counts.
func (s *Stack) Stats() Stats {
	return Stats{Flows: s.flows.len(), Total: s.stats.total.Load(), Refused: s.stats.refused.Load(),
		Lost: s.stats.lost.Load(), Panics: s.stats.panics.Load(),
		Proxy: ProxyStats{Active: s.stats.proxyActive.Load(), Requests: s.stats.proxyRequests.Load(),
			Blocked: s.stats.proxyBlocked.Load()}}
}
