package dnsfilter

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"outcall/policy"
)

// ServeUDP answers one datagram that the agent sent from src to dst, and
// returns the reply, or nil where none is due: what is no question, and what
// is beyond MaxQuestions. It works on the caller's goroutine, at most
// AnswerTimeout long. msg is not kept.
func (f *Filter) ServeUDP(ctx context.Context, src, dst netip.AddrPort, msg []byte) (reply []byte) {
	select {
	case f.questions <- struct{}{}:
		defer func() { <-f.questions }()
	default:
		f.stats.dropped.Add(1)
		f.limits.hit("more than 1024 DNS questions at once")
		return nil
	}
	return f.serve(ctx, policy.UDP, src, dst, msg)
}

// ServeTCP answers questions on one connection until the agent closes it, is
// idle for TCPIdle, has asked MaxTCPQueries times, or ctx ends. It closes
// conn.
func (f *Filter) ServeTCP(ctx context.Context, conn net.Conn, src, dst netip.AddrPort) {
	defer conn.Close()
	select {
	case f.conns <- struct{}{}:
		defer func() { <-f.conns }()
	default:
		f.stats.dropped.Add(1)
		f.limits.hit("more than 64 DNS connections at once")
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for range MaxTCPQueries {
		// A deadline also bounds a client that sends a byte at a time, or never
		// reads. SetDeadline before the check: AfterFunc may have run already.
		if conn.SetDeadline(time.Now().Add(TCPIdle)) != nil || ctx.Err() != nil {
			return
		}
		msg, err := readFramed(conn, MaxQuery)
		if err != nil {
			return
		}
		reply := f.serve(ctx, policy.TCP, src, dst, msg)
		if reply == nil {
			return
		}
		if conn.SetDeadline(time.Now().Add(TCPIdle)) != nil || writeFramed(conn, reply) != nil {
			return
		}
	}
}

func (f *Filter) serve(ctx context.Context, proto policy.Proto, src, dst netip.AddrPort, msg []byte) []byte {
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	f.stats.queries.Add(1)
	f.stats.inFlight.Add(1)
	defer f.stats.inFlight.Add(-1)
	select {
	case f.turns <- struct{}{}:
		defer func() { <-f.turns }()
	case <-ctx.Done():
		return nil
	}
	q, err := parseQuery(msg)
	if err != nil {
		return f.malformed(ctx, proto, src, dst, &q, err)
	}
	a := &ask{name: q.name, qtype: q.qtype, shown: q.wire, src: src, dst: dst, proto: proto, turn: true}
	a.id, a.told = f.recent.join(recentKey{src, proto, q.id, q.name, q.qtype})
	a.process = f.attribute(ctx, proto, src, dst)
	return reply(&q, proto, f.answer(ctx, a))
}

// away gives the turn of an ask back while it waits for somebody else.
func (f *Filter) away(a *ask, wait func()) {
	if a.turn {
		<-f.turns
		defer func() { f.turns <- struct{}{} }()
	}
	wait()
}

// malformed refuses a message that is not one plain question. It is an
// attempt like any other and has its line.
func (f *Filter) malformed(ctx context.Context, proto policy.Proto, src, dst netip.AddrPort, q *question, err error) []byte {
	f.stats.malformed.Add(1)
	var r *refusal
	if !errors.As(err, &r) {
		return nil
	}
	f.stats.blocked.Add(1)
	f.cfg.Audit.Record(policy.Event{
		Time: f.clock(), Event: "verdict", Session: f.cfg.Who.Session, Agent: f.cfg.Who.Agent,
		ID: newID(), Layer: policy.LayerDNS.String(), Verdict: "deny", Reason: r.why, Structural: true,
		Query: q.name, Protocol: string(proto), Process: f.attribute(ctx, proto, src, dst),
	})
	return bare(q, r.rcode)
}

// bare is an answer that repeats nothing but id, opcode and flags.
func bare(q *question, rcode int) []byte {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{
		Id: q.id, Response: true, Opcode: int(q.opcode), RecursionDesired: q.rd, RecursionAvailable: true, Rcode: rcode,
	}}
	if rcode > 0xf {
		m.SetEdns0(MaxUDPReply, false) // carries the upper bits
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// reply writes the answer to the client's question.
func reply(q *question, proto policy.Proto, res *result) []byte {
	m := &dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id: q.id, Response: true, RecursionDesired: q.rd, RecursionAvailable: true, CheckingDisabled: q.cd, Rcode: res.rcode,
		},
		Compress: true,
		Question: []dns.Question{{Name: q.wire, Qtype: q.qtype, Qclass: dns.ClassINET}},
		Answer:   res.rrs,
	}
	if res.soa != nil {
		m.Ns = []dns.RR{res.soa}
	}
	if q.edns {
		m.SetEdns0(MaxUDPReply, q.do)
		if res.ede >= 0 {
			opt := m.IsEdns0()
			opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: uint16(res.ede), ExtraText: printable(res.edeText)})
		}
	}
	limit := dns.MaxMsgSize - 1
	if proto == policy.UDP {
		limit = min(max(int(q.size), dns.MinMsgSize), MaxUDPReply)
	}
	m.Truncate(limit)
	b, err := m.Pack()
	if err != nil || len(b) > limit {
		return bare(q, dns.RcodeServerFailure)
	}
	return b
}

// maxEDEText bounds the text of an extended error, so that a denial always
// fits into a UDP reply.
const maxEDEText = 200

// printable keeps what is safe to show on any terminal.
func printable(s string) string {
	b := []byte(s)
	if len(b) > maxEDEText {
		b = b[:maxEDEText]
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// newID returns the id of one question; it is a denial's id if it comes to
// that, at this layer's first word or at a later one.
func newID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "d-" + hex.EncodeToString(b[:])
}
