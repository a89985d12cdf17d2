package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const inner = "OUTCALL_TEST_LINK"

// TestLinks runs the tests below in a user and network namespace of their own,
// so that they need no privileges.
func TestLinks(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a user namespace")
	}
	for _, kind := range []string{"packet", "tap"} {
		t.Run(kind, func(t *testing.T) {
			if kind == "tap" && tunRefused(t) {
				return
			}
			runInside(t, "TestInside", kind)
		})
	}
}

// runInside runs a test in a user and network namespace of its own.
func runInside(t *testing.T, name, kind string) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), inner+"="+kind)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v (the test needs user namespaces: sysctl kernel.unprivileged_userns_clone=1; the tap one also /dev/net/tun)\n%s", err, out)
	}
}

// tunRefused tells whether this user may not use a tun device; then there is no
// link to test, and a file that is none must be refused.
func tunRefused(t *testing.T) bool {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return false
	}
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOENT) {
		t.Fatal(err)
	}
	t.Logf("NOT tested here, the device is refused (%v): flows over a tap link; as root they are", err)
	if _, err := Tap(nil, Options{Peer: peerMAC}); err == nil {
		t.Error("a tap link without a device")
	}
	return true
}

// peerMAC is the kernel's end.
var peerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

func TestInside(t *testing.T) {
	kind := os.Getenv(inner)
	if kind == "" {
		return // runs by way of TestLinks
	}
	var l Link
	var dev netlink.Link
	if kind == "packet" {
		l, dev = packetPair(t)
	} else {
		l, dev = tapPair(t)
	}
	configure(t, dev)
	if kind == "packet" {
		up1, err := netlink.LinkByName("up1")
		must(t, "up1", err)
		floodedUDP(t, up1)
	}
	s := startStack(t, l)
	for _, host := range []string{"10.9.0.2", "fd09::2"} {
		transfer(t, s, host)
	}
	checkNeighbours(t, dev)
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func packetSocket(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, "packet socket", err)
	f := os.NewFile(uintptr(fd), "packet")
	t.Cleanup(func() { f.Close() })
	return f
}

// floodedUDP fills the socket for UDP, which nobody reads, and then sends one
// packet of each other kind: none of those is lost.
func floodedUDP(t *testing.T, up1 netlink.Link) {
	files := [2]*os.File{packetSocket(t), packetSocket(t)}
	var fds [2]int
	for i, f := range files {
		fd, err := fdOf(f)
		must(t, "descriptor", err)
		must(t, "prepare", preparePacket(fd, up1.Attrs().Index, i == 1))
		must(t, "non-blocking", unix.SetNonblock(fd, true))
		fds[i] = fd
	}
	for _, host := range []string{"10.9.0.2", "fd09::2"} {
		c, err := net.Dial("udp", net.JoinHostPort(host, "53"))
		must(t, "UDP", err)
		for range 3000 {
			_, _ = c.Write([]byte("a question")) // the kernel may say that its queue is full
		}
		c.Close()
		d := net.Dialer{Timeout: 10 * time.Millisecond} // its SYN is all that matters
		if c, err := d.Dial("tcp", net.JoinHostPort(host, "80")); err == nil {
			c.Close()
			t.Fatal("somebody answers")
		}
	}
	for i, want := range []map[byte]bool{{unix.IPPROTO_TCP: true}, {unix.IPPROTO_UDP: true}} {
		got := map[string]int{}
		for b := make([]byte, 2048); ; {
			n, err := unix.Read(fds[i], b)
			if err != nil {
				break
			}
			frame := b[10:n] // behind the virtio_net_hdr
			switch {
			case frame[12] == 0x08 && frame[13] == 0 && want[frame[14+9]]:
				got["IPv4"]++
			case frame[12] == 0x86 && want[frame[14+6]]:
				got["IPv6"]++
			case frame[12] == 0x86 && frame[14+6] == unix.IPPROTO_ICMPV6 && i == 0, frame[12] == 0x86 && frame[14+6] == 0 && i == 0:
			default:
				t.Errorf("socket %d got % x", i, frame[:40])
			}
		}
		if got["IPv4"] == 0 || i == 0 && got["IPv6"] == 0 {
			t.Errorf("socket %d got %v", i, got)
		}
	}
}

func packetPair(t *testing.T) (Link, netlink.Link) {
	must(t, "veth", netlink.LinkAdd(&netlink.Veth{PeerName: "up1",
		LinkAttrs: netlink.LinkAttrs{Name: "up0", HardwareAddr: peerMAC}}))
	up1, err := netlink.LinkByName("up1")
	must(t, "up1", err)
	must(t, "disable IPv6", os.WriteFile("/proc/sys/net/ipv6/conf/up1/disable_ipv6", []byte("1"), 0))
	must(t, "up1 up", netlink.LinkSetUp(up1))
	l, err := Packet(packetSocket(t), packetSocket(t), Options{Peer: peerMAC, Ifindex: up1.Attrs().Index})
	must(t, "link", err)
	up0, err := netlink.LinkByName("up0")
	must(t, "up0", err)
	return l, up0
}

// tapDevice is a new tap device and its file.
func tapDevice(t *testing.T, flags uint16) (*os.File, netlink.Link) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(t, "open /dev/net/tun (give the user access to it)", err)
	req, err := unix.NewIfreq("tap0")
	must(t, "name", err)
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
	must(t, "TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
	f := os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { f.Close() })
	dev, err := netlink.LinkByName("tap0")
	must(t, "tap0", err)
	return f, dev
}

func tapPair(t *testing.T) (Link, netlink.Link) {
	f, dev := tapDevice(t, 0)
	must(t, "address", netlink.LinkSetHardwareAddr(dev, peerMAC))
	must(t, "MTU", netlink.LinkSetMTU(dev, TapMTU))
	l, err := Tap(f, Options{Peer: peerMAC})
	must(t, "link", err)
	return l, dev
}

// configure gives the kernel's end its addresses and its one neighbour.
func configure(t *testing.T, dev netlink.Link) {
	for _, a := range []string{"10.9.0.1/24", "fd09::1/64"} {
		addr, err := netlink.ParseAddr(a)
		must(t, a, err)
		addr.Flags = unix.IFA_F_NODAD
		must(t, a, netlink.AddrAdd(dev, addr))
	}
	must(t, "up", netlink.LinkSetUp(dev))
	for _, a := range []string{"10.9.0.2", "fd09::2"} {
		must(t, "neighbour", netlink.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, IP: net.ParseIP(a),
			HardwareAddr: MAC[:], State: netlink.NUD_PERMANENT}))
	}
}

func startStack(t *testing.T, l Link) *stack.Stack {
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocolWithOptions(ipv4.Options{}),
			ipv6.NewProtocolWithOptions(ipv6.Options{})},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := s.CreateNIC(1, l.Endpoint()); err != nil {
		t.Fatal(err)
	}
	for a, p := range map[string]tcpip.NetworkProtocolNumber{"10.9.0.2": header.IPv4ProtocolNumber, "fd09::2": header.IPv6ProtocolNumber} {
		if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: p, AddressWithPrefix: address(a).WithPrefix()}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run did not end")
		}
		s.Destroy()
	})
	return s
}

func address(a string) tcpip.Address {
	ip := net.ParseIP(a)
	if v4 := ip.To4(); v4 != nil {
		ip = v4
	}
	return tcpip.AddrFromSlice(ip)
}

// transfer sends 16 MiB through the netstack and back; the bytes must be the same.
func transfer(t *testing.T, s *stack.Stack, host string) {
	proto := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
	if net.ParseIP(host).To4() == nil {
		proto = header.IPv6ProtocolNumber
	}
	ln, err := gonet.ListenTCP(s, tcpip.FullAddress{NIC: 1, Addr: address(host), Port: 7}, proto)
	must(t, "listen", err)
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 256<<10))
		_ = c.(*gonet.TCPConn).CloseWrite()
	}()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(host, "7"), 5*time.Second)
	must(t, "dial", err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	data := make([]byte, 16<<20)
	_, _ = rand.Read(data)
	sent := make(chan error, 1)
	start := time.Now()
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.(*net.TCPConn).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(c)
	must(t, "read", err)
	must(t, "write", <-sent)
	if !bytes.Equal(got, data) {
		t.Fatalf("%s: %d bytes came back, of %d, or others", host, len(got), len(data))
	}
	t.Logf("%s: %d MiB both ways in %s", host, len(data)>>20, time.Since(start))
}

// checkNeighbours: the kernel learnt nothing beside the two static entries,
// and the netstack asked nothing.
func checkNeighbours(t *testing.T, dev netlink.Link) {
	list, err := netlink.NeighList(dev.Attrs().Index, 0)
	must(t, "neighbours", err)
	for _, n := range list {
		if n.State != netlink.NUD_PERMANENT && !n.IP.IsMulticast() && n.State != netlink.NUD_NOARP {
			t.Errorf("learnt neighbour %v", n)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Peer: net.HardwareAddr{1, 0, 0, 0, 0, 0}}, {Peer: net.HardwareAddr{2, 0}}} {
		if _, err := Packet(nil, nil, o); err == nil {
			t.Errorf("%v was taken", o)
		}
		if _, err := Tap(nil, o); err == nil {
			t.Errorf("%v was taken", o)
		}
	}
	if _, err := Packet(nil, nil, Options{Peer: peerMAC}); err == nil {
		t.Error("no descriptor")
	}
	f, err := os.Open("/dev/null")
	must(t, "null", err)
	defer f.Close()
	if _, err := Packet(f, f, Options{Peer: peerMAC}); err == nil {
		t.Error("/dev/null as a packet socket: " + fmt.Sprint(err))
	}
}
