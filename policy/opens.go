package policy

import (
	"net/netip"
	"slices"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// HostName is the name of the host's own loopback, reached port by port and
// only by a rule that names it.
const HostName = "host.outcall.internal"

// opens tells whether an allow rule lets a flow to an address of a special
// class. The house's rule: private addresses are opened to a name by
// allow_private_ips; restricted ones, and private ones without a name, by a
// condition that names the address or a network wholly inside the special
// range (with a port, where restricted).
//
// The answer is three-valued, as conditions are: with more known it can go
// from waiting to yes or no, never from one of these to the other. So an
// address is open at a later layer only if no earlier one has said no, and the
// ways to a target (transparent, through the proxy) agree.
func (r *Rule) opens(f *Facts, addr netip.Addr, class Class, h *Host) (truth, FieldSet) {
	switch {
	case class == Global, class == Private && r.AllowPrivate && f.name != "":
		return yes, 0
	case class == Never:
		if f.name != HostName || !slices.Contains(r.c.strings, HostName) {
			return no, 0
		}
		return both(r.namesHost, r.namesPort, f)
	case r.c.ip.opaque || !r.holds(addr, class, h):
		return no, 0
	case class == Private:
		return r.namesAddr(f)
	}
	return both(r.namesAddr, r.namesPort, f)
}

// both is the three-valued and.
func both(a, b func(*Facts) (truth, FieldSet), f *Facts) (truth, FieldSet) {
	v, waits := a(f)
	if v == no {
		return no, 0
	}
	w, more := b(f)
	switch {
	case w == no:
		return no, 0
	case v == waiting || w == waiting:
		return waiting, waits | more
	}
	return yes, 0
}

// mayOpen is opens for whole ranges of facts: it is true wherever opens is for
// some of them.
func (r *Rule) mayOpen(name string, addr netip.Addr, class Class, h *Host) bool {
	switch {
	case class == Global:
		return true
	case class == Never:
		return name == HostName && slices.Contains(r.c.strings, HostName)
	case class == Private && r.AllowPrivate && name != "":
		return true
	}
	return r.holds(addr, class, h)
}

// namesAddr tells whether the rule stands on its literal addresses.
func (r *Rule) namesAddr(f *Facts) (truth, FieldSet) {
	return r.standsOn(f, NetworkIP, types.String(""))
}

// holds reports whether a literal of the rule holds the address and lies
// wholly inside a special range of that class or a stricter one.
func (r *Rule) holds(addr netip.Addr, class Class, h *Host) bool {
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

// namesPort tells whether the rule stands on ports that it names one by one:
// egress.ports, or network.port compared by == and in alone.
func (r *Rule) namesPort(f *Facts) (truth, FieldSet) {
	if len(r.Ports) > 0 {
		return yes, 0
	}
	p := r.c.port
	if p.opaque || p.ranged || len(p.consts) == 0 {
		return no, 0
	}
	// All ports that are not named are alike: one stands for the rest.
	other := int64(-1)
	for slices.Contains(p.consts, other) {
		other--
	}
	return r.standsOn(f, NetworkPort, types.Int(other))
}

// namesHost tells whether the rule stands on the name that the flow has.
func (r *Rule) namesHost(f *Facts) (truth, FieldSet) {
	g := f.Clone()
	for _, x := range []Field{DNSQuery, NetworkHostname, HTTPHost, TLSSNI} {
		if g.state[x] == Known {
			g.put(x, Known, types.String(""))
		}
	}
	return r.without(g)
}

// standsOn tells whether a rule is true because of a field: true whatever the
// bytes say, but not with a value that the rule does not name; or else not
// true over these facts with such a value.
func (r *Rule) standsOn(f *Facts, x Field, other ref.Val) (truth, FieldSet) {
	blind := f.blind()
	if v, _ := r.c.parts[0].eval(blind, false); v == yes {
		blind.put(x, Known, other)
		if v, _ = r.c.parts[0].eval(blind, false); v != yes {
			return yes, 0
		}
	}
	g := f.Clone()
	g.put(x, Known, other)
	return r.without(g)
}

// without turns the answer over facts without the thing that is asked for
// into the answer whether the rule stands on it.
func (r *Rule) without(f *Facts) (truth, FieldSet) {
	v, unknown := r.c.parts[0].eval(f, false)
	switch v {
	case no:
		return yes, 0
	case hidden:
		if later := f.only(unknown, Later); later != 0 {
			return waiting, later
		}
		if f.only(unknown, Hidden) == 0 {
			return yes, 0 // what cannot exist here makes no rule true
		}
	}
	return no, 0
}

// blind returns the facts without anything that names or bytes tell.
func (f *Facts) blind() *Facts {
	g := f.Clone()
	g.states(Hidden, DNSQuery, DNSRecordType, NetworkHostname)
	for x := HTTPHost; x <= TLSVersion; x++ {
		g.Hide(x, Hidden)
	}
	return g
}

// onLiteral reports whether a rule that is true over the facts is true on a
// literal network.ip alone, whatever the names are.
func (r *Rule) onLiteral(f *Facts, addr netip.Addr) bool {
	if r.c.ip.opaque || !addr.IsValid() {
		return false
	}
	addr = addr.Unmap().WithZone("")
	if !slices.ContainsFunc(r.c.ip.lits, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return false
	}
	blind := f.blind()
	v, _ := r.c.parts[0].eval(blind, false)
	if v != yes {
		return false
	}
	blind.put(NetworkIP, Known, types.String(""))
	v, _ = r.c.parts[0].eval(blind, false)
	return v != yes
}
