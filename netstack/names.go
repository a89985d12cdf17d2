package netstack

import (
	"context"
	"errors"

	"outcall/netstack/dnsfilter"
)

// FilterNames is a DNS filter as flows use it.
type FilterNames struct{ *dnsfilter.Filter }

// Resolve implements Names.
func (n FilterNames) Resolve(ctx context.Context, q Question) (Answer, error) {
	a, err := n.Filter.Resolve(ctx, dnsfilter.Query{Name: q.Name, Process: q.Process, Proxy: !q.NeedAllow, Keep: q.Keep})
	out := Answer{Addrs: a.Addrs, Outcome: a.Outcome, Denied: a.Denied, WouldDeny: a.WouldDeny,
		Structural: a.Structural, Reason: a.Reason}
	switch {
	case a.Denied:
		// Also for what is no host name: a denial, which err repeats.
		if out.Outcome.Reason == "" {
			out.Outcome.Reason = a.Reason
		}
		return out, nil
	case errors.Is(err, dnsfilter.ErrTimeout):
		out.Timeout, out.Reason = true, "no resolver answered in time"
		return out, nil
	case err != nil:
		out.Reason = err.Error()
		return out, nil
	case len(a.Addrs) == 0 && out.Reason == "":
		out.Reason = "the name has no address"
	}
	return out, nil
}
