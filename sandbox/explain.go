package sandbox

import (
	"net/netip"

	"outcall/netstack"
	"outcall/netstack/egress"
	"outcall/policy"
)

// CannotGoOut is policy.ExplainQuery's for rules that no session has loaded: it
// tries what a session that began here and now would, with the caller's own
// proxy variables.
func CannotGoOut(env []string) (func(policy.Proto, string, netip.AddrPort) string, error) {
	proxy, err := chooseProxy("", env)
	if err != nil {
		return nil, err
	}
	d, err := egress.New(egress.Config{Proxy: proxy.url, NoProxy: proxy.except})
	if err != nil {
		return nil, err
	}
	return func(p policy.Proto, name string, dst netip.AddrPort) string {
		if !dst.IsValid() {
			return ""
		}
		return netstack.CannotGoOut(d, p, name, dst)
	}, nil
}
