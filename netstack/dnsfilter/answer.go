package dnsfilter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"outcall/netstack/pin"
	"outcall/policy"
)

const (
	typeA    = dns.TypeA
	typeAAAA = dns.TypeAAAA
	// keptTTL is the TTL of an address that the answer no longer has.
	keptTTL = 60 * time.Second
)

// A result is what an ask comes to.
type result struct {
	verdict
	id       string
	rcode    int
	rrs      []dns.RR // with the name that was asked as owner, TTLs bounded
	addrs    []netip.Addr
	ttl      time.Duration
	soa      *dns.SOA // goes into the authority section of a negative answer
	ede      int      // extended error code, -1: none
	edeText  string
	cached   bool
	server   string
	chain    []string
	stripped []string // addresses that were taken out, with the reason
	spent    bool     // a budget is used up
	err      error    // of the upstream, the pin table or the kernel
}

// answer carries an ask through all steps. It always has a result; whatever
// goes wrong, panics included, is a failure or a denial.
func (f *Filter) answer(ctx context.Context, a *ask) (res *result) {
	defer func() {
		if p := recover(); p != nil {
			res = f.failed(a, fmt.Errorf("internal error: %v", p))
		}
	}()
	for range maxRejudge {
		r := f.rules()
		if r == nil {
			return f.deny(a, structural("no rules are loaded"))
		}
		res = f.once(ctx, r, a)
		if !errors.Is(res.err, pin.ErrStale) {
			return res
		}
		// A reload came between judging and pinning: judge again.
	}
	return f.failed(a, errors.New("the rules were replaced each time the answer was to be pinned"))
}

// once judges and answers under one rule set.
func (f *Filter) once(ctx context.Context, r *ruleset, a *ask) *result {
	if d, why := f.fixedName(a); d != nil {
		f.tell(a, verdict{reason: why})
		return f.positive(a, d, verdict{})
	} else if why != "" {
		return f.deny(a, structural(why))
	}
	facts := a.facts(f.cfg.Who, a.qtype)
	own := f.pinnedPTR(a)
	v := f.judge(r, a, facts)
	if own != nil && !vetoes(v.outcome) {
		// What is pinned is no secret from the agent: it asked for it.
		v = verdict{reason: "a name that is pinned at the address"}
	}
	if v.deny {
		return f.deny(a, v)
	}
	if !f.tell(a, v) {
		return f.deny(a, structural(policy.NoAudit))
	}
	d, cached, err := own, false, error(nil)
	if d == nil {
		d, cached, err = f.source(ctx, a)
	}
	if over, ok := errors.AsType[*overBudget](err); ok {
		return f.spent(a, over)
	}
	if err != nil {
		return f.failed(a, err)
	}
	res := f.finish(ctx, r, a, facts, d, v)
	res.cached, res.server, res.chain = cached, d.server, d.chain
	return res
}

// source finds the data for an allowed question.
func (f *Filter) source(ctx context.Context, a *ask) (_ *data, cached bool, err error) {
	if a.qtype == typeAAAA && !f.cfg.IPv6 {
		return &data{}, false, nil
	}
	if d := f.hostEntry(a); d != nil {
		return d, false, nil
	}
	if f.synth != nil {
		return f.ownAddrs(a.qtype, f.synth.of(a.name)), false, nil
	}
	k := cacheKey{a.name, a.qtype}
	if d := f.cache.get(k); d != nil {
		return d, true, nil
	}
	if !a.dry || a.counts {
		if err := f.budgets.take(a.name); err != nil {
			return nil, false, err
		}
	}
	var d *data
	f.away(a, func() { d, err = f.up.lookup(ctx, k, func(d *data) { f.cache.put(k, d) }) })
	if err != nil || d.rcode != dns.RcodeSuccess {
		f.budgets.failed(a.name)
	}
	return d, false, err
}

// finish cleans what the source has, pins it and makes the result.
func (f *Filter) finish(ctx context.Context, r *ruleset, a *ask, facts *policy.Facts, d *data, v verdict) *result {
	if w, hit := f.vetoChain(r, a, links(a, d)); hit {
		if w.deny {
			return f.deny(a, w)
		}
		if !f.tell(a, w) {
			return f.deny(a, structural(policy.NoAudit))
		}
		v = w
	}
	switch a.qtype {
	case typeA, typeAAAA:
		return f.addresses(ctx, r, a, facts, d, v)
	case dns.TypeHTTPS, dns.TypeSVCB:
		return f.services(a, d, v)
	}
	return f.positive(a, d, v)
}

// links are the names that an answer leads through: the chain, and where the
// CNAME itself was asked for, what it points to.
func links(a *ask, d *data) []string {
	if a.qtype != dns.TypeCNAME {
		return d.chain
	}
	var out []string
	for _, rr := range d.rrs {
		if c, ok := rr.(*dns.CNAME); ok {
			out = append(out, strings.ToLower(strings.TrimSuffix(c.Target, ".")))
		}
	}
	return out
}

// addresses filters, pins and answers A and AAAA.
func (f *Filter) addresses(ctx context.Context, r *ruleset, a *ask, facts *policy.Facts, d *data, v verdict) *result {
	addrs, ttl := addrsOf(d.rrs), d.left(f.clock())
	if a.keep.IsValid() && !slices.Contains(addrs, a.keep) {
		addrs = append(addrs, a.keep)
		if len(d.rrs) == 0 {
			ttl = keptTTL
		}
	}
	var stripped []string
	b := pin.Binding{Generation: r.generation, Name: a.name, TTL: ttl, Facts: facts, Proxy: a.proxy, Refused: f.grantRefused}
	if a.qtype == typeAAAA && len(addrs) > 0 && d.server != "" {
		f.away(a, func() { f.LearnNAT64(ctx) })
	}
	var open []netip.Addr
	for _, addr := range addrs {
		ok, why := f.open(r, a.name, facts, addr)
		if !ok {
			stripped = append(stripped, fmt.Sprintf("%v: %s", addr, why))
			continue
		}
		open = append(open, addr)
		b.Addrs = append(b.Addrs, pin.Addr{Addr: addr, Grants: r.grants(facts, addr)})
	}
	if len(open) == 0 && len(stripped) > 0 {
		return f.restricted(a, stripped)
	}
	if len(b.Addrs) > 0 && !a.dry {
		var err error
		f.away(a, func() { err = f.cfg.Pins.Add(ctx, b) })
		if err != nil {
			return f.failed(a, err)
		}
	}
	res := f.positive(a, d, v)
	res.addrs, res.stripped, res.ttl = open, stripped, ttl
	res.rrs = slices.DeleteFunc(res.rrs, func(rr dns.RR) bool {
		addr, ok := addrOf(rr)
		return !ok || !slices.Contains(open, addr)
	})
	return res
}

// services answers HTTPS and SVCB.
func (f *Filter) services(a *ask, d *data, v verdict) *result {
	owner := a.name
	if n := len(d.chain); n > 0 {
		owner = d.chain[n-1]
	}
	pinned := func(addr netip.Addr) bool { return f.cfg.Pins.Live(a.name, addr) }
	clean := *d
	clean.rrs = nil
	for _, rr := range d.rrs {
		if rr = cleanService(rr, owner, a.name, pinned); rr != nil {
			clean.rrs = append(clean.rrs, rr)
		}
	}
	return f.positive(a, &clean, v)
}

// positive answers with the data as it is: records, NODATA or NXDOMAIN.
func (f *Filter) positive(a *ask, d *data, v verdict) *result {
	res := &result{verdict: v, id: a.id, rcode: d.rcode, ede: -1, ttl: d.left(f.clock())}
	ttl := uint32(res.ttl / time.Second)
	for _, rr := range d.rrs {
		rr = dns.Copy(rr)
		rr.Header().Name, rr.Header().Ttl = a.shown, ttl
		res.rrs = append(res.rrs, rr)
	}
	if len(d.rrs) == 0 {
		res.soa = negativeSOA(a, d, ttl)
	}
	return res
}

// negativeSOA passes the zone's SOA on where it fits the name that the client
// asked for, and has one of our own otherwise: the CNAMEs before it are not
// shown.
func negativeSOA(a *ask, d *data, ttl uint32) *dns.SOA {
	if d.soa == nil || len(d.chain) > 0 {
		return ownSOA(ttl)
	}
	soa := *d.soa
	soa.Hdr.Ttl, soa.Minttl = ttl, min(soa.Minttl, ttl)
	return &soa
}

// ownSOA is the SOA of answers that are ours.
func ownSOA(ttl uint32) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: "outcall.invalid.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "ns.outcall.invalid.", Mbox: "hostmaster.outcall.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

// denialTTL is short, so that a name works soon after a rule allows it.
const denialTTL = 5

// deny records a denial and makes its answer.
func (f *Filter) deny(a *ask, v verdict) *result {
	f.tell(a, v)
	res := &result{verdict: v, id: a.id, rcode: dns.RcodeNameError, soa: ownSOA(denialTTL), ede: edeBlocked}
	if v.nodata {
		res.rcode = dns.RcodeSuccess
	}
	why := v.rule
	if why == "" {
		why = v.reason
	}
	res.edeText = fmt.Sprintf("outcall: %s %s", why, a.id)
	return res
}

const edeBlocked = int(dns.ExtendedErrorCodeBlocked)

// restricted refuses an answer of which no address was left.
func (f *Filter) restricted(a *ask, stripped []string) *result {
	v := structural("every address of the answer is restricted: " + strings.Join(stripped, ", "))
	res := f.deny(a, v)
	res.rcode, res.soa, res.stripped = dns.RcodeServerFailure, nil, stripped
	res.edeText = fmt.Sprintf("outcall: restricted address %s", a.id)
	return res
}

// spent refuses a question whose domain's budget is used up. It says SERVFAIL:
// the name may well exist, and can be asked for again in a minute.
func (f *Filter) spent(a *ask, over *overBudget) *result {
	f.limits.hit("DNS budget: " + over.Error())
	res := f.deny(a, structural(over.Error()))
	res.spent = true
	res.rcode, res.soa = dns.RcodeServerFailure, nil
	res.edeText = fmt.Sprintf("outcall: too many questions below %s %s", over.domain, a.id)
	return res
}

// failed makes the answer for what is nobody's denial: an upstream that
// fails. A full pin table and a kernel that refuses are ours, and denials.
func (f *Filter) failed(a *ask, err error) *result {
	res := &result{id: a.id, rcode: dns.RcodeServerFailure, err: err, ede: -1}
	switch {
	case errors.Is(err, pin.ErrStale):
		return res // the caller judges again
	// The resolvers' addresses are the host's: not told inside.
	case errors.Is(err, ErrNoUpstream):
		res.ede, res.edeText = int(dns.ExtendedErrorCodeNoReachableAuthority), "outcall: "+ErrNoUpstream.Error()
	case errors.Is(err, ErrTimeout):
		res.ede, res.edeText = int(dns.ExtendedErrorCodeNoReachableAuthority), "outcall: "+ErrTimeout.Error()
	case errors.Is(err, ErrUpstream):
		res.ede, res.edeText = int(dns.ExtendedErrorCodeNetworkError), "outcall: "+ErrUpstream.Error()
	default:
		if errors.Is(err, pin.ErrFull) {
			f.limits.hit("the session's pin table is full")
		}
		v := structural(err.Error())
		f.tell(a, v)
		res.verdict = v
		res.ede, res.edeText = int(dns.ExtendedErrorCodeOther), "outcall: the answer could not be pinned "+a.id
	}
	f.stats.failed.Add(1)
	return res
}

// addrsOf returns the addresses of A and AAAA records, at most MaxAddrs.
func addrsOf(rrs []dns.RR) (out []netip.Addr) {
	for _, rr := range rrs {
		if a, ok := addrOf(rr); ok && !slices.Contains(out, a) && len(out) < MaxAddrs {
			out = append(out, a)
		}
	}
	return out
}

func addrOf(rr dns.RR) (netip.Addr, bool) {
	var ip []byte
	switch x := rr.(type) {
	case *dns.A:
		ip = x.A
	case *dns.AAAA:
		ip = x.AAAA
	}
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}
