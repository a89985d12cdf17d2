package dnsfilter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/miekg/dns"

	"outcall/policy"
)

// A Query asks for a name's addresses on behalf of a flow.
type Query struct {
	Name    string          // as the client gave it
	Process *policy.Process // behind the flow; nil is hidden
	// Proxy says that the explicit proxy asks and the connect or request layer
	// said allow or provisional: a true dns block vetoes, and no dns allow is
	// needed. Leave it false where the word was open.
	Proxy bool
	// Keep is the address of an expired pin of Name, for a flow that is held:
	// it stays the name's even if the new answer lacks it.
	Keep netip.Addr
}

// An Answer is what a Query came to. Addrs are pinned to Name when it is
// returned.
type Answer struct {
	Name  string // as rules and pins spell it
	Addrs []netip.Addr
	// Denied says that the dns layer said no: then Outcome, Rule, Reason and
	// Structural are what the caller's audit line says.
	Denied     bool
	WouldDeny  bool // observe let a rule denial through
	Structural bool
	Rule       string // rule id or "default policy"; "" where no rule was asked
	Reason     string
	Outcome    policy.Outcome
	// Rcode is the DNS result; a name without addresses has NXDOMAIN or
	// NOERROR, and no addresses.
	Rcode int
}

// ErrName says that a name could never be asked: see Normalize.
var ErrName = errors.New("not a host name")

// Resolve judges and resolves a name as a question of the agent would be, and
// pins its addresses. It writes no audit line of its own: the attempt is the
// caller's. The error is or wraps ErrName, ErrNoUpstream, ErrTimeout,
// ErrUpstream, the pin table's or the kernel's; a denial is no error.
func (f *Filter) Resolve(ctx context.Context, q Query) (Answer, error) {
	name, ok := Normalize(q.Name)
	if !ok {
		return Answer{Denied: true, Structural: true, Reason: "not a host name"}, ErrName
	}
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	types := []uint16{typeA}
	if f.cfg.IPv6 {
		types = append(types, typeAAAA)
	}
	results := make([]*result, len(types))
	var wg sync.WaitGroup
	for i, t := range types {
		a := &ask{
			name: name, qtype: t, shown: dns.Fqdn(name), process: q.Process, proxy: q.Proxy, quiet: true,
			id: newID(), proto: policy.TCP,
		}
		if k := q.Keep.Unmap().WithZone(""); k.IsValid() && k.Is4() == (t == typeA) {
			a.keep = k
		}
		wg.Go(func() { results[i] = f.answer(ctx, a) })
	}
	wg.Wait()
	return merge(name, results)
}

// merge makes one answer of A and AAAA: what one of them has counts, and of
// failures the one that tells most.
func merge(name string, results []*result) (Answer, error) {
	var best *result
	var addrs []netip.Addr
	for _, r := range results {
		addrs = append(addrs, r.addrs...)
		if best == nil || r.better(best) {
			best = r
		}
	}
	ans := Answer{
		Name: name, Addrs: addrs, Denied: best.deny, WouldDeny: best.would, Structural: best.structural,
		Rule: best.rule, Reason: best.reason, Outcome: best.outcome, Rcode: best.rcode,
	}
	if best.err != nil {
		return ans, fmt.Errorf("resolve %s: %w", name, best.err)
	}
	return ans, nil
}

// better orders results: addresses, then a failure (a failed half must not
// look like an empty one: the name may have addresses there), then a
// denial that would hold for the other half, too, an empty answer, and a
// denial that may be of this type alone.
func (r *result) better(o *result) bool { return r.rank() > o.rank() }

func (r *result) rank() int {
	switch {
	case len(r.addrs) > 0:
		return 4
	case r.err != nil:
		return 3
	case r.deny && (r.structural || vetoes(r.outcome)):
		return 2
	case !r.deny:
		return 1
	}
	return 0
}
