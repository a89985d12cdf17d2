package suggest

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"outcall/policy"
	"outcall/policy/replay"
)

// A kind is a way of use, from narrow to wide.
type kind uint8

const (
	kindName kind = iota // a question, and nothing after it
	kindType             // a question of an unusual type
	kindICMP             // echo requests to a name
	kindWeb              // TLS, QUIC or HTTP by a name
	kindUDP              // any UDP by a name
	kindTCP              // any TCP by a name
	kindAddr             // an address without a name
)

var kindWords = [...]string{"name", "type", "icmp", "web", "udp", "tcp", "addr"}

// A want is what an attempt needs of a rule. Wants that differ in the port
// only become one rule.
type want struct {
	kind    kind
	host    string // a name, or the text of an address
	proto   policy.Proto
	typ     string // kindType
	private bool   // at an address that allow_private_ips opens
	would   bool   // observe let it pass
	port    uint16
}

// A Rule is one suggested rule.
type Rule struct {
	ID        string
	Condition string
	Ports     []uint16 // none: the condition says it, or there are none
	Private   bool     // allow_private_ips
	WouldDeny bool     // what it is for was let pass by observe alone
	Attempts  int      // that it is for
	Processes []string // of those attempts, as text from inside the sandbox

	width  int
	want   want
	parent string // of a group: the name that all are below
	parts  []Rule // of a group: the rules that it stands for
}

// wantOf tells what would allow an attempt. ok is false where no rule can, or
// where what stands in the log is no name or address that a rule may hold.
func wantOf(a *replay.Attempt) (w want, ok bool) {
	e := a.Event
	w = want{host: e.Host, proto: policy.Proto(e.Protocol), port: e.Port, would: a.Verdict == replay.WouldDeny}
	addr, err := netip.ParseAddr(e.IP)
	if err == nil {
		addr = addr.Unmap().WithZone("")
		class, _ := policy.Classify(addr, nil)
		w.private = class == policy.Private && e.Host != policy.HostName
	}
	switch a.Layer {
	case policy.LayerDNS:
		w = want{kind: kindName, host: e.Query, would: w.would}
		if !usual(e.RecordType) {
			w.kind, w.typ = kindType, e.RecordType
		}
		return w, isHost(w.host) && isWord(w.typ)
	case policy.LayerFlow, policy.LayerHello, policy.LayerRaw, policy.LayerConnect, policy.LayerRequest:
	default:
		return w, false
	}
	if a.Layer == policy.LayerConnect || a.Layer == policy.LayerRequest {
		w.proto = policy.TCP
	}
	if w.proto != policy.TCP && w.proto != policy.UDP && w.proto != policy.ICMP {
		return w, false
	}
	if lit, err := netip.ParseAddr(w.host); err == nil {
		addr, w.host = lit, ""
	}
	if w.host == "" {
		w.kind, w.host, w.private = kindAddr, addr.String(), false
		return w, addr.IsValid() && (w.proto == policy.ICMP || w.port != 0)
	}
	w.kind = use(a, w)
	return w, isHost(w.host) && (w.kind == kindICMP || w.port != 0)
}

// use tells how a name was used: as TLS or HTTP where the bytes were that, or
// usually are.
func use(a *replay.Attempt, w want) kind {
	switch {
	case w.proto == policy.ICMP:
		return kindICMP
	case w.host == policy.HostName:
		// The host's own services are opened by name and port alone.
	case a.Content == policy.LayerHello && a.SNI == w.host, a.Content == policy.LayerRequest:
		return kindWeb
	case a.Content == 0 && (w.port == 443 || w.port == 80):
		return kindWeb
	}
	if w.proto == policy.UDP {
		return kindUDP
	}
	return kindTCP
}

// usual reports a record type that a rule need not speak of.
func usual(typ string) bool {
	return slices.Contains([]string{"A", "AAAA", "CNAME", "HTTPS", "SVCB"}, typ)
}

// isHost reports a canonical host name: nothing else may get into a rule.
func isHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// isWord reports a record type as the audit writes it, or none.
func isWord(s string) bool {
	return len(s) <= 16 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == ""
}

// rule writes the rule of a want on ports.
func (w want) rule(ports []uint16) Rule {
	is := func(f policy.Field) string { return fmt.Sprintf(`%s == "%s"`, f, w.host) }
	proto := func(p policy.Proto) string { return fmt.Sprintf(`network.protocol == "%s"`, p) }
	name := is(policy.DNSQuery)
	r := Rule{ID: id(w), Private: w.private, WouldDeny: w.would, width: int(w.kind), want: w}
	if w.kind != kindName && w.kind != kindType && w.proto != policy.ICMP {
		r.Ports = ports
	}
	switch w.kind {
	case kindName:
		r.Condition = name
	case kindType:
		r.Condition = fmt.Sprintf(`%s && dns.record_type == "%s"`, name, w.typ)
	case kindWeb:
		r.Condition = name + " || " + is(policy.HTTPHost)
	case kindICMP, kindUDP, kindTCP:
		r.Condition = name + " || (" + is(policy.NetworkHostname) + " && " + proto(w.proto) + ")"
	case kindAddr:
		r.Condition = is(policy.NetworkIP) + " && " + proto(w.proto)
		if len(r.Ports) == 1 {
			r.Condition += fmt.Sprintf(" && network.port == %d", r.Ports[0])
		} else if len(r.Ports) > 1 {
			r.Condition += " && network.port in [" + portList(r.Ports) + "]"
		}
	}
	return r
}

func portList(ports []uint16) string {
	var out []string
	for _, p := range ports {
		out = append(out, strconv.Itoa(int(p)))
	}
	return strings.Join(out, ", ")
}

// id is the rule's: it says what it is for.
func id(w want) string {
	s := kindWords[w.kind] + "-" + strings.ReplaceAll(w.host, ":", "-")
	switch w.kind {
	case kindType:
		s += "-" + strings.ToLower(w.typ)
	case kindAddr:
		s += "-" + string(w.proto)
	}
	if w.private {
		s += "-private"
	}
	if w.would {
		s += "-observed"
	}
	return s
}

// target is what an attempt was about, in a few words.
func target(a *replay.Attempt) string {
	e := a.Event
	if a.Layer == policy.LayerDNS {
		return e.Query + " " + e.RecordType
	}
	host := e.Host
	if a.Decided == policy.LayerHello && a.Verdict == replay.Deny && a.SNI != "" {
		host = a.SNI // not the name that the address belongs to
	}
	if host == "" {
		host = e.IP
	}
	if e.Port != 0 {
		host = net.JoinHostPort(host, strconv.Itoa(int(e.Port)))
	}
	if e.Method != "" && a.Layer == policy.LayerRequest {
		return e.Method + " " + host + e.Path
	}
	if e.Protocol != "" && e.Protocol != string(policy.TCP) {
		host += " " + e.Protocol
	}
	return host
}
