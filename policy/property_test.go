package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

var (
	propNames = []string{"a.test", "b.test", "x.a.test"}
	propAddrs = []string{"93.184.216.34", "93.184.217.1", "10.0.0.1", "127.0.0.1", "2606:4700::1"}
	propPorts = []uint16{22, 80, 443, 5432}
	propHost  = &Host{Session: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24")}, OnLink: []netip.Prefix{netip.MustParsePrefix("93.184.217.0/24")}}
)

// propAtoms are what random conditions are made of; %s is a name.
var propAtoms = strings.Split(strings.TrimSpace(`
dns.query == "%s"
domain(dns.query, "a.test")
dns.record_type == "A"
network.hostname == "%s"
network.hostname != "%s"
network.hostname.endsWith(".test")
network.ip == "93.184.216.34"
network.ip == "127.0.0.1"
network.ip in ["10.0.0.1", "127.0.0.1"]
network.ip != "93.184.216.34"
cidr("93.184.216.0/23").contains(network.ip)
cidr("10.0.0.0/8").contains(network.ip)
cidr("0.0.0.0/0").contains(network.ip)
network.ip.startsWith("93.")
network.port == 443
network.port == 22
network.port in [80, 443]
network.port > 100
network.port % 2 == 0
network.protocol == "tcp"
http.host == "%s"
http.host != "%s"
domain(http.host, "a.test")
http.scheme == "https"
http.path == "/x"
http.path.matches("^/x")
http.headers["k"] == "v"
"k" in http.headers
has(http.headers.k)
http.body_size > 0
size(http.path) > 1
tls.sni == "%s"
tls.sni == ""
"h2" in tls.alpn
tls.alpn.exists(p, p == "h2")
tls.alpn.all(p, p == tls.version)
tls.ech
tls.version == "1.3"
agent.name == "claude"
process.exe == "/x"
process.name == "x"
process.args.exists(p, p == "-k")
http.host == tls.sni
http.path == tls.sni
!(http.host in [])
(tls.sni == "%s" ? http.path == "/x" : network.port == 443)
1 / 0 == 1
true
`), "\n")

func propCondition(r *rand.Rand, depth int) string {
	if depth == 0 || r.IntN(3) == 0 {
		a := propAtoms[r.IntN(len(propAtoms))]
		if strings.Contains(a, "%s") {
			a = fmt.Sprintf(a, propNames[r.IntN(len(propNames))])
		}
		return a
	}
	l, m := propCondition(r, depth-1), propCondition(r, depth-1)
	switch r.IntN(5) {
	case 0, 1:
		return "(" + l + " && " + m + ")"
	case 2, 3:
		return "(" + l + " || " + m + ")"
	}
	return "!(" + l + ")"
}

// propPool compiles many random rules once; random sets are drawn from it.
func propPool(t testing.TB, r *rand.Rand, n int) []*Rule {
	t.Helper()
	var b strings.Builder
	b.WriteString("version: \"1\"\nrules:\n")
	egress := []string{"", "", "", "{ports: [443]}", "{ports: [22, 443]}", "{allow_private_ips: true}", "{mode: direct_ip}", "{mode: direct_ip, ports: [22], allow_private_ips: true}"}
	for i := range n {
		action, e := "block", ""
		if r.IntN(5) > 1 {
			action, e = "allow", egress[r.IntN(len(egress))]
		}
		fmt.Fprintf(&b, "  - id: r%d\n    action: %s\n    condition: '%s'\n", i, action, propCondition(r, r.IntN(4)))
		if e != "" {
			fmt.Fprintf(&b, "    egress: %s\n", e)
		}
	}
	return mustLoad(t, b.String()).Rules()
}

// property runs f over random rule sets.
func property(t *testing.T, f func(r *rand.Rand, s *Snapshot) string) {
	t.Helper()
	const seed = 20261123
	r := rand.New(rand.NewPCG(seed, 1))
	pools, sets := 3, 6000
	if testing.Short() {
		pools, sets = 1, 2000
	}
	for range pools {
		pool := propPool(t, r, 500)
		for range sets {
			s := &Snapshot{}
			for range 1 + r.IntN(6) {
				s.rules = append(s.rules, pool[r.IntN(len(pool))])
			}
			if bad := f(r, s); bad != "" {
				var b strings.Builder
				for _, x := range s.rules {
					fmt.Fprintf(&b, "  %s block=%v %s mode=%s ports=%v private=%v\n", x.ID, x.Block, x.Condition, x.Mode, x.Ports, x.AllowPrivate)
				}
				t.Fatalf("%s\nrules:\n%s", bad, b.String())
			}
		}
	}
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// A propCase is one random flow.
type propCase struct {
	name, other string
	addr        netip.Addr
	port        uint16
	proto       Proto
	proc        *Process
	head        HTTP
	tls         TLS
}

func randomCase(r *rand.Rand) propCase {
	c := propCase{name: pick(r, propNames), other: pick(r, propNames), addr: netip.MustParseAddr(pick(r, propAddrs)),
		port: pick(r, propPorts), proto: TCP}
	c.proc = pick(r, []*Process{nil, {Exe: "/x", Args: []string{"x", "-k"}}, {Exe: "/y"}})
	c.head = HTTP{Host: c.name, Method: "GET", Path: pick(r, []string{"/", "/x"}), BodySize: int64(r.IntN(3)) - 1}
	if r.IntN(2) == 0 {
		c.head.Headers = map[string]string{"k": "v"}
	}
	c.tls = TLS{SNI: c.name, Version: "1.3", ECH: r.IntN(3) == 0, ALPN: pick(r, [][]string{nil, {"h2"}, {"1.3"}})}
	return c
}

func (c propCase) facts(l Layer) *Facts {
	f := NewFacts(l, who)
	f.SetProcess(c.proc)
	switch l {
	case LayerDNS:
		f.SetQuestion(c.name, "A")
		return f
	case LayerHello:
		f.SetHello(c.tls)
	case LayerConnect:
		f.SetConnect(c.name, false)
	case LayerRequest:
		f.SetRequest(c.head, false)
	case LayerRaw, LayerFlow:
		f.SetName(c.name)
	}
	f.SetAddr(c.addr, c.port, c.proto)
	return f
}

func (c propCase) String() string {
	return fmt.Sprintf("%s %s:%d/%s process %+v head %+v tls %+v", c.name, c.addr, c.port, c.proto, c.proc, c.head, c.tls)
}

// Making a known field unknown never turns a deny into an allow.
func TestPropertyUnknowing(t *testing.T) {
	layers := []Layer{LayerDNS, LayerFlow, LayerHello, LayerConnect, LayerRequest, LayerRaw}
	property(t, func(r *rand.Rand, s *Snapshot) string {
		c := randomCase(r)
		f := c.facts(pick(r, layers))
		g := f.Clone()
		for range 1 + r.IntN(4) {
			x := Field(r.IntN(int(NumFields)))
			if g.State(x) == Known || g.State(x) == Later {
				g.Hide(x, pick(r, []State{Later, Hidden}))
			}
		}
		a, b := s.Step(f), s.Step(g)
		if a.Word == Deny && b.Word == Allow {
			return fmt.Sprintf("%s at %s: denied (%s), and allowed with less known (%s)", c, f.Layer(), a.Reason, b.Reason)
		}
		return ""
	})
}

// A block added at the front never lets more through.
func TestPropertyBlockAtTheFront(t *testing.T) {
	layers := []Layer{LayerDNS, LayerFlow, LayerHello, LayerConnect, LayerRequest, LayerRaw}
	property(t, func(r *rand.Rand, s *Snapshot) string {
		if !s.rules[0].Block {
			return ""
		}
		c := randomCase(r)
		f := c.facts(pick(r, layers))
		with, without := s.Step(f), (&Snapshot{rules: s.rules[1:]}).Step(f)
		if with.Word > without.Word {
			return fmt.Sprintf("%s at %s: %s without the block, %s with it", c, f.Layer(), without.Word, with.Word)
		}
		return ""
	})
}

// What a true block would stop with everything visible never passes.
func TestPropertyHiddenNeverHelps(t *testing.T) {
	property(t, func(r *rand.Rand, s *Snapshot) string {
		c := randomCase(r)
		f := c.facts(LayerHello)
		full := f.Clone()
		full.set(HTTPPath, c.head.Path)
		full.set(HTTPQuery, "")
		full.set(HTTPHeaders, map[string]string{})
		if c.head.Headers != nil {
			full.set(HTTPHeaders, c.head.Headers)
		}
		full.set(HTTPBodySize, int64(1))
		full.SetProcess(&Process{Exe: "/x", Args: []string{"x"}})
		a, b := s.Step(full), s.Step(f)
		if a.Word == Deny && b.Word == Allow && c.proc == nil {
			return fmt.Sprintf("%s: blocked with everything visible (%s), allowed as it is (%s)", c, a.Reason, b.Reason)
		}
		return ""
	})
}

// transparent says whether a client without proxy gets its bytes through.
func (c propCase) transparent(s *Snapshot, l Layer) (dns, ok bool) {
	q := c.facts(LayerDNS)
	if Act(LayerDNS, "", s.Step(q), false) != Answer {
		return false, false
	}
	if open, _ := s.OpenAddr(q, c.addr, propHost); !open {
		return true, false
	}
	cands := []Candidate{{Name: c.name, Grants: s.Grants(q, c.addr)}}
	fl := s.Flow(c.facts(LayerFlow), c.addr, cands, propHost)
	switch Act(LayerFlow, TCP, fl.Outcome, true) {
	case RelayUnread:
		return true, true
	case RelayRead, Hold:
		return true, Act(l, TCP, s.Content(c.facts(l), c.addr, cands, propHost).Outcome, true) == Pass
	}
	return true, false
}

// proxied says the same of CONNECT through the explicit proxy.
func (c propCase) proxied(s *Snapshot, l Layer) bool {
	f := c.facts(LayerConnect)
	f.Hide(NetworkIP, Later)
	q := c.facts(LayerDNS)
	if !MayResolve(s.Content(f, netip.Addr{}, nil, propHost).Outcome, s.Step(q)) {
		return false
	}
	if open, _ := s.OpenAddr(q, c.addr, propHost); !open {
		return false
	}
	cands := []Candidate{{Name: c.name, Grants: s.Grants(q, c.addr)}}
	fl := s.Content(c.facts(LayerConnect), c.addr, cands, propHost)
	switch Act(LayerConnect, TCP, fl.Outcome, true) {
	case RelayUnread:
		return true
	case RelayRead, Hold:
		return Act(l, TCP, s.Content(c.facts(l), c.addr, cands, propHost).Outcome, true) == Pass
	}
	return false
}

// What passes transparently as TLS or HTTP passes through CONNECT, and, given
// a dns allow, the other way round.
func TestPropertyTransparentIsConnect(t *testing.T) {
	property(t, func(r *rand.Rand, s *Snapshot) string {
		c := randomCase(r)
		l := pick(r, []Layer{LayerHello, LayerRequest})
		dns, a := c.transparent(s, l)
		b := c.proxied(s, l)
		if a && !b {
			return fmt.Sprintf("%s as %s passes transparently, not through CONNECT", c, l)
		}
		if dns && b && !a {
			return fmt.Sprintf("%s as %s passes through CONNECT, not transparently", c, l)
		}
		return ""
	})
}

// Flow not deny ⟹ the kernel's share passes.
func TestPropertyKernelPasses(t *testing.T) {
	covers := func(cells []Cell, a netip.Addr, proto Proto, port uint16) bool {
		for _, c := range cells {
			if c.Proto == proto && c.Prefix.Contains(a) && c.PortLow <= port && port <= c.PortHigh {
				return true
			}
		}
		return false
	}
	n := 0
	property(t, func(r *rand.Rand, s *Snapshot) string {
		if n++; n%8 != 0 { // the derivation is slower than a verdict
			return ""
		}
		c := randomCase(r)
		c.proto = pick(r, []Proto{TCP, UDP, ICMP})
		if c.proto == ICMP {
			c.port = 0
		}
		var cands []Candidate
		for _, name := range []string{c.name, c.other} {
			q := NewFacts(LayerDNS, who)
			q.SetProcess(c.proc)
			q.SetQuestion(name, "A")
			if r.IntN(3) > 0 {
				cands = append(cands, Candidate{Name: name, Grants: s.Grants(q, c.addr)})
			}
		}
		fl := s.Flow(c.facts(LayerFlow), c.addr, cands, propHost)
		if fl.Word == Deny {
			return ""
		}
		for _, k := range cands {
			if covers(s.Cells(who, k.Name, c.addr, k.Grants, propHost), c.addr, c.proto, c.port) {
				return ""
			}
		}
		if covers(s.NetCells(who, propHost), c.addr, c.proto, c.port) {
			return ""
		}
		return fmt.Sprintf("%s with %v is %s (%s) and the kernel drops it", c, cands, fl.Word, fl.Reason)
	})
}

// NetCells are disjoint and hold no address that nothing opens.
func TestPropertyNetCellsDisjoint(t *testing.T) {
	n := 0
	property(t, func(r *rand.Rand, s *Snapshot) string {
		if n++; n%100 != 0 {
			return ""
		}
		cells := s.NetCells(who, propHost)
		for i, a := range cells {
			if c, why := Classify(a.Prefix.Addr(), propHost); c == Never {
				return fmt.Sprintf("%v is %s", a, why)
			}
			for _, b := range cells[:i] {
				if a.Proto == b.Proto && a.Prefix.Overlaps(b.Prefix) && a.PortLow <= b.PortHigh && b.PortLow <= a.PortHigh {
					return fmt.Sprintf("%v and %v overlap", a, b)
				}
			}
		}
		return ""
	})
}
