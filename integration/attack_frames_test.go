package integration

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/integration/harness"
	"outcall/integration/world"
)

var (
	agent4, agent6     = netip.MustParseAddr("10.200.0.2"), netip.MustParseAddr("fd0c:a11::2")
	gateway4, gateway6 = netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("fd0c:a11::1")
)

const (
	flagSYN = 0x02
	flagACK = 0x10
)

// A cable is a session whose agent does nothing, with an insider on its link.
type cable struct {
	*insider
	b        *harness.Bed
	p        *harness.Proc
	k        *world.Canary
	evil, ok [2]netip.Addr // of a denied and of a pinned name, IPv4 and IPv6
}

func newCable(t *testing.T) *cable {
	t.Helper()
	c := &cable{b: harness.New(t)}
	c.k = c.b.Canary(t)
	const name = "api.allowed.test"
	c.evil = [2]netip.Addr{c.b.V4(t, "evil.test"), c.b.V6(t, "evil.test")}
	c.ok = [2]netip.Addr{c.b.V4(t, name), c.b.V6(t, name)}
	// A question of each type pins the addresses.
	c.p = c.b.StartSandbox(append(harness.Allow(name), "--no-proxy"), "sh", "-c", harness.Probe+" dns udp 10.200.0.1:53 A "+name+"; "+
		harness.Probe+" dns udp 10.200.0.1:53 AAAA "+name+"; readlink /proc/self/ns/net; echo ready; exec sleep 1000")
	c.p.WaitFor("ready")
	c.insider = newInsider(t, lineWith(t, c.p, "net:["))
	return c
}

// lineWith returns the first line of what a session's command has printed that
// begins with prefix.
func lineWith(t *testing.T, p *harness.Proc, prefix string) string {
	t.Helper()
	for l := range strings.Lines(p.Output()) {
		if strings.HasPrefix(l, prefix) {
			return strings.TrimSpace(l)
		}
	}
	t.Fatalf("no line %q in %s", prefix, p.Output())
	return ""
}

// end stops the session after the agent's own flows have been seen to work as
// ever, and returns its audit.
func (c *cable) end(t *testing.T) []harness.Event {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		r := c.b.Outcall("exec", c.p.Name, "--", "curl", "-sS", family, "--max-time", "20", "https://api.allowed.test/")
		if r.Stdout != apiBody {
			t.Errorf("afterwards %s: %q %s", family, r.Stdout, r.Stderr)
		}
	}
	c.b.Outcall("stop", c.p.Name).Must(t, 0)
	c.p.Wait()
	c.k.MustNotArrive(t)
	return c.b.Events(t, c.p.Name)
}

func option4(bytes ...byte) []byte {
	for len(bytes)%4 != 0 {
		bytes = append(bytes, 0)
	}
	return bytes
}

// ext is one IPv6 extension header before what follows.
func ext(next byte, body, payload []byte) []byte {
	b := append([]byte{next, byte((len(body) - 6) / 8)}, body...)
	return append(b, payload...)
}

// forged are packets to an address that is pinned and to one that is not, of
// which nothing may leave whoever they claim to be from.
func (c *cable) forged() map[string][]byte {
	const T, U, port = unix.IPPROTO_TCP, unix.IPPROTO_UDP, 80
	out := map[string][]byte{}
	ap := netip.AddrPortFrom
	for i, me := range []netip.Addr{agent4, agent6} {
		v, evil, good := []string{" v4", " v6"}[i], c.evil[i], c.ok[i]
		for _, s := range [][2]string{{"10.200.0.3", "fd0c:a11::3"}, {"10.200.0.1", "fd0c:a11::1"}, {"8.8.8.8", "2001:4860:4860::8888"},
			{"127.0.0.1", "::1"}, {world.HostV4.Addr().String(), world.HostV6.Addr().String()}, {"0.0.0.0", "::"}, {"255.255.255.255", "ff02::1"}, {good.String(), good.String()}} {
			src := netip.MustParseAddr(s[i])
			out["SYN from "+s[i]] = ipPacket(src, good, T, tcpTo(ap(src, 7), ap(good, port), flagSYN, c.k.Word), nil)
			out["UDP from "+s[i]] = ipPacket(src, good, U, udpTo(ap(src, 7), ap(good, 443), c.k.Word), nil)
			out["question from "+s[i]] = ipPacket(src, gateway4, U, udpTo(ap(src, 7), ap(evil, 53), c.k.Word), nil)
		}
		syn := tcpTo(ap(me, 4001), ap(evil, port), flagSYN, c.k.Word)
		out["SYN with data"+v] = ipPacket(me, evil, T, syn, nil)
		out["segment of no connection"+v] = ipPacket(me, good, T, tcpTo(ap(me, 4002), ap(good, port), flagACK, c.k.Word), nil)
		for _, p := range []byte{4, 41, 47, 50, 51, 115, 132, 136, 33, 253, 255, 59} {
			out["protocol "+string(rune('0'+p/100))+string(rune('0'+p/10%10))+string(rune('0'+p%10))+v] =
				ipPacket(me, good, p, ipPacket(me, evil, T, syn, nil), nil)
		}
		echo, redirect := byte(8), byte(5)
		if me.Is6() {
			echo, redirect = 128, 137
		}
		out["echo"+v] = ipPacket(me, evil, []byte{1, 58}[i], icmpTo(me, evil, echo, 0, []byte("\x00\x01\x00\x01"+c.k.Word)), nil)
		out["redirect"+v] = ipPacket(me, evil, []byte{1, 58}[i], icmpTo(me, evil, redirect, 1, append(evil.AsSlice(), ipPacket(evil, me, T, syn, nil)...)), nil)
	}
	c.forged4(out)
	c.forged6(out)
	return out
}

func (c *cable) forged4(out map[string][]byte) {
	evil, good := c.evil[0], c.ok[0]
	ap := netip.AddrPortFrom
	syn := tcpTo(ap(agent4, 4003), ap(good, 80), flagSYN, "")
	route := append(append([]byte{}, evil.AsSlice()...), good.AsSlice()...)
	for name, o := range map[string][]byte{"loose source route": option4(append([]byte{131, 11, 4}, route...)...), "strict source route": option4(append([]byte{137, 11, 4}, route...)...)} {
		out[name] = ipPacket(agent4, good, unix.IPPROTO_TCP, syn, o)
		out[name+" by the gateway"] = ipPacket(agent4, gateway4, unix.IPPROTO_TCP, syn, o)
	}
	part := func(flags uint16, p []byte) []byte {
		p[6], p[7], p[10], p[11] = byte(flags>>8), byte(flags), 0, 0
		sum := ^onesSum(0, p[:20])
		p[10], p[11] = byte(sum>>8), byte(sum)
		return p
	}
	data := udpTo(ap(agent4, 4004), ap(good, 80), strings.Repeat(c.k.Word, 4))
	out["first fragment"] = part(0x2000, ipPacket(agent4, good, unix.IPPROTO_TCP, syn[:16], nil))
	out["second fragment"] = part(2, ipPacket(agent4, good, unix.IPPROTO_TCP, append(syn[16:], c.k.Word...), nil))
	out["overlapping fragment"] = part(1, ipPacket(agent4, good, unix.IPPROTO_TCP, append([]byte(nil), syn...), nil))
	out["fragment of a datagram"] = part(0x2000, ipPacket(agent4, evil, unix.IPPROTO_UDP, data[:24], nil))
	out["fragment of a question"] = part(0x2000, ipPacket(agent4, evil, unix.IPPROTO_UDP, udpTo(ap(agent4, 4004), ap(evil, 53), c.k.Word), nil))
	for name, dst := range map[string]string{"broadcast": "255.255.255.255", "subnet broadcast": "10.200.0.255", "all hosts": "224.0.0.1", "mDNS": "224.0.0.251", "SSDP": "239.255.255.250"} {
		to := netip.MustParseAddr(dst)
		out[name] = ipPacket(agent4, to, unix.IPPROTO_UDP, udpTo(ap(agent4, 4005), ap(to, 5353), c.k.Word), nil)
	}
}

func (c *cable) forged6(out map[string][]byte) {
	const T, fragment, dstopts, hop, routing, none = unix.IPPROTO_TCP, unix.IPPROTO_FRAGMENT, unix.IPPROTO_DSTOPTS, unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_NONE
	evil, good := c.evil[1], c.ok[1]
	ap := netip.AddrPortFrom
	syn := tcpTo(ap(agent6, 4006), ap(evil, 80), flagSYN, c.k.Word)
	pad := []byte{1, 4, 0, 0, 0, 0}
	many := syn
	next := byte(T)
	for range 9 {
		many, next = ext(next, pad, many), dstopts
	}
	out["nine option headers"] = ipPacket(agent6, evil, dstopts, many, nil)
	out["hop by hop"] = ipPacket(agent6, evil, hop, ext(T, pad, syn), nil)
	out["hop by hop, a router's alert"] = ipPacket(agent6, evil, hop, ext(T, []byte{5, 2, 0, 0, 1, 0}, syn), nil)
	out["hop by hop late"] = ipPacket(agent6, evil, dstopts, ext(hop, pad, ext(T, pad, syn)), nil)
	for _, typ := range []byte{0, 2, 4} {
		body := append([]byte{typ, 1, 0, 0, 0, 0}, evil.AsSlice()...)
		out["routing header "+string(rune('0'+typ))] = ipPacket(agent6, good, routing, ext(T, body, tcpTo(ap(agent6, 4007), ap(good, 443), flagACK, c.k.Word)), nil)
	}
	out["atomic fragment"] = ipPacket(agent6, evil, fragment, append([]byte{T, 0, 0, 0, 0, 0, 0, 9}, syn...), nil)
	out["first fragment v6"] = ipPacket(agent6, good, fragment, append([]byte{T, 0, 0, 1, 0, 0, 0, 9}, syn[:24]...), nil)
	out["fragment of options"] = ipPacket(agent6, good, fragment, append([]byte{dstopts, 0, 0, 1, 0, 0, 0, 9}, pad...), nil)
	out["nothing next"] = ipPacket(agent6, evil, none, []byte(c.k.Word), nil)
	out["cut option header"] = ipPacket(agent6, evil, dstopts, []byte{T, 200, 0, 0}, nil)
	for name, dst := range map[string]string{"all nodes": "ff02::1", "mDNS v6": "ff02::fb", "site": "ff05::1:3", "global multicast": "ff0e::1"} {
		to := netip.MustParseAddr(dst)
		out[name] = ipPacket(agent6, to, unix.IPPROTO_UDP, udpTo(ap(agent6, 4008), ap(to, 5353), c.k.Word), nil)
	}
}

// N8, N10: packets that no socket of the agent would send, put on its cable as
// whole frames. Nothing leaves, nothing is learnt from them, and the agent's own
// flows go on.
func TestN8ForgedPackets(t *testing.T) {
	c := newCable(t)
	m := c.b.Mark()
	packets := c.forged()
	names := make([]string, 0, len(packets))
	for n := range packets {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		c.send(t, c.frame(packets[n]))
		if got := c.b.Since(t, m); len(got) > 0 {
			t.Fatalf("%s got out: %v", n, got)
		}
	}
	spoofed := 0
	for _, e := range c.end(t) {
		if e.Denied() && e.Structural && strings.Contains(e.Reason, "source address") {
			spoofed += max(e.Count, 1)
		}
		if e.Verdict == "allow" && e.Layer == "flow" && e.Port != 443 { // what curl asks for below
			t.Errorf("a forged packet was allowed: %s", e)
		}
	}
	if spoofed < 20 { // the kernel itself drops those from addresses that nobody has
		t.Errorf("the audit has %d packets of a source that is not the agent's", spoofed)
	}
	c.b.MustBeQuiet(t, m, func(f world.Frame) bool {
		return slices.Contains(c.ok[:], f.Dst.Addr()) && f.Dst.Port() == 443 || onlyQuestions(c.b.World)(f)
	})
}

// broadcast is every link address at once.
var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arp is an ARP packet that says or asks who has an address.
func arp(op byte, mac [6]byte, claimed, asked netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, op}
	b = append(append(b, mac[:]...), claimed.AsSlice()...)
	return append(append(b, make([]byte, 6)...), asked.AsSlice()...)
}

// lies are frames that would change who is where, if anyone learnt from them,
// and frames that reach for another link than the one they are on.
func (c *cable) lies() map[string][]byte {
	ap := netip.AddrPortFrom
	other := [6]byte{2, 0, 0, 0, 0, 0x99}
	syn := ipPacket(agent4, c.evil[0], unix.IPPROTO_TCP, tcpTo(ap(agent4, 4101), ap(c.evil[0], 80), flagSYN, c.k.Word), nil)
	pinned := ipPacket(agent4, c.ok[0], unix.IPPROTO_TCP, tcpTo(ap(agent4, 4102), ap(c.ok[0], 80), flagACK, c.k.Word), nil)
	out := map[string][]byte{
		"another sender": ether(c.to, other, unix.ETH_P_IP, syn), "a group as sender": ether(c.to, broadcast, unix.ETH_P_IP, syn),
		"to nobody": ether(other, c.from, unix.ETH_P_IP, syn), "to all": ether(broadcast, c.from, unix.ETH_P_IP, syn),
		"to itself": ether(c.from, c.from, unix.ETH_P_IP, syn), "to a group": ether([6]byte{1, 0, 0x5e, 0, 0, 1}, c.from, unix.ETH_P_IP, pinned),
		"to bridges":    ether([6]byte{1, 0x80, 0xc2}, c.from, 0x0026, []byte{0x42, 0x42, 3, 0, 0, 0, 0, 0}),
		"802.1Q":        ether(c.to, c.from, unix.ETH_P_8021Q, append([]byte{0, 1, 8, 0}, syn...)),
		"802.1ad":       ether(c.to, c.from, unix.ETH_P_8021AD, append([]byte{0, 1, 0x81, 0, 0, 1, 8, 0}, syn...)),
		"MPLS":          ether(c.to, c.from, unix.ETH_P_MPLS_UC, append([]byte{0, 0, 0x11, 64}, syn...)),
		"PPPoE":         ether(c.to, c.from, unix.ETH_P_PPP_SES, append([]byte{0x11, 0, 0, 1, 0, byte(2 + len(syn)), 0, 0x21}, syn...)),
		"IPv6 as IPv4":  ether(c.to, c.from, unix.ETH_P_IPV6, syn),
		"cut":           ether(c.to, c.from, unix.ETH_P_IP, syn[:18]),
		"ARP: gateway":  ether(broadcast, other, unix.ETH_P_ARP, arp(2, other, gateway4, agent4)),
		"ARP: agent":    ether(broadcast, other, unix.ETH_P_ARP, arp(2, other, agent4, agent4)),
		"ARP: question": ether(broadcast, c.from, unix.ETH_P_ARP, arp(1, c.from, agent4, gateway4)),
		"ARP: outside":  ether(broadcast, c.from, unix.ETH_P_ARP, arp(1, c.from, agent4, c.evil[0])),
	}
	// The netstack's side of the gateway: its links' addresses are of one kind
	// and differ in the last octet.
	for last := range byte(16) {
		to := c.to
		to[5] = last
		out["to link "+string(rune('a'+last))] = ether(to, c.from, unix.ETH_P_IP, syn)
	}
	c.neighbours(out, other)
	return out
}

// neighbours adds the messages of IPv6 neighbour discovery (RFC 4861).
func (c *cable) neighbours(out map[string][]byte, other [6]byte) {
	local := netip.MustParseAddr("fe80::99")
	nodes := netip.MustParseAddr("ff02::1")
	lladdr := append([]byte{2, 1}, other[:]...)
	prefix := append([]byte{3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, netip.MustParseAddr("2001:db8::").AsSlice()...)
	for _, src := range []netip.Addr{local, gateway6, agent6} {
		for name, m := range map[string][]byte{
			"advertised router": icmpTo(src, nodes, 134, 0, append([]byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, prefix...)),
			"router wanted":     icmpTo(src, nodes, 133, 0, append([]byte{0, 0, 0, 0}, lladdr...)),
			"gateway moved":     icmpTo(src, nodes, 136, 0, append(append([]byte{0x20, 0, 0, 0}, gateway6.AsSlice()...), lladdr...)),
			"agent moved":       icmpTo(src, nodes, 136, 0, append(append([]byte{0x20, 0, 0, 0}, agent6.AsSlice()...), lladdr...)),
			"redirect":          icmpTo(src, nodes, 137, 0, append(append([]byte{0, 0, 0, 0}, local.AsSlice()...), c.ok[1].AsSlice()...)),
			"listener report":   icmpTo(src, nodes, 143, 0, []byte{0, 0, 0, 0}),
		} {
			p := ipPacket(src, nodes, unix.IPPROTO_ICMPV6, m, nil)
			p[7] = 255 // or it is no neighbour's
			out[name+" by "+src.String()] = ether([6]byte{0x33, 0x33, 0, 0, 0, 1}, other, unix.ETH_P_IPV6, p)
		}
	}
}

// N10: whatever is said on the cable of who is where, nobody learns from it,
// and no other link is reached.
func TestN10FramesThatLie(t *testing.T) {
	c := newCable(t)
	m := c.b.Mark()
	for name, f := range c.lies() {
		c.send(t, f)
		if got := c.b.Since(t, m); len(got) > 0 {
			t.Fatalf("%s: got out: %v", name, got)
		}
	}
	table := c.b.Outcall("--session", c.p.Name, "bridge", "exec", "--", "/bin/cat", "/proc/net/arp").Stdout
	mustLack(t, "the gateway's neighbours", table, "02:00:00:00:00:99")
	c.end(t)
	c.b.MustBeQuiet(t, m, func(f world.Frame) bool {
		return slices.Contains(c.ok[:], f.Dst.Addr()) && f.Dst.Port() == 443 || onlyQuestions(c.b.World)(f)
	})
}

// K15: a first packet to an address whose pin a reload has just taken away,
// and the packets of a connection that it had.
func TestK15PinJustRemoved(t *testing.T) {
	b := harness.New(t)
	const name = "api.allowed.test"
	file := b.Rules("r.yaml", allowRule(name))
	p := b.StartSandbox([]string{"-q", "--no-proxy", "--rules", file}, "sh", "-c", harness.Probe+" dns udp 10.200.0.1:53 A "+name+"; "+
		harness.Probe+" dns udp 10.200.0.1:53 AAAA "+name+"; readlink /proc/self/ns/net; echo ready; exec sleep 1000")
	p.WaitFor("ready")
	in := newInsider(t, lineWith(t, p, "net:["))
	k := b.Canary(t)
	b.Rules("r.yaml", allowRule("git.allowed.test"))
	b.Outcall("--session", p.Name, "rules", "reload").Must(t, 0)
	m := b.Mark()
	for i, me := range []netip.Addr{agent4, agent6} {
		dst := netip.AddrPortFrom([]netip.Addr{b.V4(t, name), b.V6(t, name)}[i], 80)
		for n := range uint16(50) {
			src := netip.AddrPortFrom(me, 5000+n)
			in.send(t, in.frame(ipPacket(me, dst.Addr(), unix.IPPROTO_TCP, tcpTo(src, dst, []byte{flagSYN, flagACK}[n%2], k.Word), nil)))
		}
	}
	r := b.Outcall("exec", p.Name, "--", harness.Probe, "tcp", k.Word, at(b.V4(t, name), 80), at(b.V6(t, name), 80))
	harness.Refused(t, r.Lines(t), 3000)
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()
	b.MustBeQuiet(t, m, nil)
	k.MustNotArrive(t)
	b.SomeDenial(t, p.Name, func(e harness.Event) bool { return e.IP == b.V4(t, name).String() })
}

// N8, P2: a network of its own, in which the agent is root, is no way out: no
// cable reaches from it to the one that it came from.
func TestP2OwnNetworkHasNoCable(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	m := b.Mark()
	for _, flags := range [][]string{nil, {"--root"}} {
		_, lines := b.Attempts(append(flags, allowAPI...), "cable", k.Word, b.V4(t, "evil.test").String())
		own := false
		for _, l := range lines {
			own = own || l.Op == "own" && l.OK
			if l.Op == "cable" && l.OK {
				t.Errorf("%v: %+v", flags, l)
			}
		}
		if !own {
			t.Errorf("%v: the agent has no power in its own network: the test shows nothing: %+v", flags, lines)
		}
		_, lines = b.Attempts(append(flags, allowAPI...), "raw", k.Word, b.V4(t, "evil.test").String())
		for _, l := range lines {
			if l.OK && l.Target != "udplite" { // that one is sent, and dropped by the table
				t.Errorf("%v: %+v", flags, l)
			}
		}
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
}
