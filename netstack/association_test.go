package netstack

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"outcall/integration/quictest"
	"outcall/netstack/egress"
	"outcall/netstack/link"
	"outcall/policy"
)

// DialUDP leads to the UDP server that stands for dst.
func (d *fakeDialer) DialUDP(_ string, dst netip.AddrPort) (*egress.Datagrams, error) {
	d.mu.Lock()
	d.dialed = append(d.dialed, dst)
	to, kind := d.to[dst], d.fail[dst]
	d.mu.Unlock()
	if kind != 0 || to == "" {
		return nil, &egress.Error{Kind: cmp.Or(kind, egress.Unreachable), Addr: dst, Err: errors.New("as the test wants it")}
	}
	out, err := egress.New(egress.Config{})
	if err != nil {
		return nil, err
	}
	return out.DialUDP("", netip.MustParseAddrPort(to))
}

// DialEcho is the same: a UDP server gets the ICMP messages.
func (d *fakeDialer) DialEcho(name string, dst netip.Addr) (*egress.Datagrams, error) {
	return d.DialUDP(name, ap(dst, 0))
}

// A udpServer notes what it gets and answers it.
type udpServer struct {
	net.PacketConn
	mu  sync.Mutex
	got []string
}

// serveUDP puts a server behind an address; answer may be nil.
func (b *bed) serveUDP(dst netip.AddrPort, answer func([]byte) []byte) *udpServer {
	b.t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	s := &udpServer{PacketConn: pc}
	b.t.Cleanup(func() { pc.Close() })
	b.dial.mu.Lock()
	b.dial.to[dst] = pc.LocalAddr().String()
	b.dial.mu.Unlock()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.got = append(s.got, string(buf[:n]))
			s.mu.Unlock()
			if answer != nil {
				_, _ = pc.WriteTo(answer(buf[:n]), from)
			}
		}
	}()
	return s
}

func same(b []byte) []byte { return b }

func (s *udpServer) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.got...)
}

// udp is a connected socket of the agent.
func (b *bed) udpTo(dst netip.AddrPort) *gonet.UDPConn {
	b.t.Helper()
	a, p := full(dst)
	c, err := gonet.DialUDP(b.agent, nil, &a, p)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	b.t.Cleanup(func() { c.Close() })
	return c
}

func (b *bed) sends(c net.Conn, datagrams ...[]byte) {
	b.t.Helper()
	for _, d := range datagrams {
		if _, err := c.Write(d); err != nil {
			b.t.Fatal(err)
		}
	}
}

// wantICMP waits for the ICMP error that the agent gets, as type and code of
// IPv4 or IPv6.
func (b *bed) wantICMP(code icmpCode) {
	b.t.Helper()
	select {
	case got := <-b.icmp:
		if got != [2]byte{code.t4, code.c4} && got != [2]byte{code.t6, code.c6} {
			b.t.Errorf("ICMP %v, want %+v", got, code)
		}
	case <-time.After(patience):
		b.t.Errorf("no ICMP %+v", code)
	}
}

func (b *bed) echoes(c net.Conn, line string) {
	b.t.Helper()
	buf := make([]byte, 1<<16)
	b.sends(c, []byte(line))
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != line {
		b.t.Fatalf("%q, %v; want %q", buf[:n], err, line)
	}
}

const allowUDP = `dns.query == "a.test" || network.hostname == "a.test" && network.protocol == "udp"`

// UDP by name: both ways, both families, with lines in the audit.
func TestUDPByName(t *testing.T) {
	for _, addr := range []netip.Addr{shared, shared6} {
		b := newBed(t, rule("a", "allow", allowUDP), func(_ *Config, w *timeouts) { w.udp = 200 * time.Millisecond })
		b.pins.pin("a.test", addr)
		dst := ap(addr, 5000)
		b.serveUDP(dst, same)
		c := b.udpTo(dst)
		b.echoes(c, "one")
		b.echoes(c, "")
		b.echoes(c, strings.Repeat("x", 1400))
		b.log.wait(t, "verdict", func(e policy.Event) bool {
			return e.Event == "verdict" && e.Verdict == "allow" && e.Protocol == "udp" && e.Port == 5000 && e.Host == "a.test" && e.Rule == "a"
		})
		// Idle, and then anew.
		end := b.log.wait(t, "end", func(e policy.Event) bool { return e.Event == "end" })
		if end.BytesIn != 1403 || end.BytesOut != 1403 || end.Protocol != "udp" || end.Layer != "raw" {
			t.Errorf("%+v", end)
		}
		b.echoes(c, "again")
		b.pins.mu.Lock()
		if b.pins.held == 0 {
			t.Error("the flow holds no pin")
		}
		b.pins.mu.Unlock()
	}
}

// What the outside's kernel has put together comes in whole.
func TestUDPLargeReply(t *testing.T) {
	for _, addr := range []netip.Addr{shared, shared6} {
		b := newBed(t, rule("a", "allow", allowUDP), func(c *Config, _ *timeouts) { c.Link = smallLink{c.Link.(fakeLink)} })
		b.pins.pin("a.test", addr)
		large := strings.Repeat("0123456789", 900)
		b.serveUDP(ap(addr, 5000), func([]byte) []byte { return []byte(large) })
		c := b.udpTo(ap(addr, 5000))
		b.sends(c, []byte("x"))
		buf := make([]byte, 1<<16)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != large {
			t.Errorf("%d octets, %v", n, err)
		}
		b.sends(c, []byte(large)) // as if the kernel had left several in one
		b.log.wait(t, "limit", func(e policy.Event) bool { return e.Event == "limit" && strings.Contains(e.Reason, "not cut up") })
	}
}

func TestUDPDeniedAndUnreachable(t *testing.T) {
	for _, addr := range []netip.Addr{shared, shared6} {
		b := newBed(t, rule("a", "allow", "("+allowUDP+") && network.port < 6000"))
		b.pins.pin("a.test", addr)
		srv := b.serveUDP(ap(addr, 6000), same)
		b.sends(b.udpTo(ap(addr, 6000)), []byte("canary"))
		b.wantICMP(adminProhibited)
		if e := b.log.deny(t, "flow"); e.Protocol != "udp" || e.Port != 6000 || e.Rule != policy.DefaultPolicy {
			t.Errorf("%+v", e)
		}
		if got := srv.all(); len(got) != 0 || b.dial.count() != 0 {
			t.Errorf("arrived: %q", got)
		}
		// A closed port outside, no route, and a proxy that takes no UDP.
		b.serveUDP(ap(addr, 5001), nil).Close()
		b.sends(b.udpTo(ap(addr, 5001)), []byte("x"))
		b.wantICMP(portUnreachable)
		b.dial.fail[ap(addr, 5002)] = egress.Unreachable
		b.sends(b.udpTo(ap(addr, 5002)), []byte("x"))
		b.wantICMP(hostUnreachable)
		b.dial.fail[ap(addr, 5003)] = egress.Proxy
		b.sends(b.udpTo(ap(addr, 5003)), []byte("x"))
		b.wantICMP(adminProhibited)
		e := b.log.wait(t, "denial", func(e policy.Event) bool { return e.Port == 5003 && e.Verdict == "deny" })
		if !e.Structural || !strings.Contains(e.Reason, "udp cannot go out") {
			t.Errorf("%+v", e)
		}
	}
}

// TestN5K18QUIC: the name in each Initial is judged before it leaves.
func TestN5K18QUIC(t *testing.T) {
	id, other := []byte("12345678"), []byte("abcdefgh")
	allowed, denied := quictest.Hello(id, "a.test"), quictest.Hello(other, "e.test")
	a1, a2 := quictest.Halves(id, "a.test")
	e1, e2 := quictest.Halves(other, "e.test")
	v2 := quictest.Initial{Version: quictest.Version2, ID: other, Frames: quictest.Crypto(0, quictest.ClientHello("e.test")), Pad: 1200}.Seal()
	retry := append([]byte{0xf0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0}, make([]byte, 40)...)
	unknown := append(binary.BigEndian.AppendUint32([]byte{0xc0}, 0x1a2a3a4a), make([]byte, 1200)...)
	for name, c := range map[string]struct {
		in    [][]byte
		out   int // how many of them arrive
		layer string
	}{
		"allowed":              {[][]byte{allowed, {0x40, 1}}, 2, ""},
		"allowed, two halves":  {[][]byte{a2, a1}, 2, ""},
		"denied":               {[][]byte{denied}, 0, "hello"},
		"denied, two halves":   {[][]byte{e1, e2}, 0, "hello"},
		"denied, version 2":    {[][]byte{v2}, 0, "hello"},
		"denied behind":        {[][]byte{allowed, denied}, 1, "hello"},
		"denied, coalesced":    {[][]byte{append(append([]byte(nil), allowed...), denied...)}, 0, "hello"},
		"a Retry":              {[][]byte{allowed, retry}, 1, "hello"},
		"version negotiation":  {[][]byte{{0x80, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1}}, 0, "hello"},
		"an unknown version":   {[][]byte{unknown}, 0, "hello"},
		"no QUIC, by its rule": {[][]byte{[]byte("canary")}, 0, "raw"},
		"no name":              {[][]byte{quictest.Hello(id, "")}, 0, "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, rule("a", "allow", `dns.query == "a.test" || http.host == "a.test"`))
			b.pins.pin("e.test", shared)
			b.pins.pin("a.test", shared)
			srv := b.serveUDP(ap(shared, 443), nil)
			b.sends(b.udpTo(ap(shared, 443)), c.in...)
			if c.layer != "" {
				b.wantICMP(adminProhibited)
				if e := b.log.deny(t, c.layer); e.Protocol != "udp" || e.ID == "" {
					t.Errorf("%+v", e)
				}
			}
			for end := time.Now().Add(patience); len(srv.all()) < c.out && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if got := srv.all(); len(got) != c.out {
				t.Errorf("%d datagrams arrived, want %d", len(got), c.out)
			}
		})
	}
}

// TestK23: under a block that only later fields decide, the datagram waits for
// them, and does not leave where they cannot be had.
func TestK23UDPUnderABlock(t *testing.T) {
	for block, want := range map[string]struct{ quic, raw bool }{
		`tls.sni == "e.test"`:                            {true, true},
		`tls.sni == "a.test"`:                            {false, true},
		`http.path == "/x"`:                              {false, true}, // hidden under QUIC
		`process.exe == "/x" || tls.sni == "e.test"`:     {false, false},
		`network.protocol == "udp" && "h3" in tls.alpn`:  {false, true},
		`network.protocol == "udp" && tls.version > "1"`: {false, true},
	} {
		t.Run(block, func(t *testing.T) {
			b := newBed(t, rule("b", "block", block)+rule("a", "allow", allowUDP))
			b.pins.pin("a.test", shared)
			for i, ok := range []bool{want.quic, want.raw} {
				dst := ap(shared, uint16(443+i))
				srv := b.serveUDP(dst, same)
				d := [][]byte{quictest.Hello([]byte("12345678"), "a.test"), []byte("canary")}[i]
				c := b.udpTo(dst)
				b.sends(c, d)
				if !ok {
					b.wantICMP(adminProhibited)
					b.log.wait(t, "denial", func(e policy.Event) bool { return e.Port == dst.Port() && e.Verdict == "deny" && e.Rule == "b" })
					if got := srv.all(); len(got) != 0 {
						t.Errorf("%d datagrams of kind %d arrived", len(got), i)
					}
				} else if n, err := c.Read(make([]byte, 2000)); err != nil || n != len(d) {
					t.Errorf("kind %d: %d octets, %v", i, n, err)
				}
			}
		})
	}
}

// Granted flows are relayed unread, also what could not be read.
func TestUDPDirectIPIsUnread(t *testing.T) {
	b := newBed(t, `  - {id: d, action: allow, condition: 'dns.query == "a.test"', egress: {mode: direct_ip, ports: [443]}}`+"\n")
	b.pins.m[shared] = []policy.Candidate{{Name: "a.test", Grants: []policy.Grant{{Rule: "d", Proto: policy.UDP, Port: 443}}}}
	b.serveUDP(ap(shared, 443), same)
	c := b.udpTo(ap(shared, 443))
	b.echoes(c, string(quictest.Hello([]byte("12345678"), "anything.test")))
	b.echoes(c, "\x80\x00\x00\x00\x00\x01\x01\x01\x01\x00\x00\x00\x01")
	b.sends(b.udpTo(ap(shared, 80)), []byte("canary"))
	b.wantICMP(adminProhibited)
}

// A name that has run out is asked for again; and what the rules deny after a
// reload, by an operator, or at the table's limit, ends.
func TestUDPRenewalReloadKillAndLimit(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowUDP))
	b.pins.expired[shared] = []string{"a.test"}
	dst := ap(shared, 5000)
	b.serveUDP(dst, same)
	c := b.udpTo(dst)
	b.echoes(c, "renewed")

	ended := func() int {
		_, n, _ := b.log.find(func(e policy.Event) bool { return e.Event == "end" })
		return n
	}
	b.Kill(b.Flows()[0].ID)
	b.log.wait(t, "end", func(policy.Event) bool { return true })
	for ended() != 1 {
		time.Sleep(time.Millisecond)
	}
	b.echoes(c, "another flow")
	next := load(t, rule("a", "allow", allowUDP+" && network.port == 1"))
	if n := b.Reload(t.Context(), b.current(), next); n != 1 {
		t.Errorf("%d flows ended", n)
	}
	b.swap(next)
	b.sends(c, []byte("canary"))
	b.wantICMP(adminProhibited)
	b.swap(load(t, rule("a", "allow", allowUDP)))

	b.flows.max = 2
	first := b.udpTo(dst)
	b.echoes(first, "oldest")
	for range 3 {
		b.echoes(b.udpTo(dst), "newer")
	}
	b.log.wait(t, "limit", func(e policy.Event) bool { return e.Event == "limit" })
	if n := b.flows.len(); n > 2 {
		t.Errorf("%d flows", n)
	}
	b.echoes(first, "begins anew")
}

// Each bound of what waits.
func TestUDPBounds(t *testing.T) {
	b := newBed(t, rule("a", "allow", allowUDP))
	b.pins.pin("a.test", shared)
	srv := b.serveUDP(ap(shared, 443), nil)
	half, _ := quictest.Halves([]byte("12345678"), "a.test")
	// In time.
	b.sends(b.udpTo(ap(shared, 443)), half)
	b.wantICMP(adminProhibited)
	b.log.wait(t, "denial", func(e policy.Event) bool { return strings.Contains(e.Reason, "not whole in time") })
	b.log.wait(t, "end", func(e policy.Event) bool { return e.Event == "end" }) // nothing of it is held now
	// In octets of all flows.
	b.held.Store(maxHeldOctets)
	b.sends(b.udpTo(ap(shared, 443)), half)
	b.wantICMP(adminProhibited)
	b.log.wait(t, "limit", func(e policy.Event) bool { return e.Event == "limit" })
	if n := b.held.Load(); n != maxHeldOctets {
		t.Errorf("%d octets are held", n)
	}
	b.held.Store(0)
	// In datagrams of one flow, and in flows.
	var x mux
	x.init(1)
	one, two := Tuple{Src: ap(agent4, 1)}, Tuple{Src: ap(agent4, 2)}
	q, _ := x.lead(one, datagram{})
	for range maxQueued - 1 {
		if fresh, ok := x.lead(one, datagram{}); !ok || fresh != nil {
			t.Fatal("a datagram of a flow was lost")
		}
	}
	if _, ok := x.lead(one, datagram{}); ok {
		t.Error("the queue has no end")
	}
	if _, ok := x.lead(two, datagram{}); ok {
		t.Error("the table has no end")
	}
	if x.leave(one, q, true) || !x.leave(one, q, false) {
		t.Error("a flow with datagrams was idle, or one without stayed")
	}
	if got := srv.all(); len(got) != 0 {
		t.Errorf("arrived: %d", len(got))
	}
}

// smallLink has the MTU of the packet link, and so its fragments.
type smallLink struct{ fakeLink }

func (l smallLink) Endpoint() link.Endpoint { return smallEndpoint{l.ep} }

type smallEndpoint struct{ link.Endpoint }

func (smallEndpoint) MTU() uint32 { return link.PacketMTU }

// Where the process may have few files, flows leave some to everything else.
func TestFlowsLeaveFiles(t *testing.T) {
	for files, want := range map[uint64]int{^uint64(0): MaxFlows, 1 << 20: MaxFlows, 16384: 15360, 4096: 3072, 1024: 512, 256: 128} {
		if got := flowsWith(files); got != want {
			t.Errorf("%d files: %d flows, want %d", files, got, want)
		}
	}
	if n, err := flowLimit(); err != nil || n < 1 {
		t.Errorf("here: %d, %v", n, err)
	}
}
