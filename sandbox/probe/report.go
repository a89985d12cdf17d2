package probe

import (
	"slices"
	"strings"
)

// A Status is what a layer came to.
type Status string

// The words of Status.
const (
	OK      Status = "ok"      // a session has it
	Weak    Status = "weak"    // a session starts, with less
	Missing Status = "missing" // no session starts without it, and it cannot be had
	Untried Status = "untried" // another layer that is missing comes before it
)

// A Layer is one line of doctor. The names, their number and their order are
// the same on every machine.
type Layer struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Got    string `json:"got"`
	Mend   string `json:"mend,omitempty"`
}

// A Report is what doctor prints with --json.
type Report struct {
	Starts bool    `json:"starts"` // `outcall run` without flags would start here
	Layers []Layer `json:"layers"`
}

// Names of the layers.
const (
	Kernel      = "kernel"
	Identity    = "identity"
	SessionDir  = "session directory"
	StateDir    = "state directory"
	Resolver    = "resolver"
	Proxy       = "upstream proxy"
	IPv4        = "IPv4 route"
	IPv6        = "IPv6 route"
	UserNS      = "user namespace"
	Caps        = "capabilities"
	NetNS       = "network namespace"
	Namespaces  = "mount and pid namespaces"
	Proc        = "proc"
	View        = "view"
	Links       = "bridge and routes"
	Packet      = "packet socket"
	Tap         = "tap device"
	NFTables    = "nftables"
	NFLog       = "NFLOG"
	Attribution = "attribution"
	HostSocket  = "host socket"
	Command     = "command namespace"
	Seccomp     = "seccomp filter"
	Calls       = "refused calls"
	RoundTrip   = "round trip"
	SubIDs      = "subordinate ids"
	Protocols   = "protocols"
	Session     = "session"
)

// layers are all of them in the order of the report. needs are those that the
// kernel must have granted before this one can be asked for: an answer of any
// kind proves them. got says what that proof is worth.
var layers = []struct {
	name  string
	needs []string
	got   string
}{
	{name: Kernel}, {name: Identity}, {name: SessionDir}, {name: StateDir},
	{name: Resolver}, {name: Proxy}, {name: IPv4}, {name: IPv6},
	{UserNS, nil, "made, with ids mapped"},
	{Caps, []string{UserNS}, "their first use in the user namespace was granted"},
	{NetNS, []string{Caps}, "one for the gateway, one for the agent"},
	{Namespaces, []string{NetNS}, "made, and entered by the gatekeeper"},
	{Proc, []string{Namespaces}, "a fresh one was mounted"},
	{View, []string{Proc}, "own /tmp, /dev and /run, covers, binds and read-only mounts stand"},
	{Links, []string{Namespaces}, "bridge, veth pairs, sysctls, routes and neighbours were set"},
	{Packet, []string{Namespaces}, "opened by the gatekeeper, with vnet_hdr, bound to the uplink"},
	{Tap, []string{Namespaces}, "the gatekeeper opened it and made a tap: --link tap would do"},
	{NFTables, []string{View, Links}, "table inet outcall was loaded"},
	{NFLog, []string{View, Links}, "the group of dropped packets was bound"},
	{Attribution, []string{View, Links}, "sock_diag answers in the agent's network namespace"},
	{HostSocket, []string{View, Links}, "host.sock was opened"},
	{Command, []string{View, Links}, "a user namespace below, without any capability"},
	{Seccomp, []string{Command}, "loaded before the command"},
	{Calls, []string{Seccomp}, ""},
	{RoundTrip, []string{Seccomp}, ""},
	{name: SubIDs}, {name: Protocols}, {name: Session},
}

// New is a report in which nothing has been tried.
func New() *Report {
	r := &Report{}
	for _, l := range layers {
		r.Layers = append(r.Layers, Layer{Name: l.name, Status: Untried})
	}
	return r
}

// Layer returns one layer by its name. An unknown name is a mistake of the
// caller's.
func (r *Report) Layer(name string) *Layer {
	i := slices.IndexFunc(r.Layers, func(l Layer) bool { return l.Name == name })
	if i < 0 {
		panic("probe: no layer " + name)
	}
	return &r.Layers[i]
}

// Set enters what a layer came to. What has been entered as weak or missing
// stays: a later trial may only have gone around it.
func (r *Report) Set(name string, s Status, got, mend string) {
	l := r.Layer(name)
	if l.Status == Weak || l.Status == Missing {
		return
	}
	*l = Layer{name, s, got, mend}
}

// Stood enters that layers can be had, and so what they need.
func (r *Report) Stood(names ...string) {
	for _, n := range names {
		r.proven(n)
		if r.Layer(n).Status == Untried {
			r.Set(n, OK, had(n), "")
		}
	}
}

// Refused enters that a layer cannot be had. That it could be asked for proves
// what it needs.
func (r *Report) Refused(name string, s Status, got, mend string) {
	r.proven(name)
	r.Set(name, s, got, mend)
}

func (r *Report) proven(name string) {
	for _, l := range layers {
		if l.name == name {
			r.Stood(l.needs...)
		}
	}
}

func had(name string) string {
	for _, l := range layers {
		if l.name == name {
			return l.got
		}
	}
	return ""
}

// Done says of the layers that were not reached what they wait for, and
// whether a session would start.
func (r *Report) Done() {
	var missing []string
	for _, l := range r.Layers {
		if l.Status == Missing {
			missing = append(missing, l.Name)
		}
	}
	untried := 0
	for i := range r.Layers {
		if l := &r.Layers[i]; l.Status == Untried {
			untried++
			l.Got = "not tried: first mend " + strings.Join(missing, ", ")
		}
	}
	r.Starts = len(missing) == 0 && untried == 0
}
