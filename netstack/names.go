package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"outcall/netstack/dnsfilter"
)

// FilterNames lets flows ask the DNS filter.
type FilterNames struct{ Filter *dnsfilter.Filter }

// ServeUDP implements Names.
func (n FilterNames) ServeUDP(ctx context.Context, src, dst netip.AddrPort, msg []byte) []byte {
	return n.Filter.ServeUDP(ctx, src, dst, msg)
}

// ServeTCP implements Names.
func (n FilterNames) ServeTCP(ctx context.Context, conn net.Conn, src, dst netip.AddrPort) {
	n.Filter.ServeTCP(ctx, conn, src, dst)
}

// Resolve implements Names. Whatever is not an address is told in words: a
// resolver that fails is no reason to break off a flow without one.
func (n FilterNames) Resolve(ctx context.Context, q Question) (Answer, error) {
	a, err := n.Filter.Resolve(ctx, dnsfilter.Query{Name: q.Name, Process: q.Process, Proxy: !q.NeedAllow, Keep: q.Keep})
	out := Answer{Addrs: a.Addrs, Outcome: a.Outcome, Denied: a.Denied, Reason: a.Reason, Timeout: errors.Is(err, dnsfilter.ErrTimeout)}
	if err != nil && !a.Denied && len(a.Addrs) == 0 {
		out.Reason = err.Error()
		return out, err
	}
	if out.Reason == "" && len(a.Addrs) == 0 {
		out.Reason = "the name has no address"
	}
	return out, nil
}
