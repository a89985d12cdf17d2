package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"outcall/policy"
)

// standIn is the address of a name where none is given: a public one.
var standIn = netip.AddrFrom4([4]byte{8, 0, 0, 1})

var address = []string{"network.ip", "network.port", "network.protocol"}

// settable are the fields that an event of each layer may give; the rest is
// what the layer makes of them, or cannot be known there.
var settable = map[policy.Layer][]string{
	policy.LayerDNS:     {"dns.query", "dns.record_type"},
	policy.LayerFlow:    append([]string{"network.hostname"}, address...),
	policy.LayerHello:   append([]string{"tls.sni", "tls.alpn", "tls.ech", "tls.version"}, address...),
	policy.LayerConnect: {"http.host", "network.ip", "network.port"},
	policy.LayerRequest: {"http.host", "http.method", "http.path", "http.query", "http.headers", "http.body_size", "network.ip", "network.port"},
	policy.LayerRaw:     append([]string{"network.hostname"}, address...),
	policy.LayerRun: {"run.tool", "run.args", "run.flags", "run.cwd", "run.context", "network.hostname", "network.port", "network.protocol",
		"http.scheme", "http.method", "http.path", "http.query", "http.headers", "http.body_size"},
}

var everywhere = []string{"process.exe", "process.args", "session.name"}

// A values reads the given fields and keeps the first that is of a wrong type.
type values struct {
	fields map[string]any
	err    error
}

func field[T any](v *values, name string, otherwise T) T {
	x, ok := v.fields[name]
	if !ok {
		return otherwise
	}
	t, ok := x.(T)
	if !ok && v.err == nil {
		v.err = fmt.Errorf("%s is %v: want %s", name, x, kinds[fmt.Sprintf("%T", otherwise)])
	}
	return t
}

var kinds = map[string]string{
	"string": "a string", "int": "a number", "bool": "true or false", "[]string": "a list of strings",
	"map[string]string": "a map of strings", "map[string]interface {}": "a map",
}

func (v *values) has(name string) bool { _, ok := v.fields[name]; return ok }

// step judges the facts of one step, as the data path does there.
func (e Event) step(s *policy.Snapshot) (Answer, error) {
	j, err := e.read()
	if err != nil {
		return Answer{}, err
	}
	fl := j.judge(s)
	a := Answer{Verdict: fl.Word.String(), Rule: fl.RuleID(), Reason: fl.Reason}
	switch policy.Act(e.Layer, j.proto, fl.Outcome, true) {
	case policy.Refuse:
		a.Verdict = policy.VerdictDeny
	case policy.Answer:
		a.Verdict = policy.VerdictAllow // a question is answered or not
	}
	a.Rule = decider(s, a)
	return a, nil
}

// Check tells what is wrong with an event at a layer, whatever the rules are.
func (e Event) Check() error {
	_, err := e.read()
	return err
}

func (e Event) read() (*judged, error) {
	if err := e.settable(); err != nil {
		return nil, err
	}
	v := &values{fields: e.Fields}
	j, err := e.facts(v)
	if err == nil {
		err = v.err
	}
	if err != nil {
		return nil, fmt.Errorf("event at %s: %w", e.Layer, err)
	}
	return j, nil
}

func (e Event) settable() error {
	known := slices.Concat(settable[e.Layer], everywhere)
	for name := range e.Fields {
		if !slices.Contains(known, name) {
			return fmt.Errorf("an event at %s has no %s: it has %s", e.Layer, name, strings.Join(known, ", "))
		}
	}
	return nil
}

// A judged is a step that is ready to be asked about.
type judged struct {
	f     *policy.Facts
	addr  netip.Addr
	proto policy.Proto
	name  string // that is pinned at the address, or to be resolved to it
}

func (e Event) facts(v *values) (*judged, error) {
	who := e.Who
	who.Session = field(v, "session.name", who.Session)
	j := &judged{f: policy.NewFacts(e.Layer, who), addr: standIn, proto: policy.Proto(field(v, "network.protocol", "tcp"))}
	if v.has("process.exe") || v.has("process.args") {
		j.f.SetProcess(&policy.Process{Exe: field(v, "process.exe", ""), Args: field[[]string](v, "process.args", nil)})
	}
	if !slices.Contains([]policy.Proto{policy.TCP, policy.UDP, policy.ICMP}, j.proto) {
		return nil, fmt.Errorf("network.protocol is %q: want tcp, udp or icmp", j.proto)
	}
	if v.has("network.ip") {
		a, err := netip.ParseAddr(field(v, "network.ip", ""))
		if err != nil {
			return nil, fmt.Errorf("network.ip: %w", err)
		}
		j.addr = a.Unmap().WithZone("")
	}
	port := field(v, "network.port", map[policy.Layer]int{policy.LayerRequest: 80}[e.Layer])
	if port == 0 {
		port = 443
	}
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("network.port is %d: want 1 to 65535", port)
	}
	if e.Layer != policy.LayerDNS && e.Layer != policy.LayerRun {
		j.f.SetAddr(j.addr, uint16(port), j.proto)
	}
	return j, j.message(e.Layer, v, uint16(port))
}

// message sets what the bytes tell.
func (j *judged) message(l policy.Layer, v *values, port uint16) error {
	switch l {
	case policy.LayerDNS:
		if j.name = field(v, "dns.query", ""); j.name == "" {
			return fmt.Errorf("dns.query is missing")
		}
		j.f.SetQuestion(j.name, field(v, "dns.record_type", "A"))
	case policy.LayerFlow, policy.LayerRaw:
		j.name = field(v, "network.hostname", "")
		j.f.SetName(j.name)
	case policy.LayerHello:
		j.name = field(v, "tls.sni", "")
		j.f.SetHello(policy.TLS{SNI: j.name, ALPN: field[[]string](v, "tls.alpn", nil),
			ECH: field(v, "tls.ech", false), Version: field(v, "tls.version", "1.3")})
	case policy.LayerConnect, policy.LayerRequest:
		host := field(v, "http.host", "")
		if host == "" {
			return fmt.Errorf("http.host is missing")
		}
		literal, err := netip.ParseAddr(host)
		if err == nil {
			j.addr = literal
			j.f.SetAddr(j.addr, port, j.proto)
		} else {
			j.name = host
		}
		if l == policy.LayerConnect {
			j.f.SetConnect(host, err == nil)
		} else {
			j.f.SetRequest(head(v, host), err == nil)
		}
	case policy.LayerRun:
		j.run(v, port)
	}
	return nil
}

func head(v *values, host string) policy.HTTP {
	return policy.HTTP{Host: host, Method: field(v, "http.method", "GET"), Path: field(v, "http.path", "/"),
		Query: field(v, "http.query", ""), Headers: field[map[string]string](v, "http.headers", nil),
		BodySize: int64(field(v, "http.body_size", 0))}
}

func (j *judged) run(v *values, port uint16) {
	args := field[[]string](v, "run.args", nil)
	var flags []string
	for _, a := range args {
		if strings.HasPrefix(a, "-") && a != "-" {
			flags = append(flags, a)
		}
	}
	j.f.SetRun(policy.Run{Tool: field(v, "run.tool", ""), Args: args, Flags: field(v, "run.flags", flags),
		Cwd: field(v, "run.cwd", ""), Context: context(v)})
	if !v.has("network.hostname") {
		return
	}
	c := policy.Call{Host: field(v, "network.hostname", ""), Port: port, Proto: j.proto, Scheme: field(v, "http.scheme", "")}
	if c.Scheme != "" {
		h := head(v, c.Host)
		c.HTTP = &h
	}
	j.f.SetCall(c)
}

// context is a map of whatever the agent told.
func context(v *values) map[string]any {
	m, ok := v.fields["run.context"].(map[string]string)
	if !ok {
		return field[map[string]any](v, "run.context", nil)
	}
	out := map[string]any{}
	for k, t := range m {
		out[k] = t
	}
	return out
}

// judge asks the function that the data path asks at this layer. A name is
// taken to be pinned at the address, with the grants that its question gave.
func (j *judged) judge(s *policy.Snapshot) policy.Flow {
	switch j.f.Layer() {
	case policy.LayerDNS, policy.LayerRun:
		return policy.Flow{Outcome: s.Step(j.f)}
	case policy.LayerFlow:
		return s.Flow(j.f, j.addr, j.pinned(s), nil)
	}
	return s.Content(j.f, j.addr, j.pinned(s), nil)
}

func (j *judged) pinned(s *policy.Snapshot) []policy.Candidate {
	if j.name == "" {
		return nil
	}
	who := policy.Who{}
	who.Agent, _ = j.f.Value(policy.AgentName).(string)
	who.Session, _ = j.f.Value(policy.SessionName).(string)
	dns := policy.NewFacts(policy.LayerDNS, who)
	typ := "A"
	if j.addr.Is6() {
		typ = "AAAA"
	}
	dns.SetQuestion(j.name, typ)
	c := policy.Candidate{Name: j.name}
	if policy.Act(policy.LayerDNS, "", s.Step(dns), false) == policy.Answer {
		c.Grants = s.Grants(dns, j.addr)
	}
	return []policy.Candidate{c}
}
