package nstest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Addresses and names of a World, as the house has them.
var (
	Agent4   = netip.MustParseAddr("10.200.0.2")
	Gateway4 = netip.MustParseAddr("10.200.0.1")
	Agent6   = netip.MustParseAddr("fd0c:a11::2")
	Gateway6 = netip.MustParseAddr("fd0c:a11::1")
)

const (
	Bridge = "outcall0"
	Uplink = "uplink0"
)

// A World is a gateway namespace with outcall0 and uplink0, and an agent's
// namespace behind outcall0, routed as in a session.
type World struct {
	Gateway, Agent netns.NsHandle
	tap            int // packet socket on uplink1: all that leaves
}

// NewWorld makes a World; it is gone when the test ends.
func NewWorld(t testing.TB) *World {
	t.Helper()
	Need(t)
	w := &World{}
	w.Gateway = newNS(t)
	w.Agent = newNS(t)
	w.do(t, w.Gateway, func() { w.wireGateway(t) })
	w.do(t, w.Agent, func() { w.wireAgent(t) })
	w.do(t, w.Gateway, func() { w.routeGateway(t) })
	return w
}

func newNS(t testing.TB) netns.NsHandle {
	t.Helper()
	type result struct {
		h   netns.NsHandle
		err error
	}
	ch := make(chan result)
	go func() { // the thread is not unlocked: it dies with the goroutine
		runtime.LockOSThread()
		h, err := netns.New()
		ch <- result{h, err}
	}()
	r := <-ch
	if r.err != nil {
		t.Fatalf("new network namespace: %v", r.err)
	}
	t.Cleanup(func() { r.h.Close() })
	return r.h
}

// do runs f on a thread inside a namespace.
func (w *World) do(t testing.TB, ns netns.NsHandle, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(ns)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("enter a network namespace: %v", err)
	}
}

// In runs f on a thread inside a namespace of the world. f must not call
// t.Fatal.
func (w *World) In(t testing.TB, ns netns.NsHandle, f func()) { t.Helper(); w.do(t, ns, f) }

// Socket opens a socket in a namespace, non-blocking and close-on-exec.
func (w *World) Socket(t testing.TB, ns netns.NsHandle, domain, typ, proto int) *os.File {
	t.Helper()
	var fd int
	var err error
	w.do(t, ns, func() { fd, err = unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto) })
	if err != nil {
		t.Fatalf("socket: %v", err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

func check(t testing.TB, what string, err error) {
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

var uplinkMAC = net.HardwareAddr{0x02, 0x6f, 0x75, 0x74, 0x63, 0x01}

func (w *World) wireGateway(t testing.TB) {
	check(t, "uplink", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: Uplink}, PeerName: "uplink1"}))
	check(t, "bridge", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: Bridge}, PeerName: "eth0"}))
	eth0, err := netlink.LinkByName("eth0")
	check(t, "eth0", err)
	if err != nil {
		return
	}
	check(t, "move eth0", netlink.LinkSetNsFd(eth0, int(w.Agent)))
	sysctl(t, "net/ipv6/conf/uplink1/disable_ipv6", "1")
	// What the table must refuse is not to be refused by something else first.
	sysctl(t, "net/ipv4/conf/all/rp_filter", "0")
	sysctl(t, "net/ipv4/conf/"+Bridge+"/rp_filter", "0")
	sysctl(t, "net/ipv4/ip_forward", "1")
	sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	for _, n := range []string{Uplink, "uplink1", Bridge} {
		up(t, n)
	}
	l, err := netlink.LinkByName("uplink1")
	check(t, "uplink1", err)
	w.tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(t, "packet socket", err)
	t.Cleanup(func() { unix.Close(w.tap) })
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	check(t, "ignore outgoing", unix.SetsockoptInt(w.tap, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	check(t, "bind", unix.Bind(w.tap, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
}

func (w *World) wireAgent(t testing.TB) {
	up(t, "lo")
	up(t, "eth0")
	l, err := netlink.LinkByName("eth0")
	check(t, "eth0", err)
	if err != nil {
		return
	}
	// Anything may be a source here, so that the table must refuse it.
	for _, a := range []netip.Addr{Agent4, Agent6, netip.MustParseAddr("10.200.0.3"), netip.MustParseAddr("fd0c:a11::3")} {
		check(t, "address", netlink.AddrAdd(l, &netlink.Addr{IPNet: host(a), Flags: unix.IFA_F_NODAD}))
	}
	for _, gw := range []netip.Addr{Gateway4, Gateway6} {
		check(t, "neighbour", netlink.NeighAdd(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: gw.AsSlice(), HardwareAddr: w.mac(t, Bridge)}))
		check(t, "gateway route", netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: host(gw), Scope: netlink.SCOPE_LINK}))
		check(t, "default route", netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw.AsSlice()}))
	}
}

func (w *World) routeGateway(t testing.TB) {
	b, err := netlink.LinkByName(Bridge)
	check(t, "bridge", err)
	u, err2 := netlink.LinkByName(Uplink)
	check(t, "uplink", err2)
	if err != nil || err2 != nil {
		return
	}
	var agentMAC net.HardwareAddr
	w.do(t, w.Agent, func() {
		if l, err := netlink.LinkByName("eth0"); err == nil {
			agentMAC = l.Attrs().HardwareAddr
		}
	})
	for _, a := range []netip.Addr{Agent4, Agent6} {
		check(t, "agent", netlink.NeighAdd(&netlink.Neigh{LinkIndex: b.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: agentMAC}))
		check(t, "agent route", netlink.RouteAdd(&netlink.Route{LinkIndex: b.Attrs().Index, Dst: host(a), Scope: netlink.SCOPE_LINK}))
	}
	for _, gw := range []string{"192.0.2.1", "2001:db8:ffff::1"} {
		a := netip.MustParseAddr(gw)
		check(t, "next hop", netlink.NeighAdd(&netlink.Neigh{LinkIndex: u.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: uplinkMAC}))
		check(t, "next hop route", netlink.RouteAdd(&netlink.Route{LinkIndex: u.Attrs().Index, Dst: host(a), Scope: netlink.SCOPE_LINK}))
		check(t, "default", netlink.RouteAdd(&netlink.Route{LinkIndex: u.Attrs().Index, Gw: a.AsSlice()}))
	}
}

func (w *World) mac(t testing.TB, name string) (m net.HardwareAddr) {
	w.do(t, w.Gateway, func() {
		l, err := netlink.LinkByName(name)
		check(t, name, err)
		if err == nil {
			m = l.Attrs().HardwareAddr
		}
	})
	return m
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func up(t testing.TB, name string) {
	l, err := netlink.LinkByName(name)
	check(t, name, err)
	if err == nil {
		check(t, "up "+name, netlink.LinkSetUp(l))
	}
}

func sysctl(t testing.TB, name, value string) {
	check(t, name, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
}

// Outside waits for the next IP packet that left through the uplink, at most
// a second; nil is none.
func (w *World) Outside(t testing.TB) []byte {
	t.Helper()
	b := make([]byte, 64<<10)
	deadline := time.Now().Add(time.Second)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.tap), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err == unix.EINTR || err == nil && n == 0 {
			continue
		}
		n, err = unix.Read(w.tap, b)
		if err != nil {
			t.Fatalf("read uplink1: %v", err)
		}
		return b[:n]
	}
}
