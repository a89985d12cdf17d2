package world

import (
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Stand serves each connection to a port, at every address of the internet, by
// f. The connections that are left are closed when the test ends.
func (w *World) Stand(t testing.TB, port uint16, f func(*net.TCPConn)) {
	t.Helper()
	var ln net.Listener
	err := w.internet.do(func() (err error) {
		ln, err = net.Listen("tcp", ":"+strconv.Itoa(int(port)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Origins.mu.Lock()
	w.Origins.closers = append(w.Origins.closers, ln)
	w.Origins.mu.Unlock()
	serve := w.Origins.each(func(c net.Conn) { f(c.(*net.TCPConn)) })
	w.Origins.done.Go(func() { serve(ln) })
}

// StandSilent is a port whose queue is full: nobody answers its SYNs. It holds
// for the IPv4 addresses or the IPv6 ones of the internet.
func (w *World) StandSilent(t testing.TB, family int, port uint16, at net.IP) {
	t.Helper()
	var fd int
	err := w.internet.do(func() (err error) {
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		var any unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
		if family == unix.AF_INET6 {
			any = &unix.SockaddrInet6{Port: int(port)}
		}
		if err = unix.Bind(fd, any); err != nil {
			return err
		}
		return unix.Listen(fd, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	// A queue of no length takes one.
	c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: at, Port: int(port)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// StartThere starts a command on the internet's side.
func (w *World) StartThere(cmd *exec.Cmd) error { return w.internet.do(cmd.Start) }

// StandHTTP is a plain HTTP origin at every address of one family alone: in the
// other one the port is closed.
func (w *World) StandHTTP(t testing.TB, family string, port uint16) {
	t.Helper()
	var ln net.Listener
	err := w.internet.do(func() (err error) {
		ln, err = net.Listen(family, ":"+strconv.Itoa(int(port)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Origins.mu.Lock()
	w.Origins.closers = append(w.Origins.closers, ln)
	w.Origins.mu.Unlock()
	w.Origins.done.Go(func() { w.Origins.serveHTTP(ln) })
}

// Vanish makes an address of the internet one that does not answer until the
// test ends: silently, or (told) so that the host is told it is unreachable.
func (w *World) Vanish(t testing.TB, told bool, a netip.Addr) {
	t.Helper()
	r := &netlink.Route{Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Type: unix.RTN_BLACKHOLE, Table: unix.RT_TABLE_LOCAL}
	where := w.internet.do
	if told {
		r.Type, r.Table = unix.RTN_UNREACHABLE, unix.RT_TABLE_MAIN
		where = func(f func() error) error { return f() }
	}
	if a.Is6() {
		r.LinkIndex = 1 // lo: the kernel wants a device for IPv6
	}
	if err := where(func() error { return netlink.RouteReplace(r) }); err != nil {
		t.Fatalf("world: route that loses %s: %v", a, err)
	}
	t.Cleanup(func() { where(func() error { return netlink.RouteDel(r) }) })
}
