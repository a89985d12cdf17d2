package netstack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"outcall/netstack/dnsfilter"
	"outcall/netstack/egress"
	"outcall/netstack/pin"
	"outcall/policy"
)

// C9: random flows under random rules, through explain and through the real
// handlers: DNS filter, pins, the transparent way and the explicit proxy. What
// explain says of each way is what happens on it.
func TestC9ExplainIsWhatTheHandlersDo(t *testing.T) {
	flows := 2000
	if os.Getenv("FULL") == "1" {
		flows = 100_000
	}
	if testing.Short() {
		flows = 200
	}
	const chunk = 1000 // flows of one session: it has ports for no more
	r := rand.New(rand.NewPCG(20261129, 9))
	seen := map[string]int{}
	for done := 0; done < flows; done += chunk {
		t.Run(fmt.Sprint(done), func(t *testing.T) {
			s := newC9(t, fmt.Sprintf("127.0.0.%d", 2+done/chunk%200))
			for n := 0; n < min(chunk, flows-done); n += s.flows {
				s.replace(c9Rules(r))
				s.flows = 0
				for range 10 {
					s.flow(r, seen)
				}
			}
		})
		if t.Failed() {
			return
		}
	}
	for _, v := range []string{"allow", "deny"} {
		for _, via := range []string{"direct", "proxy"} {
			if n := seen[via+" "+v]; n < flows/40 {
				t.Errorf("of %d flows %d are %s %s: %v", flows, n, via, v, seen)
			}
		}
	}
	t.Logf("%d flows: %v", flows, seen)
}

// c9Zone are the names outside. Two share an address, one has a private one.
var c9Zone = map[string]string{"a.test": "93.184.216.34", "e.test": "93.184.216.34", "x.a.test": "93.184.217.1", "in.test": "10.1.2.3"}

var (
	c9Names   = []string{"a.test", "e.test", "x.a.test", "in.test"}
	c9Process = &policy.Process{Exe: "/usr/bin/x"}
)

// c9 is a bench whose names, pins and rules are replaced together.
type c9 struct {
	*bed
	rules string
	flows int
	pins  atomic.Pointer[pin.Table]
	dns   atomic.Pointer[dnsfilter.Filter]
	got   atomic.Int64 // connections outside on which octets came
	hosts func() *policy.Host
	id    uint16
	gen   uint64
	hello map[string][]byte
}

func newC9(t *testing.T, sink string) *c9 {
	s := &c9{hello: map[string][]byte{}}
	ln, err := net.Listen("tcp", sink+":0")
	if err != nil {
		t.Fatal(err)
	}
	go s.serveSink(ln)
	t.Cleanup(func() { ln.Close() })
	s.bed = newBed(t, rule("a", "allow", "true"), func(c *Config, _ *timeouts) {
		c.Pins, c.DNS, c.Egress = c9Pins{s}, c9Resolver{s}, c9Dialer{to: ln.Addr().String()}
		c.Attributor = c9Attributor{}
		s.hosts = c.Host
	})
	// The agent's stack here takes ports again sooner than a kernel would.
	wait := tcpip.TCPTimeWaitTimeoutOption(time.Millisecond)
	if err := s.net.SetTransportProtocolOption(tcp.ProtocolNumber, &wait); err != nil {
		t.Fatal(err)
	}
	return s
}

// serveSink answers an HTTP request with 204 and all else with a word.
func (s *c9) serveSink(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * patience))
			buf := make([]byte, 4096)
			n, _ := c.Read(buf)
			if n == 0 {
				return
			}
			s.got.Add(1)
			if bytes.HasPrefix(buf[:n], []byte("GET ")) {
				_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			} else {
				_, _ = io.WriteString(c, "arrived\n")
			}
			_, _ = io.Copy(io.Discard, c)
		}()
	}
}

type c9Attributor struct{}

func (c9Attributor) Attribute(context.Context, Tuple) *policy.Process { return c9Process }

type c9Dialer struct {
	Dialer // nil: the flows are TCP
	to     string
}

func (d c9Dialer) Dial(ctx context.Context, _ string, _ netip.AddrPort) (*egress.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.to)
	if err != nil {
		return nil, err
	}
	return egress.Wrap(c.(*net.TCPConn)), nil
}

type c9Pins struct{ s *c9 }

func (p c9Pins) Candidates(a netip.Addr) []policy.Candidate { return p.s.pins.Load().Candidates(a) }
func (p c9Pins) ExpiredNames(a netip.Addr) []string         { return p.s.pins.Load().ExpiredNames(a) }
func (p c9Pins) Hold(n string, a netip.Addr) func()         { return p.s.pins.Load().Hold(n, a) }

type c9Resolver struct{ s *c9 }

func (r c9Resolver) now() FilterNames { return FilterNames{r.s.dns.Load()} }

func (r c9Resolver) ServeUDP(ctx context.Context, src, dst netip.AddrPort, msg []byte) []byte {
	return r.now().ServeUDP(ctx, src, dst, msg)
}
func (r c9Resolver) ServeTCP(ctx context.Context, c net.Conn, src, dst netip.AddrPort) {
	r.now().ServeTCP(ctx, c, src, dst)
}
func (r c9Resolver) Resolve(ctx context.Context, q Question) (Answer, error) {
	return r.now().Resolve(ctx, q)
}

// noKernel takes every cell.
type noKernel struct{}

func (noKernel) AddPins(context.Context, []policy.Cell) error { return nil }
func (noKernel) DelPins(context.Context, []policy.Cell) error { return nil }

// Exchange answers from c9Zone.
func (s *c9) Exchange(_ context.Context, _ netip.AddrPort, _ bool, query []byte, accept func([]byte) bool) ([]byte, error) {
	q := new(dns.Msg)
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	m := new(dns.Msg).SetReply(q)
	if a := c9Zone[strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))]; a != "" && q.Question[0].Qtype == dns.TypeA {
		rr, err := dns.NewRR(q.Question[0].Name + " 300 A " + a)
		if err != nil {
			return nil, err
		}
		m.Answer = append(m.Answer, rr)
	}
	raw, err := m.Pack()
	if err == nil {
		accept(raw)
	}
	return raw, err
}

// replace begins a session of its own: new rules, and no name is pinned.
func (s *c9) replace(rules string) {
	s.rules = rules
	snap := load(s.t, rules)
	s.gen++
	snap.Generation = s.gen
	who := s.cfg.Who
	pins := pin.New(pin.Options{Kernel: noKernel{}, Generation: s.gen, Cells: func(n string, a netip.Addr, g []policy.Grant) []policy.Cell {
		return snap.Cells(who, n, a, g, s.hosts())
	}})
	if old := s.dns.Load(); old != nil {
		old.Close()
	}
	s.dns.Store(dnsfilter.New(dnsfilter.Config{Who: who, Snapshot: func() *policy.Snapshot { return snap }, Host: s.hosts, Pins: pins, Audit: s.log,
		Attribute: func(context.Context, policy.Proto, netip.AddrPort, netip.AddrPort) *policy.Process { return c9Process },
		Exchanger: s, Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, IPv6: true, Gateway4: gw4, Gateway6: gw6,
		Host4: netip.MustParseAddr("10.200.0.254"), Host6: netip.MustParseAddr("fd0c:a11::fe")}))
	s.pins.Store(pins)
	s.swap(snap)
	s.log.mu.Lock()
	s.log.events = nil
	s.log.mu.Unlock()
}

// flow explains a random target, then goes both ways to it.
func (s *c9) flow(r *rand.Rand, seen map[string]int) {
	name := c9Names[r.IntN(len(c9Names))]
	scheme, ports := "https", []uint16{443, 443, 8443}
	switch r.IntN(3) {
	case 0:
		scheme, ports = "http", []uint16{80, 80, 443}
	case 1:
		scheme, ports = "tcp", []uint16{22, 443}
	}
	port := ports[r.IntN(len(ports))]
	addr := netip.MustParseAddr(c9Zone[name])
	host := name
	if r.IntN(5) == 0 {
		host = addr.String()
	}
	path := ""
	if scheme != "tcp" {
		path = []string{"/", "/p/x", "/q"}[r.IntN(3)]
	}
	for i, via := range []string{"direct", "proxy"} {
		query := policy.ExplainQuery{Target: fmt.Sprintf("%s://%s:%d%s", scheme, host, port, path), Who: s.cfg.Who, Exe: c9Process.Exe,
			Host: s.hosts(), Pinned: s.pins.Load().Candidates}
		if host == name {
			query.IP = addr
		}
		x, err := s.current().Explain(query)
		if err != nil {
			s.t.Fatal(err)
		}
		want := x.Routes[i].Verdict
		before := s.got.Load()
		var ok bool
		if via == "direct" {
			ok = s.direct(host, netip.AddrPortFrom(addr, port), scheme, path)
		} else {
			ok = s.proxied(host, port, scheme, path)
		}
		s.flows++
		seen[via+" "+want]++
		if arrived := s.got.Load() > before; ok != arrived {
			s.t.Errorf("%s %s: the client is told %v, and octets arrived: %v\n%s", via, query.Target, ok, arrived, s.rules)
		}
		if want != policy.VerdictDepends && ok != (want == policy.VerdictAllow) {
			s.t.Fatalf("%s %s: explain says %s, the handlers let it through: %v\n%s\n%s", via, query.Target, want, ok, x, s.rules)
		}
	}
}

// direct is a client that knows no proxy.
func (s *c9) direct(host string, dst netip.AddrPort, scheme, path string) bool {
	if host != dst.Addr().String() && !s.resolves(host) {
		return false
	}
	c, err := s.try(dst)
	if err != nil {
		return false
	}
	defer c.Close()
	return s.talk(c, host, dst.Port(), scheme, path)
}

func (s *c9) resolves(host string) bool {
	s.id++
	q := new(dns.Msg).SetQuestion(host+".", dns.TypeA)
	q.Id = s.id
	raw, err := q.Pack()
	if err != nil {
		s.t.Fatal(err)
	}
	reply := s.cfg.DNS.ServeUDP(s.t.Context(), netip.AddrPortFrom(agent4, 40000), netip.AddrPortFrom(gw4, 53), raw)
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		s.t.Fatalf("the answer for %s: %v", host, err)
	}
	return m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0
}

// talk says what a client of the scheme says first, and tells whether the
// answer from outside came.
func (s *c9) talk(c net.Conn, host string, port uint16, scheme, path string) bool {
	first := "EHLO x\r\n"
	switch scheme {
	case "https":
		sni := host
		if _, err := netip.ParseAddr(host); err == nil {
			sni = ""
		}
		if s.hello[sni] == nil {
			s.hello[sni] = clientHello(s.t, tlsClient(sni))
		}
		first = string(s.hello[sni])
	case "http":
		first = fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n\r\n", path, host, port)
	}
	if _, err := io.WriteString(c, first); err != nil {
		return false
	}
	return arrived(c)
}

func arrived(c net.Conn) bool {
	buf := make([]byte, 4096)
	n, _ := io.ReadAtLeast(c, buf, len("arrived\n"))
	return bytes.HasPrefix(buf[:n], []byte("arrived\n")) || bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 204"))
}

// proxied is a client of the explicit proxy.
func (s *c9) proxied(host string, port uint16, scheme, path string) bool {
	c := s.connect(netip.AddrPortFrom(gw4, 8080))
	defer c.Close()
	if scheme == "http" {
		fmt.Fprintf(c, "GET http://%s:%d%s HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n\r\n", host, port, path, host, port)
		return arrived(c)
	}
	fmt.Fprintf(c, "CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n\r\n", host, port, host, port)
	const ok = "HTTP/1.1 200 Connection Established\r\n\r\n"
	buf := make([]byte, len(ok))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != ok {
		return false
	}
	return s.talk(c, host, port, scheme, path)
}

// c9Rules writes a few random rules over the fields of every layer.
func c9Rules(r *rand.Rand) string {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	name := func() string { return c9Names[r.IntN(len(c9Names))] }
	atoms := []func() string{
		func() string { return fmt.Sprintf(`dns.query == "%s"`, name()) },
		func() string { return fmt.Sprintf(`domain(dns.query, "%s")`, pick("a.test", "test", "e.test")) },
		func() string { return fmt.Sprintf(`network.hostname %s "%s"`, pick("==", "=="), name()) },
		func() string { return fmt.Sprintf(`http.host %s "%s"`, pick("==", "==", "!="), name()) },
		func() string { return fmt.Sprintf(`tls.sni %s "%s"`, pick("==", "!="), name()) },
		func() string { return fmt.Sprintf(`network.ip == "%s"`, c9Zone[name()]) },
		func() string {
			return fmt.Sprintf(`cidr("%s").contains(network.ip)`, pick("93.184.216.0/24", "93.184.0.0/16", "0.0.0.0/0", "10.0.0.0/8"))
		},
		func() string { return pick(`network.port == 443`, `network.port in [22, 80]`, `network.port > 100`) },
		func() string {
			return pick(`network.protocol == "tcp"`, `http.scheme == "https"`, `http.scheme == "http"`)
		},
		func() string {
			return pick(`http.path.startsWith("/p/")`, `http.path.matches("^/q")`, `http.method == "GET"`, `http.method == "CONNECT"`)
		},
		func() string {
			return pick(`tls.ech`, `"h2" in tls.alpn`, `tls.version == "1.3"`, `size(tls.alpn) > 0`)
		},
		func() string { return pick(`process.exe == "/usr/bin/x"`, `process.name == "y"`, `agent.name == "x"`) },
		func() string {
			return pick(`http.headers["k"] == "v"`, `http.body_size == 0`, `1 / (network.port - 443) >= 0`)
		},
		func() string { return `dns.record_type == "A"` },
	}
	var cond func(depth int) string
	cond = func(depth int) string {
		if depth == 0 || r.IntN(3) == 0 {
			return atoms[r.IntN(len(atoms))]()
		}
		if r.IntN(8) == 0 {
			return "!(" + cond(depth-1) + ")"
		}
		return "(" + cond(depth-1) + pick(" && ", " || ") + cond(depth-1) + ")"
	}
	var b strings.Builder
	for i := range 2 + r.IntN(5) {
		action, text, egress := "block", cond(2), ""
		if i == 0 || r.IntN(3) > 0 {
			action = "allow"
			if r.IntN(2) == 0 {
				n := name()
				text = fmt.Sprintf(`dns.query == "%s" || network.hostname == "%s" && (%s)`, n, n, text)
			}
			egress = pick("", "", "", ", egress: {ports: [443, 80]}", ", egress: {mode: direct_ip}", ", egress: {allow_private_ips: true}")
		}
		fmt.Fprintf(&b, "  - {id: r%d, priority: %d, action: %s, condition: '%s'%s}\n", i, r.IntN(3), action, text, egress)
	}
	return b.String()
}
