package policy

import (
	"net/netip"
	"slices"

	"cel.dev/cel-go/common/types"
)

// HostName is the name of the host's own loopback, reached port by port and
// only by a rule that names it.
const HostName = "host.outcall.internal"

// opens reports whether an allow rule that is true or waiting over the facts
// lets a flow to an address of a special class. The house's rule: private
// addresses are opened to a name by allow_private_ips; restricted ones, and
// private ones without a name, by a condition that names the address or a
// network wholly inside the special range (with a port, where restricted).
func (r *Rule) opens(f *Facts, addr netip.Addr, class Class, h *Host) bool {
	switch class {
	case Global:
		return true
	case Private:
		return r.AllowPrivate && f.name != "" || r.namesAddr(f, addr, class, h)
	case Restricted:
		return r.namesAddr(f, addr, class, h) && r.namesPort(f)
	}
	return f.name == HostName && r.namesHost(f) && r.namesPort(f)
}

// namesAddr reports whether the rule stands on a literal address or network
// that holds addr and lies wholly inside a special range of that class or a
// stricter one.
func (r *Rule) namesAddr(f *Facts, addr netip.Addr, class Class, h *Host) bool {
	if r.c.ip.opaque || !r.standsOn(f, NetworkIP, types.String("")) {
		return false
	}
	addr = addr.Unmap().WithZone("")
	for _, lit := range r.c.ip.lits {
		if !lit.Contains(addr) {
			continue
		}
		ok := false
		eachRange(addr, h, func(rc rangeClass) {
			ok = ok || rc.class >= class && inside(lit, rc.prefix)
		})
		if ok {
			return true
		}
	}
	return false
}

// namesPort reports whether the rule stands on ports that it names one by
// one: egress.ports, or network.port compared by == and in alone.
func (r *Rule) namesPort(f *Facts) bool {
	if len(r.Ports) > 0 {
		return true
	}
	p := r.c.port
	if p.opaque || p.ranged || len(p.consts) == 0 {
		return false
	}
	// All ports that are not named are alike: one stands for the rest.
	other := int64(-1)
	for slices.Contains(p.consts, other) {
		other--
	}
	return r.standsOn(f, NetworkPort, types.Int(other))
}

// namesHost reports whether the rule stands on the name HostName. Where the
// name is known only later, the later layer asks again.
func (r *Rule) namesHost(f *Facts) bool {
	if !slices.Contains(r.c.strings, HostName) {
		return false
	}
	g := f.Clone()
	for _, x := range []Field{DNSQuery, NetworkHostname, HTTPHost, TLSSNI} {
		if g.state[x] == Known {
			g.val[x] = types.String("")
		}
	}
	v, _ := eval(&r.c.parts[0], (*allowView)(g))
	return v != yes
}

// standsOn reports whether the rule would not match, now or later, if the
// field had a value that it does not name.
func (r *Rule) standsOn(f *Facts, x Field, other any) bool {
	g := f.Clone()
	g.set(x, other)
	v, unknown := eval(&r.c.parts[0], (*allowView)(g))
	return v == no || v == failed || v == hidden && g.only(unknown, Later) == 0
}

// onLiteral reports whether a rule that is true over the facts is true on a
// literal network.ip alone, whatever the names are.
func (r *Rule) onLiteral(f *Facts, addr netip.Addr) bool {
	if r.c.ip.opaque || len(r.c.ip.lits) == 0 || !addr.IsValid() {
		return false
	}
	addr = addr.Unmap().WithZone("")
	if !slices.ContainsFunc(r.c.ip.lits, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return false
	}
	g := f.Clone()
	g.Hide(NetworkHostname, Hidden)
	g.Hide(HTTPHost, Hidden)
	v, _ := eval(&r.c.parts[0], (*allowView)(g))
	return v == yes && r.standsOn(f, NetworkIP, types.String(""))
}
