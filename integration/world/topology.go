package world

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The host's own addresses and its router. They are constants, since the
// tests name them as the things that must not be reached.
var (
	HostV4   = netip.MustParsePrefix("10.77.0.2/24")
	HostV6   = netip.MustParsePrefix("2606:2800:ffff::2/64")
	routerV4 = netip.MustParsePrefix("10.77.0.1/24")
	routerV6 = netip.MustParsePrefix("2606:2800:ffff::1/64")
)

// A place is a network namespace with a thread of its own. Sockets made by do
// live there for as long as they are open, whichever thread uses them.
type place struct {
	calls chan func()
	fd    netns.NsHandle
}

func newPlace() (*place, error) {
	p := &place{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := netns.New()
		p.fd = fd
		ready <- err
		if err != nil {
			return
		}
		for f := range p.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make the internet's network namespace: %w", err)
	}
	return p, nil
}

// do runs f in the namespace and returns its error.
func (p *place) do(f func() error) error {
	done := make(chan error)
	p.calls <- func() { done <- f() }
	return <-done
}

func (p *place) close() {
	close(p.calls)
	p.fd.Close()
}

const hostLink, worldLink = "wan0", "world0"

// connect lays the cable between the two namespaces and gives both ends their
// addresses and routes.
func connect(internet *place) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: hostLink},
		PeerName:      worldLink,
		PeerNamespace: netlink.NsFd(internet.fd),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make %s: %w", hostLink, err)
	}
	// The far end first: a near end that is up alone could lose its first packets.
	if err := internet.do(internetSide); err != nil {
		return fmt.Errorf("internet side: %w", err)
	}
	if err := plug(hostLink, HostV4, HostV6); err != nil {
		return err
	}
	if err := carrier(hostLink); err != nil {
		return err
	}
	return errors.Join(DefaultRoute(true, true), DefaultRoute(false, true))
}

// carrier waits until a link really sends: the kernel notices a peer that
// came up by a work item of its own, and drops what is sent before.
func carrier(link string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		if l.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has no carrier", link)
		}
		runtime.Gosched()
	}
}

func plug(link string, addrs ...netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	for _, a := range addrs {
		// Without NODAD an IPv6 address is unusable for its first second.
		addr := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("address %s on %s: %w", a, link, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", link, err)
	}
	return nil
}

// internetSide makes every address but the host's local: what gets out,
// arrives. The routes stand in the local table, since the kernel looks only
// there when it checks the source of an answer.
func internetSide() error {
	if err := plug("lo"); err != nil {
		return err
	}
	if err := plug(worldLink, routerV4, routerV6); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	up, err := netlink.LinkByName(worldLink)
	if err != nil {
		return err
	}
	for _, cidr := range []string{"0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3", "::/0"} {
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(cidr)),
			Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("local route %s: %w", cidr, err)
		}
	}
	for _, a := range []netip.Prefix{HostV4, HostV6} {
		host := netip.PrefixFrom(a.Addr(), a.Addr().BitLen())
		r := &netlink.Route{LinkIndex: up.Attrs().Index, Dst: ipNet(host),
			Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("route back to %s: %w", host, err)
		}
	}
	return nil
}

// DefaultRoute adds or removes the host's default route of one family, so
// that a test can stand on a machine without IPv6 (or IPv4).
func DefaultRoute(v4, present bool) error {
	l, err := netlink.LinkByName(hostLink)
	if err != nil {
		return fmt.Errorf("find %s: %w", hostLink, err)
	}
	gw, all := routerV6.Addr(), "::/0"
	if v4 {
		gw, all = routerV4.Addr(), "0.0.0.0/0"
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw.AsSlice(), Dst: ipNet(netip.MustParsePrefix(all))}
	if present {
		err = netlink.RouteReplace(r)
	} else {
		err = netlink.RouteDel(r)
	}
	if err != nil {
		return fmt.Errorf("default route %s via %s: %w", all, gw, err)
	}
	return nil
}

func disconnect() error {
	l, err := netlink.LinkByName(hostLink)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setResolvers writes the host's resolv.conf in place: it is a bind mount, so
// the inode has to stay.
func setResolvers(servers ...netip.Addr) error {
	var b []byte
	for _, s := range servers {
		b = fmt.Appendf(b, "nameserver %s\n", s)
	}
	return os.WriteFile(resolvConf, b, 0o644)
}

// narrow gives one address a route of its own whose MTU is known; 0 takes it
// away.
func narrow(a netip.Addr, mtu int) error {
	l, err := netlink.LinkByName(hostLink)
	if err != nil {
		return fmt.Errorf("find %s: %w", hostLink, err)
	}
	gw := routerV4
	if a.Is6() {
		gw = routerV6
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Gw: gw.Addr().AsSlice(), MTU: mtu}
	if mtu == 0 {
		return netlink.RouteDel(r)
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route to %s with MTU %d: %w", a, mtu, err)
	}
	return nil
}
