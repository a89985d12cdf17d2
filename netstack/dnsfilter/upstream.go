package dnsfilter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// tryTimeout bounds one exchange with one server.
	tryTimeout = 2500 * time.Millisecond
	// rounds is how often the list of servers is gone through.
	rounds = 2
	// ednsSize is the UDP payload that we offer upstream: what travels without
	// fragments everywhere (DNS flag day 2020).
	ednsSize = 1232
)

// Errors of the upstream side.
var (
	// ErrNoUpstream says that no upstream resolver is configured.
	ErrNoUpstream = errors.New("no upstream resolver")
	// ErrUpstream says that the resolvers answered, but with a failure.
	ErrUpstream = errors.New("upstream resolver failed")
	// ErrTimeout says that no resolver answered in time.
	ErrTimeout = errors.New("upstream resolver time-out")
)

// An Exchanger carries one question to one server and brings a reply back.
// Over UDP it must hand each datagram from exactly that server to accept and
// go on waiting while accept says no; over TCP it returns the first message.
// It returns when ctx ends.
type Exchanger interface {
	Exchange(ctx context.Context, server netip.AddrPort, tcp bool, query []byte, accept func(reply []byte) bool) ([]byte, error)
}

// upstream asks the resolvers of the host. Equal questions that are under way
// share one exchange.
type upstream struct {
	stopped context.Context
	clock   func() time.Time
	ex      Exchanger
	servers []*server
	slots   chan struct{}
	good    atomic.Int32 // index of the server that answered last

	mu      sync.Mutex
	flights map[cacheKey]*flight
}

type server struct {
	addr         netip.AddrPort
	sent, failed atomic.Int64
	rtt          atomic.Int64 // nanoseconds, of the last good exchange
}

// A flight is one exchange that several questions wait for.
type flight struct {
	done chan struct{}
	d    *data
	err  error
}

func newUpstream(stopped context.Context, clock func() time.Time, ex Exchanger, servers []netip.AddrPort) *upstream {
	u := &upstream{
		stopped: stopped, clock: clock, ex: ex,
		slots: make(chan struct{}, MaxUpstream), flights: map[cacheKey]*flight{},
	}
	for _, s := range servers {
		u.servers = append(u.servers, &server{addr: s})
	}
	return u
}

// lookup asks upstream, or joins an exchange for the same question. The first
// asker does the work, on a context of the filter: that it goes away must not
// fail the others. keep is called once for an answer, before anyone gets it.
func (u *upstream) lookup(ctx context.Context, k cacheKey, keep func(*data)) (*data, error) {
	u.mu.Lock()
	fl, joined := u.flights[k]
	if !joined {
		fl = &flight{done: make(chan struct{}), err: ErrUpstream}
		u.flights[k] = fl
	}
	u.mu.Unlock()
	if !joined {
		u.fly(k, fl, keep)
	}
	select {
	case <-fl.done:
		return fl.d, fl.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
	}
}

func (u *upstream) fly(k cacheKey, fl *flight, keep func(*data)) {
	ctx, cancel := context.WithTimeout(u.stopped, AnswerTimeout)
	defer cancel()
	defer func() {
		u.mu.Lock()
		delete(u.flights, k)
		u.mu.Unlock()
		close(fl.done)
	}()
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		fl.err = fmt.Errorf("%w: %d exchanges are under way", ErrTimeout, MaxUpstream)
		return
	}
	if fl.d, fl.err = u.ask(ctx, k); fl.err == nil {
		keep(fl.d)
	}
}

// ask goes through the servers, the last good one first, until one answers.
func (u *upstream) ask(ctx context.Context, k cacheKey) (*data, error) {
	if len(u.servers) == 0 {
		return nil, ErrNoUpstream
	}
	first := int(u.good.Load())
	var last error
	for try := range rounds * len(u.servers) {
		n := (first + try) % len(u.servers)
		d, err := u.try(ctx, u.servers[n], k)
		if err == nil {
			u.good.Store(int32(n))
			return d, nil
		}
		if last == nil || !errors.Is(last, ErrUpstream) {
			last = err // an answer tells more than a time-out
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// try asks one server, by UDP and then, where the reply was cut or its letter
// case does not prove that it answers us, by TCP.
func (u *upstream) try(ctx context.Context, s *server, k cacheKey) (_ *data, err error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	s.sent.Add(1)
	start := u.clock()
	defer func() {
		if err != nil {
			s.failed.Add(1)
			err = fmt.Errorf("ask %v: %w", s.addr, err)
		} else {
			s.rtt.Store(int64(u.clock().Sub(start)))
		}
	}()
	q := compose(k, true)
	m, err := u.exchange(ctx, s.addr, false, q)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		// A server that does not know EDNS (RFC 6891, 7).
		q = compose(k, false)
		m, err = u.exchange(ctx, s.addr, false, q)
	}
	if err == nil && (m.Truncated || !q.sameCase(m)) {
		m, err = u.exchange(ctx, s.addr, true, q)
	}
	if err != nil {
		return nil, err
	}
	d, err := digest(k, m)
	if err != nil {
		return nil, err
	}
	d.born, d.server = u.clock(), s.addr.String()
	return d, nil
}

func (u *upstream) exchange(ctx context.Context, addr netip.AddrPort, tcp bool, q *asked) (*dns.Msg, error) {
	raw, err := u.ex.Exchange(ctx, addr, tcp, q.wire, func(b []byte) bool { return q.match(b) != nil })
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", ErrTimeout, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	m := q.match(raw)
	if m == nil {
		return nil, fmt.Errorf("%w: the reply does not answer the question", ErrUpstream)
	}
	return m, nil
}

// asked is a question as we composed it.
type asked struct {
	id    uint16
	name  string // with 0x20 letter case and trailing dot
	qtype uint16
	wire  []byte
}

// compose writes the upstream question. Nothing in it but name and type comes
// from the client, and of the name not even the letter case (the 0x20 bits
// are ours, to make forged replies harder).
func compose(k cacheKey, edns bool) *asked {
	a := &asked{id: dns.Id(), name: dns.Fqdn(mixCase(k.name)), qtype: k.qtype}
	m := &dns.Msg{
		MsgHdr:   dns.MsgHdr{Id: a.id, RecursionDesired: true},
		Question: []dns.Question{{Name: a.name, Qtype: k.qtype, Qclass: dns.ClassINET}},
	}
	if edns {
		m.SetEdns0(ednsSize, false)
	}
	// A normalised name always packs; an empty wire fails the exchange.
	a.wire, _ = m.Pack()
	return a
}

// mixCase sets the letter case at random (draft-vixie-dnsext-dns0x20).
func mixCase(name string) string {
	b := []byte(name)
	var bits uint16
	for i, c := range b {
		if i%16 == 0 {
			bits = dns.Id() // from crypto/rand
		}
		if c >= 'a' && c <= 'z' && bits>>(i%16)&1 == 1 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// match parses a reply if it answers a: same id, one question with the same
// name in any letter case, type and class. It returns nil otherwise.
func (a *asked) match(raw []byte) *dns.Msg {
	m := new(dns.Msg)
	if len(raw) < headerLen || m.Unpack(raw) != nil {
		return nil
	}
	if !m.Response || m.Opcode != dns.OpcodeQuery || m.Id != a.id || len(m.Question) != 1 {
		return nil
	}
	q := m.Question[0]
	if q.Qtype != a.qtype || q.Qclass != dns.ClassINET || !strings.EqualFold(q.Name, a.name) {
		return nil
	}
	return m
}

// sameCase reports whether the reply echoes our letter case. A server that
// does not is asked again by TCP, where forging needs the connection.
func (a *asked) sameCase(m *dns.Msg) bool { return m.Question[0].Name == a.name }
