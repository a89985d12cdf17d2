package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"outcall/netstack/internal/waits"
)

// A stream is one TCP connection, to the agent or to the outside.
type stream interface {
	net.Conn
	source
	CloseWrite() error
	// Abort closes with a reset.
	Abort()
}

// agentConn is a connection of the agent inside the netstack.
type agentConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
}

// Abort implements stream.
func (c *agentConn) Abort() { c.ep.Abort() }

// Wait implements source. A read of nothing waits, too: it fails where there is
// something, and takes none of it.
func (c *agentConn) Wait() (int, error) {
	if n := c.Ready(); n > 0 {
		return n, nil
	}
	_, err := c.Read(nil)
	if n := c.Ready(); n > 0 && !timedOut(err) {
		return n, nil
	}
	switch {
	case err == nil:
		err = io.ErrNoProgress // cannot be: there was nothing, and no reason
	case err == io.EOF && tcp.EndpointState(c.ep.State()) == tcp.StateError:
		// A reset is told once, and a write was told: this is no end of the stream.
		err = tcpErr(&tcpip.ErrConnectionReset{})
	}
	return 0, err
}

// Ready implements source.
func (c *agentConn) Ready() int {
	n, err := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	if err != nil {
		return 0 // Read tells why
	}
	return n
}

// pull implements puller.
func (c *agentConn) pull(src source, n int) (int, error) {
	p := payload{src: src, left: min(n, fullBuffer)}
	moved, err := c.ep.Write(&p, tcpip.WriteOptions{})
	switch _, full := err.(*tcpip.ErrWouldBlock); {
	case p.err != nil:
		return 0, p.err
	case full && p.read == 0:
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("write to the agent: %w", tcpErr(err))
	case int(moved) != p.read:
		// The endpoint took less than it had asked for: what is lost must not be missed.
		return int(moved), fmt.Errorf("write to the agent: %d of %d octets were taken", moved, p.read)
	}
	return int(moved), nil
}

// A payload is what an endpoint reads from a source by itself: left octets that
// are there.
type payload struct {
	src        source
	left, read int
	err        error
}

// Len implements tcpip.Payloader.
func (p *payload) Len() int { return p.left }

// Read implements tcpip.Payloader.
func (p *payload) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	read := p.src.Read
	if t, ok := p.src.(taker); ok {
		read = t.Take
	}
	n, err := read(b[:min(len(b), p.left)])
	p.left -= n
	p.read += n
	if n == 0 || err != nil && p.left > 0 {
		// Len was a promise. An error that is no EOF ends the endpoint's read.
		if p.err = err; err == nil || err == io.EOF {
			p.err = io.ErrUnexpectedEOF
		}
		return n, p.err
	}
	return n, nil
}

// A request is a SYN that waits for its answer, which is given exactly once:
// reset, silence, or a connection.
type request struct {
	s    *Stack
	r    *tcp.ForwarderRequest
	raw  []byte // the SYN, from its IP header
	done bool
}

func (q *request) complete(reset bool) {
	if !q.done {
		q.done = true
		q.r.Complete(reset)
	}
}

// reset refuses the connection; silence leaves it to the client's own retries.
func (q *request) reset()   { q.complete(true) }
func (q *request) silence() { q.complete(false) }

// unreachable answers with ICMP, quoting the SYN.
func (q *request) unreachable() {
	q.complete(false)
	if q.raw != nil {
		q.s.inject(icmpError(q.raw, q.s.cfg.Gateway4, q.s.cfg.Gateway6, hostUnreachable))
	}
}

// accept finishes the handshake with the client.
func (q *request) accept() (*agentConn, error) {
	var wq waiter.Queue
	ep, terr := q.r.CreateEndpoint(&wq)
	if terr != nil {
		q.silence()
		return nil, errors.New(terr.String())
	}
	q.complete(false)
	if size := bufferOf(q.s.flows.len()); size < fullBuffer {
		ep.SocketOptions().SetSendBufferSize(size, true)
		ep.SocketOptions().SetReceiveBufferSize(size, true)
	}
	ep.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(waits.KeepIdle), tcpip.KeepaliveIntervalOption(waits.KeepInterval)
	for _, o := range []tcpip.SettableSocketOption{&idle, &interval} {
		if terr := ep.SetSockOpt(o); terr != nil {
			ep.Abort()
			return nil, errors.New(terr.String())
		}
	}
	if terr := ep.SetSockOptInt(tcpip.KeepaliveCountOption, waits.KeepCount); terr != nil {
		ep.Abort()
		return nil, errors.New(terr.String())
	}
	return &agentConn{TCPConn: gonet.NewTCPConn(&wq, ep), ep: ep}, nil
}

// Buffers of one flow, each way. Few flows have the full size, which makes one
// stream fast; among many, each new one gets its share of bufferBudget, so that
// clients that do not read, or servers, cannot make us keep megabytes for each
// of MaxFlows. The way to the agent takes less than a millisecond: the smallest
// still carries tens of megabytes a second.
const (
	fullBuffer   = 2 << 20
	leastBuffer  = 32 << 10
	bufferBudget = 64 << 20
)

// bufferOf is the buffer of a flow that begins when there are n.
func bufferOf(n int) int64 {
	return min(fullBuffer, max(leastBuffer, bufferBudget/int64(max(n, 1))))
}

// maxSYNs bounds the SYNs that are remembered: one for each request that the
// forwarder may have in flight.
const maxSYNs = MaxFlows

// A synTable keeps the bytes of SYNs in flight: gVisor's requests do not show
// them, and an ICMP answer must quote their sequence number.
type synTable struct {
	mu sync.Mutex
	m  map[stack.TransportEndpointID][]byte
}

func (t *synTable) note(id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	th := pkt.TransportHeader().Slice()
	const synAck = 0x12
	if len(th) < 20 || th[13]&synAck != 0x02 {
		return
	}
	raw := append(append([]byte(nil), pkt.NetworkHeader().Slice()...), th...)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[stack.TransportEndpointID][]byte)
	}
	if len(t.m) < maxSYNs {
		t.m[id] = raw
	}
}

func (t *synTable) take(id stack.TransportEndpointID) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	raw := t.m[id]
	delete(t.m, id)
	return raw
}

// gates bound the connects in progress to one address and port.
type gates struct {
	mu  sync.Mutex
	max int
	m   map[netip.AddrPort]*gate
}

type gate struct {
	slots chan struct{}
	users int
}

func (g *gates) init(limit int) { g.max, g.m = limit, make(map[netip.AddrPort]*gate) }

// enter waits for a turn; leave must be called after a nil error.
func (g *gates) enter(ctx context.Context, dst netip.AddrPort) (leave func(), err error) {
	g.mu.Lock()
	w := g.m[dst]
	if w == nil {
		w = &gate{slots: make(chan struct{}, g.max)}
		g.m[dst] = w
	}
	w.users++
	g.mu.Unlock()
	out := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if w.users--; w.users == 0 {
			delete(g.m, dst)
		}
	}
	select {
	case w.slots <- struct{}{}:
		return func() { <-w.slots; out() }, nil
	case <-ctx.Done():
		out()
		return nil, ctx.Err()
	}
}

// timedOut reports a deadline of ours, and not the kernel's ETIMEDOUT, which
// says that the peer is dead.
func timedOut(err error) bool {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return false
	}
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// past is a deadline that interrupts a read which is under way.
var past = time.Unix(1, 0)

// lastWords sends a refusal to the client and closes: what the client still
// sends is read for a moment, since a reset would overtake the words.
func (s *Stack) lastWords(c stream, words []byte) {
	end := time.Now().Add(s.times.linger)
	_ = c.SetDeadline(end) // an error here or below leaves nothing to be said
	if _, err := c.Write(words); err == nil && c.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, c, maxLinger)
	}
	_ = c.Close()
}

// maxLinger is how much of a refused client's bytes is read and dropped.
const maxLinger = 1 << 20
