package rulediff

import (
	"net/netip"
	"slices"
	"strings"

	"outcall/policy"
	"outcall/policy/probe"
)

// Limits of what is tried. A rule that has more is counted and told.
const (
	maxEvents  = 200000 // in all
	maxPerRule = 2048   // of one rule
	maxOpening = 256    // of one rule, where a person waits
	maxValues  = 8      // of one field of one rule
	maxPool    = 3      // of one field of the other rules
)

// other is a program and an agent that no rule means.
const other = "outcall-other"

// Events derives events from the constants of both sets, those of rules that
// only one of them has first. left counts the rules that had more.
func Events(a, b *policy.Snapshot) (events []probe.Event, left int) {
	d := &deriver{seen: map[string]bool{}, most: maxPerRule}
	first, rest := sorted(a, b)
	rules := append(first, rest...)
	for _, r := range rules {
		d.pool.take(r)
	}
	for _, r := range rules {
		d.rule(r, valuesOf(r))
	}
	return d.events, d.left
}

// eventsOf derives events from those rules alone that differ, as one agent
// could cause them.
func eventsOf(a, b *policy.Snapshot, who policy.Who) (events []probe.Event, left int) {
	d := &deriver{seen: map[string]bool{}, most: maxOpening, who: who}
	differ, same := sorted(a, b)
	for _, r := range append(differ, same...) {
		d.pool.take(r)
	}
	d.pool.agents, d.pool.exes = nil, nil
	for _, r := range differ {
		v := valuesOf(r)
		v.agents = []string{who.Agent}
		d.rule(r, v)
	}
	return d.events, d.left
}

// sorted parts the rules into those that differ and those that are the same
// in both sets; of the latter one is enough.
func sorted(a, b *policy.Snapshot) (differ, same []*policy.Rule) {
	byID := map[string]*policy.Rule{}
	for _, r := range a.Rules() {
		byID[r.ID] = r
	}
	for _, r := range b.Rules() {
		o := byID[r.ID]
		if o != nil && o.Condition == r.Condition && o.Block == r.Block && o.Priority == r.Priority &&
			o.Mode == r.Mode && o.AllowPrivate == r.AllowPrivate && slices.Equal(o.Ports, r.Ports) {
			same = append(same, r)
			delete(byID, r.ID)
		} else {
			differ = append(differ, r)
		}
	}
	for _, r := range a.Rules() {
		if byID[r.ID] == r {
			differ = append(differ, r)
		}
	}
	return differ, same
}

type deriver struct {
	events []probe.Event
	seen   map[string]bool
	left   int
	pool   pool
	most   int // of one rule

	who   policy.Who
	exe   string
	count int // of the present rule
	over  bool
}

// rule makes the events of one rule: every combination of its values.
func (d *deriver) rule(r *policy.Rule, v values) {
	d.count, d.over = 0, false
	v.fill(d.pool)
	for _, agent := range v.agents {
		for _, d.exe = range v.exes {
			d.who.Agent = agent
			for _, name := range v.names {
				d.name(v, name)
			}
			for _, ip := range v.ips {
				d.address(v, ip)
			}
			for _, tool := range v.tools {
				for _, args := range v.args {
					d.add(policy.LayerRun, map[string]any{"run.tool": tool, "run.args": args})
				}
			}
		}
	}
	if d.over {
		d.left++
	}
}

// name makes the events of a name: its questions, and what each step of a
// flow to it is.
func (d *deriver) name(v values, name string) {
	for _, t := range v.types {
		d.add(policy.LayerDNS, map[string]any{"dns.query": name, "dns.record_type": t})
	}
	for _, port := range v.ports {
		for _, proto := range []string{"tcp", "udp"} {
			at := map[string]any{"network.hostname": name, "network.port": port, "network.protocol": proto}
			d.add(policy.LayerFlow, at)
			d.add(policy.LayerRaw, at)
			d.add(policy.LayerHello, map[string]any{"tls.sni": name, "network.port": port, "network.protocol": proto})
		}
		d.asked(v, name, port)
	}
}

// asked makes what a client asks a proxy or a server for.
func (d *deriver) asked(v values, host string, port int) {
	d.add(policy.LayerConnect, map[string]any{"http.host": host, "network.port": port})
	for _, m := range v.methods {
		for _, p := range v.paths {
			d.add(policy.LayerRequest, map[string]any{"http.host": host, "network.port": port, "http.method": m, "http.path": p})
		}
	}
}

func (d *deriver) address(v values, ip string) {
	for _, port := range v.ports {
		for _, proto := range []string{"tcp", "udp"} {
			at := map[string]any{"network.ip": ip, "network.port": port, "network.protocol": proto}
			d.add(policy.LayerFlow, at)
			d.add(policy.LayerRaw, at)
		}
		d.asked(v, ip, port)
	}
	d.add(policy.LayerFlow, map[string]any{"network.ip": ip, "network.protocol": "icmp"})
}

func (d *deriver) add(l policy.Layer, fields map[string]any) {
	e := probe.Event{Layer: l, Who: d.who, Fields: map[string]any{"process.exe": d.exe}}
	for k, v := range fields {
		e.Fields[k] = v
	}
	key := e.String()
	if d.seen[key] {
		return
	}
	if d.count >= d.most || len(d.events) >= maxEvents {
		d.over = true
		return
	}
	d.seen[key] = true
	d.count++
	d.events = append(d.events, e)
}

// values are what one rule suggests to try.
type values struct {
	names, types, methods, paths, agents, exes, ips, tools []string
	ports                                                  []int
	args                                                   [][]string
}

func valuesOf(r *policy.Rule) values {
	u := r.Uses()
	v := values{types: []string{"A", "TXT"}, methods: []string{"GET"}, paths: []string{"/"}, agents: []string{other}, exes: []string{"/" + other}}
	for _, t := range u.Texts {
		v.text(t)
	}
	for _, p := range u.Ports {
		v.port(p-1, p, p+1)
	}
	for _, p := range r.Ports {
		v.port(int64(p), int64(p)+1)
	}
	v.port(443, 80, 22)
	for _, p := range u.Nets {
		last := lastOf(p)
		for _, a := range []netip.Addr{p.Addr(), last, last.Next()} {
			if a.IsValid() {
				put(&v.ips, a.String())
			}
		}
	}
	if v.tools != nil {
		v.args = [][]string{nil}
		for _, s := range u.Strings[:min(len(u.Strings), maxValues)] {
			v.args = append(v.args, []string{s})
		}
	}
	return v
}

// A pool holds some names, agents and programs of all rules: what a rule does
// not narrow it decides for those of others.
type pool struct{ names, agents, exes []string }

func (p *pool) take(r *policy.Rule) {
	v := valuesOf(r)
	if len(p.names) < maxPool && len(v.names) > 0 {
		put(&p.names, v.names[0])
	}
	if len(p.agents) < maxPool && len(v.agents) > 1 {
		put(&p.agents, v.agents[1])
	}
	if len(p.exes) < maxPool && len(v.exes) > 1 {
		put(&p.exes, v.exes[1])
	}
}

// fill takes from the pool what the rule itself does not name.
func (v *values) fill(p pool) {
	if v.names == nil && v.ips == nil && v.tools == nil {
		v.names = append([]string{other + ".test"}, p.names...)
		v.ips, v.tools, v.args = []string{"8.8.8.8"}, []string{other}, [][]string{nil}
	}
	if len(v.agents) == 1 {
		v.agents = append(v.agents, p.agents...)
	}
	if len(v.exes) == 1 {
		v.exes = append(v.exes, p.exes...)
	}
}

// text takes a constant and what lies beside it.
func (v *values) text(t policy.TextUse) {
	value := strings.Trim(t.Value, ".")
	switch t.Field {
	case policy.DNSQuery, policy.NetworkHostname, policy.HTTPHost, policy.TLSSNI:
		if a, err := netip.ParseAddr(value); err == nil {
			put(&v.ips, a.Unmap().String())
		} else if value != "" {
			put(&v.names, value, "x."+value, "x"+value)
		}
	case policy.DNSRecordType:
		put(&v.types, t.Value)
	case policy.HTTPMethod:
		put(&v.methods, t.Value)
	case policy.HTTPPath:
		put(&v.paths, t.Value, t.Value+"/x")
	case policy.AgentName:
		put(&v.agents, t.Value)
	case policy.ProcessExe:
		put(&v.exes, t.Value)
	case policy.ProcessName:
		put(&v.exes, "/usr/bin/"+t.Value)
	case policy.RunTool:
		put(&v.tools, t.Value)
	}
}

// put adds values, each once. A name comes with its neighbours, so there may
// be three times as many of those.
func put(list *[]string, values ...string) {
	for _, s := range values {
		if !slices.Contains(*list, s) && len(*list) < 3*maxValues {
			*list = append(*list, s)
		}
	}
}

func (v *values) port(ports ...int64) {
	for _, p := range ports {
		if p >= 1 && p <= 65535 && !slices.Contains(v.ports, int(p)) && len(v.ports) < 3*maxValues {
			v.ports = append(v.ports, int(p))
		}
	}
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
