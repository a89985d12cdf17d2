package netstack

import "outcall/policy"

// contentOf is what the bytes of a flow turned out to be, for its end line:
// the layer that was judged last, and the SNI of a ClientHello. It is flow or
// connect where they were not looked at. A client that ends without a byte has
// sent what is neither TLS nor HTTP: raw.
func (f *flow) contentOf() (layer, sni string) {
	steps := f.judged()
	if len(steps) == 0 {
		return "", ""
	}
	last := steps[len(steps)-1]
	if last.layer == policy.LayerHello {
		sni, _ = last.facts.Value(policy.TLSSNI).(string)
	}
	return last.layer.String(), sni
}
