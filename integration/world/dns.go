package world

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Records are what the resolver answers for one name.
type Records struct {
	Addrs []netip.Addr // A and AAAA
	CNAME string
	Extra []string // more records in zone file form, without owner: "TXT hello"
	// TTL of the answers in seconds; negative means a random one.
	TTL int
	// Func, if set, answers instead: n counts this name's questions from 0.
	Func func(n int, q dns.Question) []dns.RR
}

// A Question is one that reached the resolver.
type Question struct {
	Name   string // as asked, lower case, without the trailing dot
	Type   string
	Server netip.Addr // the address it was sent to
	TCP    bool
	Msg    *dns.Msg
}

// A DNS is the authoritative resolver of the whole world. It answers at every
// address, so that a question to any server gets one and is seen.
type DNS struct {
	mu    sync.Mutex
	names map[string]Records
	asked map[string]int
	log   []Question

	servers []*dns.Server
	done    sync.WaitGroup
}

// Set gives a name its records; it replaces what was there.
func (d *DNS) Set(name string, r Records) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[canonical(name)] = r
}

// Log returns the questions so far, the oldest first.
func (d *DNS) Log() []Question {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Question(nil), d.log...)
}

// Asked tells whether the resolver has seen a question whose name contains s.
func (d *DNS) Asked(s string) bool {
	for _, q := range d.Log() {
		if strings.Contains(q.Name, canonical(s)) {
			return true
		}
	}
	return false
}

func canonical(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

func newDNS(internet *place) (*DNS, error) {
	d := &DNS{names: map[string]Records{}, asked: map[string]int{}}
	err := internet.do(func() error {
		for _, family := range []string{"udp4", "udp6"} {
			pc, err := listenUDP(family, 53)
			if err != nil {
				return err
			}
			d.servers = append(d.servers, &dns.Server{PacketConn: pc, Handler: d})
		}
		ln, err := net.Listen("tcp", ":53")
		if err != nil {
			return err
		}
		d.servers = append(d.servers, &dns.Server{Listener: ln, Handler: d})
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, s := range d.servers {
		// A miss of MsgAcceptFunc would hide strange questions from the log.
		s.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		d.done.Go(func() { s.ActivateAndServe() })
		<-started
	}
	return d, nil
}

func (d *DNS) close() error {
	var errs []error
	for _, s := range d.servers {
		errs = append(errs, s.ShutdownContext(context.Background()))
	}
	d.done.Wait()
	return errors.Join(errs...)
}

// ServeDNS answers one question and logs it.
func (d *DNS) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	if len(m.Question) != 1 {
		w.WriteMsg(new(dns.Msg).SetRcodeFormatError(m))
		return
	}
	q := m.Question[0]
	local, _ := netip.ParseAddrPort(w.LocalAddr().String())
	name := canonical(q.Name)

	d.mu.Lock()
	_, tcp := w.LocalAddr().(*net.TCPAddr)
	d.log = append(d.log, Question{Name: name, Type: dns.TypeToString[q.Qtype], Server: local.Addr().Unmap(), TCP: tcp, Msg: m.Copy()})
	answer, known := d.answer(name, q)
	d.mu.Unlock()

	r := new(dns.Msg).SetReply(m)
	r.RecursionAvailable = true
	rand.Shuffle(len(answer), func(i, j int) {
		// A CNAME stays in front of what it leads to.
		if answer[i].Header().Rrtype != dns.TypeCNAME && answer[j].Header().Rrtype != dns.TypeCNAME {
			answer[i], answer[j] = answer[j], answer[i]
		}
	})
	r.Answer = answer
	if !known {
		r.Rcode = dns.RcodeNameError
	}
	if len(answer) == 0 {
		soa, _ := dns.NewRR("test. 60 IN SOA ns.test. host.test. 1 60 60 60 60")
		r.Ns = []dns.RR{soa}
	}
	if !tcp {
		size := dns.MinMsgSize
		if o := m.IsEdns0(); o != nil {
			size = int(o.UDPSize())
		}
		r.Truncate(size)
	}
	w.WriteMsg(r)
}

// answer is called with mu held.
func (d *DNS) answer(name string, q dns.Question) (out []dns.RR, known bool) {
	rec, known := d.names[name]
	n := d.asked[name]
	d.asked[name]++
	if rec.Func != nil {
		return rec.Func(n, q), true
	}
	ttl := uint32(rec.TTL)
	if rec.TTL < 0 {
		ttl = 1 + rand.Uint32N(3600)
	}
	hdr := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
	}
	if rec.CNAME != "" {
		out = append(out, &dns.CNAME{Hdr: hdr(dns.TypeCNAME), Target: dns.Fqdn(rec.CNAME)})
		if q.Qtype == dns.TypeCNAME {
			return out, true
		}
		q.Name = dns.Fqdn(rec.CNAME)
		more, _ := d.answer(canonical(rec.CNAME), q)
		return append(out, more...), true
	}
	for _, a := range rec.Addrs {
		switch {
		case a.Is4() && q.Qtype == dns.TypeA:
			out = append(out, &dns.A{Hdr: hdr(dns.TypeA), A: a.AsSlice()})
		case a.Is6() && q.Qtype == dns.TypeAAAA:
			out = append(out, &dns.AAAA{Hdr: hdr(dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	for _, text := range rec.Extra {
		rr, err := dns.NewRR(q.Name + " 60 IN " + text)
		if err == nil && rr != nil && (rr.Header().Rrtype == q.Qtype || q.Qtype == dns.TypeANY) {
			rr.Header().Ttl = ttl
			out = append(out, rr)
		}
	}
	return out, known
}
