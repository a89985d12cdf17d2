package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// Cells derives the kernel's share for one (name, address) with its grants:
// each (protocol, port range) for which Flow is not Deny, with every value of
// process.* possible. name may be "" for an address known without a name. The
// cells are a superset; ICMP has one cell with ports 0 to 0.
func (s *Snapshot) Cells(who Who, name string, addr netip.Addr, grants []Grant, h *Host) []Cell {
	if s == nil || !addr.IsValid() {
		return nil
	}
	addr = addr.Unmap().WithZone("")
	p := newProbe(who, name, grants)
	p.at(addr)
	return spread(p.cells(s, addr, h), []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())})
}

// A probe asks what Flow could answer, for whole ranges of what it does not
// know. Rules that use the address or the port in a way that their constants
// do not describe get facts in which that field is still open.
type probe struct {
	name string
	// facts by what is open: bit 0 the address, bit 1 the port.
	facts [4]*Facts
}

// probed are the fields for which a waiting rule may yet become true at flow.
const probed = FieldSet(1<<ProcessExe | 1<<ProcessName | 1<<ProcessArgs | 1<<NetworkIP | 1<<NetworkPort | 1<<NetworkProtocol)

func newProbe(who Who, name string, grants []Grant) *probe {
	p := &probe{name: name}
	for i := range p.facts {
		f := NewFacts(LayerFlow, who)
		f.SetName(name)
		f.SetGrants(grants)
		f.states(Later, ProcessExe, ProcessName, ProcessArgs, NetworkIP, NetworkPort, NetworkProtocol)
		p.facts[i] = f
	}
	return p
}

// at sets the address, and leaves port and protocol open.
func (p *probe) at(addr netip.Addr) {
	for i, f := range p.facts {
		f.laterContent()
		f.states(Later, NetworkPort, NetworkProtocol)
		if i&1 == 0 {
			f.set(NetworkIP, addr.String())
		}
	}
}

// on sets protocol and port.
func (p *probe) on(proto Proto, port int64) {
	for i, f := range p.facts {
		f.laterContent()
		f.SetAddr(netip.Addr{}, uint16(port), proto)
		if i&2 != 0 && proto != ICMP {
			f.Hide(NetworkPort, Later)
		}
	}
}

func (p *probe) of(r *Rule) *Facts {
	i := 0
	if r.c.ip.opaque {
		i |= 1
	}
	if r.c.port.opaque {
		i |= 2
	}
	return p.facts[i]
}

// first returns the first rule that could let a flow through, or nil.
func (p *probe) first(s *Snapshot, d *door) *Rule {
	q := s.ask(p.facts[0], d.kind(p.name), true)
	defer q.end()
	for r := q.rule(); r != nil; r = q.rule() {
		f := p.of(r)
		if r.Block {
			if v, _ := r.blocks(f); v != no && v != waiting {
				return nil
			}
			continue
		}
		v, waits, _ := r.allows(f)
		if v != yes && (v != waiting || p.name == "" && waits&probed == 0) {
			continue // without a name an open word is a deny
		}
		if r.mayOpen(p.name, d.addr, d.class, d.host) {
			return r
		}
	}
	return nil
}

// cells returns the cells of addr, or of what addr stands for, without their
// prefix.
func (p *probe) cells(s *Snapshot, addr netip.Addr, h *Host) []Cell {
	d := &door{addr, classRange(addr, h).class, h}
	cuts := p.portCuts(s, d)
	if len(cuts) == 0 {
		return nil
	}
	var out []Cell
	for _, proto := range []Proto{TCP, UDP, ICMP} {
		segments := cuts
		if proto == ICMP {
			segments = []span{{0, 0}}
		}
		start := len(out)
		for _, seg := range segments {
			p.on(proto, int64(seg.start))
			r := p.first(s, d)
			if r == nil {
				continue
			}
			if n := len(out); n > start && out[n-1].Rule == r.ID && int(out[n-1].PortHigh)+1 == seg.start {
				out[n-1].PortHigh = uint16(seg.end)
				continue
			}
			out = append(out, Cell{Proto: proto, PortLow: uint16(seg.start), PortHigh: uint16(seg.end), Rule: r.ID})
		}
	}
	return out
}

// spread gives cells to each of the prefixes.
func spread(cells []Cell, prefixes []netip.Prefix) []Cell {
	all := make([]Cell, 0, len(cells)*len(prefixes))
	for _, prefix := range prefixes {
		for _, c := range cells {
			c.Prefix = prefix
			all = append(all, c)
		}
	}
	return all
}

// portCuts splits 0 to 65535 at the constants of the rules that are not false
// whatever port and protocol are; within a segment every rule gives the same
// answer. There are none if no rule matters. at must have been called before.
func (p *probe) portCuts(s *Snapshot, d *door) []span {
	starts := map[int]bool{}
	any := false
	q := s.ask(p.facts[0], d.kind(p.name), true)
	defer q.end()
	for r := q.rule(); r != nil; r = q.rule() {
		if p.matters(r) {
			any = true
			r.portStarts(starts)
		}
	}
	if !any {
		return nil
	}
	for _, g := range p.facts[0].grants {
		starts[int(g.Port)], starts[int(g.Port)+1] = true, true
	}
	q.portStarts(p.facts[0], starts)
	starts[0] = true
	delete(starts, 1<<16)
	sorted := slices.Sorted(maps.Keys(starts))
	out := make([]span, len(sorted))
	for i, n := range sorted {
		end := 65535
		if i+1 < len(sorted) {
			end = sorted[i+1] - 1
		}
		out[i] = span{n, end}
	}
	return out
}

// matters tells whether a rule is not false whatever port and protocol are.
func (p *probe) matters(r *Rule) bool {
	if r.Block {
		v, _ := r.blocks(p.of(r))
		return v != no
	}
	v, _, _ := r.allows(p.of(r))
	return v == yes || v == waiting || r.Mode == ModeDirectIP && len(p.facts[0].grants) > 0
}

// portStarts adds the ports at which the answer of a rule can change.
func (r *Rule) portStarts(starts map[int]bool) {
	cut := func(n int64) {
		for _, at := range []int64{n, n + 1} {
			if at > 0 && at <= 65535 {
				starts[int(at)] = true
			}
		}
	}
	for _, n := range r.c.port.consts {
		cut(n)
	}
	if !r.Block {
		for _, n := range r.boundPorts() {
			cut(int64(n))
		}
	}
}
