package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/policy"
	"outcall/sandbox/internal/nstest"
)

// ip writes an IP packet. For IPv6, headers are put before the payload as
// extension headers of type next.
func ip(src, dst string, proto byte, payload []byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is4() {
		b := make([]byte, 20, 20+len(payload))
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		copy(b[12:], s.AsSlice())
		copy(b[16:], d.AsSlice())
		return append(b, payload...)
	}
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], s.AsSlice())
	copy(b[24:], d.AsSlice())
	return append(b, payload...)
}

// ports writes the start of a TCP, UDP or SCTP header.
func ports(src, dst uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	return append(b, make([]byte, 16)...)
}

func icmp(typ, code byte, checksum uint16) []byte {
	return []byte{typ, code, byte(checksum >> 8), byte(checksum), 0, 1, 0, 1}
}

// options is an IPv6 destination options header before what follows.
func options(next byte, payload []byte) []byte {
	return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, payload...)
}

// fragment sets the flags and offset of an IPv4 packet.
func fragment(b []byte, flags uint16) []byte { binary.BigEndian.PutUint16(b[6:], flags); return b }

// fragment6Header is a fragment header before what follows.
func fragment6Header(next byte, offset uint16, payload []byte) []byte {
	return append([]byte{next, 0, byte(offset >> 8), byte(offset), 0, 0, 0, 7}, payload...)
}

var fence = []byte("fence")

// passes sends a packet from the agent's namespace, and after it on the same
// CPU one that is always passed: what has not left before that was dropped.
func passes(t *testing.T, w *nstest.World, pkt []byte) bool {
	t.Helper()
	end := ip(nstest.Agent4.String(), "9.9.9.9", unix.IPPROTO_UDP, append(append(ports(1, 53)[:4], 0, 0, 0, 0), fence...))
	w.In(t, w.Agent, func() {
		var one unix.CPUSet
		one.Set(0)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Errorf("stay on one cpu: %v", err)
		}
		for _, p := range [][]byte{pkt, end} {
			if err := sendRaw(p); err != nil {
				t.Errorf("send: %v", err)
			}
		}
	})
	out := false
	for {
		p := w.Outside(t)
		switch {
		case p == nil:
			t.Fatal("the fence did not arrive")
		case bytes.HasSuffix(p, fence):
			return out
		case len(p) == len(pkt) && bytes.Equal(p[len(p)-4:], pkt[len(pkt)-4:]):
			out = true
		}
	}
}

func sendRaw(p []byte) error {
	domain, to := unix.AF_INET, unix.Sockaddr(nil)
	if p[0]>>4 == 6 {
		domain = unix.AF_INET6
		to = &unix.SockaddrInet6{Addr: [16]byte(p[24:40])}
	} else {
		to = &unix.SockaddrInet4{Addr: [4]byte(p[16:20])}
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, p, 0, to)
}

// sum returns the counters as one map.
func sum(t *testing.T, table *Table) map[string]uint64 {
	t.Helper()
	c, err := table.Counters(context.Background())
	must(t, err)
	out := map[string]uint64{"denied": c.Denied.Packets, "spoofed": c.Spoofed.Packets, "stray": c.Stray.Packets,
		"dns": c.DNS.Packets - 1, "proxy": c.Proxy.Packets, "echo": c.Echo.Packets, "observed": c.Observed.Packets}
	for r, n := range c.Rules {
		out["rule "+r] = n.Packets
	}
	return out
}

const (
	me, me6       = "10.200.0.2", "fd0c:a11::2"
	pinned        = "93.184.216.34"
	pinned6       = "2001:db8::34"
	other, other6 = "93.184.216.35", "2001:db8::35"
)

// Every way that the table knows, for each a packet that takes it and the one
// counter that tells.
func TestPackets(t *testing.T) {
	ctx := context.Background()
	w, table := newTable(t, both)
	must(t, table.AddPins(ctx, []policy.Cell{
		tcp(pinned, "pin", 443, 443), tcp(pinned6, "pin", 443, 443), cell(pinned, "udp", policy.UDP, 1000, 2000),
		cell(pinned6, "udp", policy.UDP, 1000, 2000), tcp("93.184.216.40", "host", 1, 65535), tcp("2001:db8::40", "host", 1, 65535), cell(pinned, "ping", policy.ICMP, 0, 0), cell(pinned6, "ping", policy.ICMP, 0, 0),
	}))
	must(t, table.SetNets(ctx, []policy.Cell{tcp("198.51.100.0/24", "net", 80, 90), tcp("2001:db8:1::/48", "net", 80, 90),
		cell("198.51.100.0/24", "pingnet", policy.ICMP, 0, 0)}))
	const T, U, I, I6 = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6
	for _, c := range []struct {
		name    string
		pkt     []byte
		counter string
	}{
		{"pinned port", ip(me, pinned, T, ports(1, 443)), "rule pin"},
		{"pinned port, IPv6", ip(me6, pinned6, T, ports(1, 443)), "rule pin"},
		{"pinned port behind options", ip(me6, pinned6, unix.IPPROTO_DSTOPTS, options(T, ports(1, 443))), "rule pin"},
		{"another port", ip(me, pinned, T, ports(443, 444)), "denied"},
		{"another port, IPv6", ip(me6, pinned6, T, ports(443, 444)), "denied"},
		{"another port behind options", ip(me6, pinned6, unix.IPPROTO_DSTOPTS, options(T, ports(443, 444))), "denied"},
		{"another protocol", ip(me, pinned, U, ports(1, 443)), "denied"},
		{"another address", ip(me, other, T, ports(1, 443)), "denied"},
		{"another address, IPv6", ip(me6, other6, T, ports(1, 443)), "denied"},
		{"range, first", ip(me, pinned, U, ports(1, 1000)), "rule udp"},
		{"range, last, IPv6", ip(me6, pinned6, U, ports(1, 2000)), "rule udp"},
		{"range, before", ip(me, pinned, U, ports(1, 999)), "denied"},
		{"range, after", ip(me6, pinned6, U, ports(1, 2001)), "denied"},
		{"host, any port", ip(me, "93.184.216.40", T, ports(1, 65535)), "rule host"},
		{"host, any port, IPv6", ip(me6, "2001:db8::40", T, ports(1, 1)), "rule host"},
		{"host, another protocol", ip(me, "93.184.216.40", U, ports(1, 443)), "denied"},
		{"host, ICMP", ip(me, "93.184.216.40", I, icmp(8, 0, 0)), "denied"},
		{"host, SCTP", ip(me6, "2001:db8::40", unix.IPPROTO_SCTP, ports(1, 443)), "denied"},
		{"a fragment to a host", fragment(ip(me, "93.184.216.40", T, ports(1, 443)), 1), "denied"},
		{"network", ip(me, "198.51.100.255", T, ports(1, 90)), "rule net"},
		{"network, IPv6", ip(me6, "2001:db8:1:ffff::1", T, ports(1, 80)), "rule net"},
		{"network's neighbour", ip(me, "198.51.101.0", T, ports(1, 90)), "denied"},
		{"network, another port", ip(me6, "2001:db8:1::1", T, ports(1, 91)), "denied"},
		{"echo", ip(me, pinned, I, icmp(8, 0, 0)), "rule ping"},
		{"echo, IPv6", ip(me6, pinned6, I6, icmp(128, 0, 0)), "rule ping"},
		{"echo to a network", ip(me, "198.51.100.1", I, icmp(8, 0, 0)), "rule pingnet"},
		{"echo elsewhere", ip(me, other, I, icmp(8, 0, 0)), "denied"},
		{"echo elsewhere, IPv6", ip(me6, other6, I6, icmp(128, 0, 0)), "denied"},
		{"echo reply", ip(me, pinned, I, icmp(0, 0, 0)), "denied"},
		{"echo with a code", ip(me, pinned, I, icmp(8, 1, 0)), "denied"},
		{"a checksum like a port", ip(me, pinned, I, icmp(13, 0, 0x0800)), "denied"},
		{"a checksum like a port, IPv6", ip(me6, pinned6, I6, icmp(129, 0, 0x8000)), "denied"},
		{"a source port like an echo", ip(me, pinned, T, ports(0x0800, 1)), "denied"},
		{"redirect", ip(me, pinned, I, icmp(5, 0, 0)), "denied"},
		{"ICMP of the other family", ip(me, pinned, I6, icmp(128, 0, 0)), "denied"},
		{"echo to the gateway", ip(me, "10.200.0.1", I, icmp(8, 0, 0)), "echo"},
		{"echo to the gateway, IPv6", ip(me6, "fd0c:a11::1", I6, icmp(128, 0, 0)), "echo"},
		{"DNS to anyone", ip(me, other, U, ports(1, 53)), "dns"},
		{"DNS to anyone, TCP, IPv6", ip(me6, other6, T, ports(1, 53)), "dns"},
		{"proxy", ip(me, "10.200.0.1", T, ports(1, 8080)), "proxy"},
		{"proxy, IPv6", ip(me6, "fd0c:a11::1", T, ports(1, 8080)), "proxy"},
		{"the proxy's port elsewhere", ip(me, other, T, ports(1, 8080)), "denied"},
		{"the proxy's port, UDP", ip(me, "10.200.0.1", U, ports(1, 8080)), "denied"},
		{"another port of the gateway", ip(me, "10.200.0.1", T, ports(1, 80)), "denied"},
		{"host services", ip(me, "10.200.0.254", T, ports(1, 443)), "denied"},
		{"spoofed neighbour", ip("10.200.0.3", pinned, T, ports(1, 443)), "spoofed"},
		{"spoofed elsewhere", ip("8.8.8.8", pinned, T, ports(1, 443)), "spoofed"},
		{"spoofed DNS", ip("10.200.0.3", other, U, ports(1, 53)), "spoofed"},
		{"spoofed gateway, IPv6", ip("fd0c:a11::1", pinned6, T, ports(1, 443)), "spoofed"},
		{"SCTP to a pinned port", ip(me, pinned, unix.IPPROTO_SCTP, ports(1, 443)), "denied"},
		{"UDP-Lite to a pinned port", ip(me, pinned, unix.IPPROTO_UDPLITE, ports(1, 1000)), "denied"},
		{"IP in IP", ip(me, pinned, unix.IPPROTO_IPIP, ip(me, pinned, T, ports(1, 443))), "denied"},
		{"GRE", ip(me, pinned, unix.IPPROTO_GRE, ports(1, 443)), "denied"},
		{"ESP", ip(me, pinned, unix.IPPROTO_ESP, ports(1, 443)), "denied"},
		{"a later fragment", fragment(ip(me, pinned, T, ports(1, 443)), 1), "denied"},
		{"a first fragment", fragment(ip(me, pinned, T, ports(1, 443)), 0x2000), "denied"},
		{"a later fragment of a question", fragment(ip(me, other, U, ports(1, 53)), 1), "denied"},
		{"not to be fragmented", fragment(ip(me, pinned, T, ports(1, 443)), 0x4000), "rule pin"},
		{"a later fragment, IPv6", ip(me6, pinned6, unix.IPPROTO_FRAGMENT, fragment6Header(T, 8, ports(1, 443))), "denied"},
		{"a first fragment, IPv6", ip(me6, pinned6, unix.IPPROTO_FRAGMENT, fragment6Header(T, 1, ports(1, 443))), "denied"},
		{"a fragment behind options", ip(me6, pinned6, unix.IPPROTO_DSTOPTS,
			options(unix.IPPROTO_FRAGMENT, fragment6Header(T, 1, ports(1, 443)))), "denied"},
		{"a cut header", ip(me, pinned, T, []byte{0, 1}), "denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := sum(t, table)
			if got, want := passes(t, w, c.pkt), c.counter != "denied" && c.counter != "spoofed"; got != want {
				t.Errorf("passed %v, want %v", got, want)
			}
			for name, n := range sum(t, table) {
				want := before[name]
				if name == c.counter {
					want++
				}
				if name == "dns" {
					want++ // the fence
				}
				if n != want {
					t.Errorf("counter %s: %d, want %d", name, n, want)
				}
			}
		})
	}
}

// Without its element a rule's packets stop at once, and its count is kept.
func TestRevocationAndCounts(t *testing.T) {
	ctx := context.Background()
	w, table := newTable(t, both)
	pin := []policy.Cell{tcp(pinned, "pin", 443, 443)}
	pkt := ip(me, pinned, unix.IPPROTO_TCP, ports(1, 443))
	for round := range uint64(3) {
		if passes(t, w, pkt) {
			t.Fatal("passed without an element")
		}
		must(t, table.AddPins(ctx, pin))
		if !passes(t, w, pkt) {
			t.Fatal("dropped with an element")
		}
		must(t, table.DelPins(ctx, pin))
		if got := sum(t, table); got["rule pin"] != round+1 || got["denied"] != round+1 {
			t.Errorf("round %d: %v", round, got)
		}
		must(t, table.Base(ctx, both)) // keeps counts, too
	}
}

func TestObserve(t *testing.T) {
	o := both
	o.Observe = true
	w, table := newTable(t, o)
	for _, c := range []struct {
		name string
		pkt  []byte
		pass bool
	}{
		{"TCP", ip(me, other, unix.IPPROTO_TCP, ports(1, 4000)), true},
		{"UDP, IPv6", ip(me6, other6, unix.IPPROTO_UDP, ports(1, 4000)), true},
		{"echo", ip(me, other, unix.IPPROTO_ICMP, icmp(8, 0, 0)), true},
		{"redirect", ip(me, other, unix.IPPROTO_ICMP, icmp(5, 0, 0)), false},
		{"SCTP", ip(me, other, unix.IPPROTO_SCTP, ports(1, 4000)), false},
		{"private", ip(me, "10.1.2.3", unix.IPPROTO_TCP, ports(1, 4000)), false},
		{"metadata", ip(me, "169.254.169.254", unix.IPPROTO_TCP, ports(1, 80)), false},
		{"unique local", ip(me6, "fd00:ec2::254", unix.IPPROTO_TCP, ports(1, 80)), false},
		{"multicast", ip(me, "239.0.0.1", unix.IPPROTO_UDP, ports(1, 80)), false},
		{"spoofed", ip("8.8.8.8", other, unix.IPPROTO_TCP, ports(1, 4000)), false},
	} {
		if got := passes(t, w, c.pkt); got != c.pass {
			t.Errorf("%s: passed %v, want %v", c.name, got, c.pass)
		}
	}
	if n := sum(t, table)["observed"]; n != 3 {
		t.Errorf("%d observed, want 3", n)
	}
}

// A session without IPv6 passes none of it, not even DNS.
func TestNoIPv6(t *testing.T) {
	o := both
	o.Agent6, o.Gateway6 = netip.Addr{}, netip.Addr{}
	w, table := newTable(t, o)
	must(t, table.AddPins(context.Background(), []policy.Cell{tcp(pinned6, "pin", 443, 443)}))
	for _, pkt := range [][]byte{ip(me6, pinned6, unix.IPPROTO_TCP, ports(1, 443)), ip(me6, other6, unix.IPPROTO_UDP, ports(1, 53)),
		ip(me6, "fd0c:a11::1", unix.IPPROTO_ICMPV6, icmp(128, 0, 0))} {
		if passes(t, w, pkt) {
			t.Errorf("% x passed", pkt[:48])
		}
	}
	if n := sum(t, table)["denied"]; n != 3 {
		t.Errorf("%d denied, want 3", n)
	}
}
