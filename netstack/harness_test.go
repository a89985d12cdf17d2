package netstack

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"outcall/netstack/egress"
	"outcall/netstack/link"
	"outcall/policy"
)

var (
	gw4    = netip.MustParseAddr("10.200.0.1")
	gw6    = netip.MustParseAddr("fd0c:a11::1")
	agent4 = netip.MustParseAddr("10.200.0.2")
	agent6 = netip.MustParseAddr("fd0c:a11::2")

	shared  = netip.MustParseAddr("93.184.216.34") // a.test and e.test
	shared6 = netip.MustParseAddr("2606:2800::34")
)

const patience = 5 * time.Second

// fakeLink joins two stacks in this process.
type fakeLink struct{ ep link.Endpoint }

func (l fakeLink) Endpoint() link.Endpoint       { return l.ep }
func (l fakeLink) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// newFakeLink makes an endpoint one that packets can be handed to.
func newFakeLink(child stack.LinkEndpoint) fakeLink {
	ep := &nested.Endpoint{}
	ep.Init(child, ep)
	return fakeLink{ep}
}

type fakePins struct {
	mu      sync.Mutex
	m       map[netip.Addr][]policy.Candidate
	expired map[netip.Addr][]string
	held    int
	panics  bool
}

func (p *fakePins) Candidates(a netip.Addr) []policy.Candidate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.panics {
		panic("a bug in the pin table")
	}
	return append([]policy.Candidate(nil), p.m[a]...)
}

func (p *fakePins) ExpiredNames(a netip.Addr) (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.expired[a] {
		if !slices.ContainsFunc(p.m[a], func(c policy.Candidate) bool { return c.Name == n }) {
			out = append(out, n)
		}
	}
	return out
}

func (p *fakePins) Hold(string, netip.Addr) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held++
	return func() { p.mu.Lock(); p.held--; p.mu.Unlock() }
}

func (p *fakePins) pin(name string, a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.m[a] = append(p.m[a], policy.Candidate{Name: name})
}

// fakeNames resolves from a map and pins what it answers.
type fakeNames struct {
	pins  *fakePins
	snap  func() *policy.Snapshot
	addrs map[string][]netip.Addr
	mu    sync.Mutex
	asked []Question

	observe bool
}

func (n *fakeNames) ServeUDP(_ context.Context, _, dst netip.AddrPort, msg []byte) []byte {
	return []byte("udp " + dst.String() + " " + string(msg))
}

func (n *fakeNames) ServeTCP(_ context.Context, c net.Conn, _, dst netip.AddrPort) {
	_, _ = io.WriteString(c, "tcp "+dst.String())
	_ = c.Close()
}

func (n *fakeNames) Resolve(_ context.Context, q Question) (Answer, error) {
	n.mu.Lock()
	n.asked = append(n.asked, q)
	n.mu.Unlock()
	f := policy.NewFacts(policy.LayerDNS, policy.Who{})
	f.SetQuestion(q.Name, "A")
	o := n.snap().Step(f)
	would := q.NeedAllow && o.Word < policy.Provisional || o.Word == policy.Deny && o.Rule != nil
	if would && !n.observe {
		return Answer{Denied: true, Outcome: o}, nil
	}
	a := n.addrs[q.Name]
	if len(a) == 0 {
		return Answer{Reason: "the name has no address"}, nil
	}
	for _, x := range a {
		n.pins.pin(q.Name, x)
	}
	if q.Keep.IsValid() {
		n.pins.pin(q.Name, q.Keep)
	}
	return Answer{Addrs: a, WouldDeny: would, Outcome: o}, nil
}

// fakeDialer leads judged addresses to servers on loopback.
type fakeDialer struct {
	mu     sync.Mutex
	to     map[netip.AddrPort]string
	fail   map[netip.AddrPort]egress.Kind
	dialed []netip.AddrPort
	block  chan struct{}
	mute   map[netip.AddrPort]bool // nobody answers there
	left   int                     // dials of mute ones that have been given up
}

func (d *fakeDialer) Dial(ctx context.Context, _ string, dst netip.AddrPort) (*egress.Conn, error) {
	d.mu.Lock()
	d.dialed = append(d.dialed, dst)
	to, kind, block, mute := d.to[dst], d.fail[dst], d.block, d.mute[dst]
	d.mu.Unlock()
	if mute {
		<-ctx.Done()
		d.mu.Lock()
		d.left++
		d.mu.Unlock()
		return nil, &egress.Error{Kind: egress.Timeout, Addr: dst, Err: ctx.Err()}
	}
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
		}
	}
	if kind != 0 || to == "" {
		if kind == 0 {
			kind = egress.Refused
		}
		return nil, &egress.Error{Kind: kind, Addr: dst, Err: syscall.ECONNREFUSED}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	return egress.Wrap(c.(*net.TCPConn)), nil
}

func (d *fakeDialer) count() int { d.mu.Lock(); defer d.mu.Unlock(); return len(d.dialed) }

// recorder keeps events and wakes those who wait for one.
type recorder struct {
	mu     sync.Mutex
	events []policy.Event
	more   chan struct{}
	fail   error // the disk's refusal
}

func (r *recorder) Err() error { r.mu.Lock(); defer r.mu.Unlock(); return r.fail }

func (r *recorder) refuse(err error) { r.mu.Lock(); defer r.mu.Unlock(); r.fail = err }

func (r *recorder) Record(e policy.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	close(r.more)
	r.more = make(chan struct{})
	r.mu.Unlock()
}

func (r *recorder) find(match func(policy.Event) bool) (e policy.Event, n int, more chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.events {
		if match(x) {
			e, n = x, n+1
		}
	}
	return e, n, r.more
}

func (r *recorder) wait(t testing.TB, what string, match func(policy.Event) bool) policy.Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		e, n, more := r.find(match)
		if n > 0 {
			return e
		}
		select {
		case <-more:
		case <-deadline:
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("no %s among %+v", what, r.events)
		}
	}
}

func denyAt(layer string) func(policy.Event) bool {
	return func(e policy.Event) bool { return e.Event == "verdict" && e.Verdict == "deny" && e.Layer == layer }
}

func (r *recorder) deny(t testing.TB, layer string) policy.Event {
	t.Helper()
	return r.wait(t, "deny at "+layer, denyAt(layer))
}

func (r *recorder) denials() int {
	_, n, _ := r.find(func(e policy.Event) bool { return e.Verdict == "deny" })
	return n
}

// bed is one session on the bench: an agent's stack, ours, and servers.
type bed struct {
	*Stack
	t     testing.TB
	agent *stack.Stack
	pins  *fakePins
	names *fakeNames
	dial  *fakeDialer
	log   *recorder

	icmp chan [2]byte // type and code of what the agent got

	mu   sync.Mutex
	snap *policy.Snapshot
}

// seeEndpoint shows the ICMP messages that reach the agent: gVisor's sockets
// do not.
type seeEndpoint struct {
	stack.LinkEndpoint
	icmp chan [2]byte
}

func (e seeEndpoint) Attach(d stack.NetworkDispatcher) {
	if d != nil {
		d = seeDispatcher{d, e.icmp}
	}
	e.LinkEndpoint.Attach(d)
}

type seeDispatcher struct {
	stack.NetworkDispatcher
	icmp chan [2]byte
}

func (d seeDispatcher) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	p, err := parsePacket(pkt.Data().AsRange().ToSlice())
	if err == nil && (p.proto == protoICMP || p.proto == protoICMPv6) && len(p.l4) > 1 {
		select {
		case d.icmp <- [2]byte(p.l4[:2]):
		default:
		}
	}
	d.NetworkDispatcher.DeliverNetworkPacket(proto, pkt)
}

func (b *bed) current() *policy.Snapshot { b.mu.Lock(); defer b.mu.Unlock(); return b.snap }
func (b *bed) swap(s *policy.Snapshot)   { b.mu.Lock(); b.snap = s; b.mu.Unlock() }

func load(t testing.TB, rules string) *policy.Snapshot {
	t.Helper()
	s, err := policy.Load([]policy.Source{{Path: "test.yaml", Data: []byte("version: \"1\"\nrules:\n" + rules)}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rule writes one rule of a file.
func rule(id, action, condition string) string {
	return "  - {id: " + id + ", action: " + action + ", condition: '" + condition + "'}\n"
}

const allowA = `network.hostname == "a.test" || dns.query == "a.test"`

func newBed(t testing.TB, rules string, opts ...func(*Config, *timeouts)) *bed {
	t.Helper()
	e1, e2 := pipe.New("\x02\x00\x00\x00\x00\x01", "\x02\x00\x00\x00\x00\x02", 65520)
	b := &bed{t: t, log: &recorder{more: make(chan struct{})},
		pins: &fakePins{m: map[netip.Addr][]policy.Candidate{}, expired: map[netip.Addr][]string{}},
		dial: &fakeDialer{to: map[netip.AddrPort]string{}, fail: map[netip.AddrPort]egress.Kind{}}}
	b.snap = load(t, rules)
	b.names = &fakeNames{pins: b.pins, snap: b.current, addrs: map[string][]netip.Addr{"a.test": {shared}}}
	cfg := Config{Link: newFakeLink(e1), Snapshot: b.current, Who: policy.Who{Agent: "x", Session: "x-1"}, Pins: b.pins,
		DNS: b.names, Egress: b.dial, Auditor: b.log, Gateway4: gw4, Gateway6: gw6, ProxyPort: 8080,
		Host: func() *policy.Host {
			return &policy.Host{Session: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24"), netip.MustParsePrefix("fd0c:a11::/64")}}
		}}
	times := defaultTimeouts
	times.first, times.linger = 300*time.Millisecond, 100*time.Millisecond
	for _, o := range opts {
		o(&cfg, &times)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.times = times
	b.Stack = s
	b.icmp = make(chan [2]byte, 64)
	b.agent = agentStack(t, seeEndpoint{e2, b.icmp})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not end")
		}
		b.agent.Destroy()
		if n := s.flows.len(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
	b.ready()
	return b
}

// ready waits until the stack takes packets.
func (b *bed) ready() {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if b.net.CheckNIC(nic) && len(b.net.GetRouteTable()) > 0 {
			return
		}
	}
	b.t.Fatal("the stack did not come up")
}

func agentStack(t testing.TB, ep stack.LinkEndpoint) *stack.Stack {
	t.Helper()
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}), ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := s.CreateNIC(1, ep); err != nil {
		t.Fatal(err)
	}
	for a, p := range map[netip.Addr]tcpip.NetworkProtocolNumber{agent4: header.IPv4ProtocolNumber, agent6: header.IPv6ProtocolNumber} {
		if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: p, AddressWithPrefix: toAddr(a).WithPrefix()},
			stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	return s
}

func full(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	p := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
	if a.Addr().Is6() {
		p = header.IPv6ProtocolNumber
	}
	return tcpip.FullAddress{NIC: 1, Addr: toAddr(a.Addr()), Port: a.Port()}, p
}

func (b *bed) try(dst netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addr, p := full(dst)
	c, err := gonet.DialContextTCP(ctx, b.agent, addr, p)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		b.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (b *bed) connect(dst netip.AddrPort) *gonet.TCPConn {
	b.t.Helper()
	c, err := b.try(dst)
	if err != nil {
		b.t.Fatalf("connect %s: %v", dst, err)
	}
	return c
}

func ap(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

var certOnce = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a.test", "e.test"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// tlsEcho is a TLS server that echoes one line.
func tlsEcho(cfg *tls.Config) func(net.Conn) {
	cfg.Certificates = []tls.Certificate{certOnce()}
	return func(c net.Conn) {
		tc := tls.Server(c, cfg)
		_, _ = io.Copy(tc, tc)
		_ = tc.CloseWrite()
	}
}

func tlsClient(name string) *tls.Config {
	return &tls.Config{ServerName: name, InsecureSkipVerify: true}
}

// roundTrip sends a line over a connection and expects it back.
func roundTrip(t testing.TB, c io.ReadWriter, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatalf("write: %v", err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != line {
		t.Fatalf("read %q, %v; want %q", got, err, line)
	}
}
