package gate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// network makes the links of both namespaces:
//
//	gateway netns                                      agent netns
//	uplink1 ── uplink0 ⇄ (route) ⇄ outcall0 ── port0 ─── eth0 10.200.0.2/32
//
// The kernel owns no address in the gateway. Both sides have permanent
// neighbours, so nothing is learnt by ARP, NDP or RA, and everything that the
// agent sends is routed, also to the gateway's own services.
func (k *keeper) network() error {
	k.findIPv6()
	if err := k.step(StageSysctl, "", k.sysctls); err != nil {
		return err
	}
	return k.links()
}

// networkEarly is network before there is an inner /proc, and tells whether
// the outer one was enough. It is where no container keeps it read-only, and
// then all this costs no time of its own.
func (k *keeper) networkEarly() (done bool, err error) {
	k.findIPv6()
	if k.step(StageSysctl, "", k.writeAll) != nil {
		return false, nil // network tries again, and its answer counts
	}
	return true, k.links()
}

func (k *keeper) findIPv6() {
	k.info.IPv6 = !k.o.Network.NoIPv6 && k.exists("sys/net/ipv6")
}

func (k *keeper) links() error {
	n := k.o.Network
	gw, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return stageErr(StageBridge, "open rtnetlink", err)
	}
	defer gw.Close()
	l := &linker{h: gw, n: n, ipv6: k.info.IPv6, forward4: k.forward4}
	for _, s := range []struct {
		stage string
		do    func() error
	}{
		{StageBridge, l.bridge},
		{StageBridge, func() error { return l.port(int(k.agent.netNS.Fd())) }},
		{StageUplink, func() error { return k.uplink(l) }},
		{StageUplink, k.uplinkNoIPv6},
		{StageUplink, func() error { return k.uplinkUp(l) }},
		{StageRoute, l.gatewayRoutes},
		{StageRoute, k.agentSide},
	} {
		if err := k.step(s.stage, "", s.do); err != nil {
			return err
		}
	}
	return k.describe(l)
}

func (k *keeper) describe(l *linker) error {
	n := k.o.Network
	br, err := l.h.LinkByName(n.Bridge)
	if err != nil {
		return stageErr(StageBridge, n.Bridge, err)
	}
	k.info.BridgeIndex = br.Attrs().Index
	if !k.info.Tap {
		up, err := l.h.LinkByName(Uplink1)
		if err != nil {
			return stageErr(StageUplink, Uplink1, err)
		}
		k.info.Uplink1Index = up.Attrs().Index
	}
	k.info.Uplink0MAC = uplink0MAC
	k.info.Gateway4, k.info.Agent4 = n.gateway4(), n.agent4()
	if k.info.IPv6 {
		k.info.Gateway6, k.info.Agent6 = gateway6, agent6
	}
	return nil
}

// agentSide gives the agent its address and its only way out.
func (k *keeper) agentSide() error {
	return k.agent.do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open rtnetlink: %w", err)
		}
		defer h.Close()
		l := &linker{h: h, n: k.o.Network, ipv6: k.info.IPv6}
		return l.agentSide()
	})
}

// A linker makes links and routes over one rtnetlink socket.
type linker struct {
	h    *netlink.Handle
	n    Network
	ipv6 bool
	// forward4 asks for forwarding per link, where the sysctl is read-only.
	forward4 bool
}

func attrs(name string, mac [6]byte) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU, a.HardwareAddr = name, linkMTU, net.HardwareAddr(mac[:])
	return a
}

func (l *linker) bridge() error {
	snoop := false // there is one port, and no multicast crosses a router
	br := &netlink.Bridge{LinkAttrs: attrs(l.n.Bridge, bridgeMAC), MulticastSnooping: &snoop}
	if err := l.h.LinkAdd(br); err != nil {
		return fmt.Errorf("add %s: %w", l.n.Bridge, err)
	}
	if err := l.silent(l.n.Bridge); err != nil {
		return err
	}
	return l.up(l.n.Bridge)
}

// port hangs the agent on the bridge.
func (l *linker) port(agentNS int) error {
	v := &netlink.Veth{LinkAttrs: attrs(PortLink, portMAC), PeerName: AgentLink, PeerHardwareAddr: net.HardwareAddr(agentMAC[:]),
		PeerNamespace: netlink.NsFd(agentNS), PeerMTU: linkMTU}
	if err := l.h.LinkAdd(v); err != nil {
		return fmt.Errorf("add %s: %w", PortLink, err)
	}
	if err := l.silent(PortLink); err != nil {
		return err
	}
	return l.attach()
}

// attach makes the port one of the bridge: isolated from other ports, and
// with nothing to learn, since the one address behind it is known.
func (l *linker) attach() error {
	br, err := l.h.LinkByName(l.n.Bridge)
	if err != nil {
		return fmt.Errorf("find %s: %w", l.n.Bridge, err)
	}
	p, err := l.h.LinkByName(PortLink)
	if err != nil {
		return fmt.Errorf("find %s: %w", PortLink, err)
	}
	if err := l.h.LinkSetMaster(p, br); err != nil {
		return fmt.Errorf("attach %s: %w", PortLink, err)
	}
	if err := l.h.LinkSetIsolated(p, true); err != nil {
		return fmt.Errorf("isolate %s: %w", PortLink, err)
	}
	if err := l.h.LinkSetLearning(p, false); err != nil {
		return fmt.Errorf("switch learning on %s off: %w", PortLink, err)
	}
	fdb := &netlink.Neigh{LinkIndex: p.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT,
		Flags: netlink.NTF_MASTER, HardwareAddr: net.HardwareAddr(agentMAC[:])}
	if err := l.h.NeighSet(fdb); err != nil {
		return fmt.Errorf("forwarding entry of %s: %w", PortLink, err)
	}
	return l.up(PortLink)
}

func (l *linker) up(name string) error {
	link, err := l.h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := l.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// gatewayRoutes lead to the agent over the bridge, and everything else to the
// netstack.
func (l *linker) gatewayRoutes() error {
	if err := l.bridgeRoutes(); err != nil {
		return err
	}
	up, err := l.h.LinkByName(Uplink0)
	if err != nil {
		return fmt.Errorf("find %s: %w", Uplink0, err)
	}
	for _, gw := range l.either(l.n.gateway4(), gateway6) {
		if err := l.via(up.Attrs().Index, gw, l.n.StackMAC, true); err != nil {
			return err
		}
	}
	return nil
}

// bridgeRoutes go with the bridge when it is taken away.
func (l *linker) bridgeRoutes() error {
	br, err := l.h.LinkByName(l.n.Bridge)
	if err != nil {
		return fmt.Errorf("find %s: %w", l.n.Bridge, err)
	}
	for _, a := range l.either(l.n.agent4(), agent6) {
		if err := l.host(br.Attrs().Index, a, agentMAC); err != nil {
			return err
		}
	}
	return nil
}

func (l *linker) agentSide() error {
	if err := l.up("lo"); err != nil {
		return err
	}
	eth, err := l.h.LinkByName(AgentLink)
	if err != nil {
		return fmt.Errorf("find %s: %w", AgentLink, err)
	}
	if err := l.silent(AgentLink); err != nil {
		return err
	}
	if err := l.up(AgentLink); err != nil {
		return err
	}
	for _, a := range l.either(l.n.agent4(), agent6) {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Is6() {
			// Nobody else can have it; waiting would delay the first packet.
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := l.h.AddrAdd(eth, addr); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	for _, gw := range l.either(l.n.gateway4(), gateway6) {
		if err := l.host(eth.Attrs().Index, gw, bridgeMAC); err != nil {
			return err
		}
		if err := l.via(eth.Attrs().Index, gw, bridgeMAC, false); err != nil {
			return err
		}
	}
	return nil
}

func (l *linker) either(v4, v6 netip.Addr) []netip.Addr {
	if l.ipv6 {
		return []netip.Addr{v4, v6}
	}
	return []netip.Addr{v4}
}

// host is a route to one address on a link, and who answers to it there.
func (l *linker) host(index int, a netip.Addr, mac [6]byte) error {
	r := &netlink.Route{LinkIndex: index, Dst: ipNet(a), Scope: netlink.SCOPE_LINK}
	if err := l.h.RouteReplace(r); err != nil {
		return fmt.Errorf("route to %s: %w", a, err)
	}
	return l.neighbour(index, a, mac)
}

// via is the default route over gw. onLink is for the gateway netns, which
// has no route to that address and needs none.
func (l *linker) via(index int, gw netip.Addr, mac [6]byte, onLink bool) error {
	if err := l.neighbour(index, gw, mac); err != nil {
		return err
	}
	bits := 32
	if gw.Is6() {
		bits = 128
	}
	r := &netlink.Route{LinkIndex: index, Gw: gw.AsSlice(), Dst: &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}}
	if onLink {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	if err := l.h.RouteReplace(r); err != nil {
		return fmt.Errorf("default route over %s: %w", gw, err)
	}
	return nil
}

func (l *linker) neighbour(index int, a netip.Addr, mac [6]byte) error {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	n := &netlink.Neigh{LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: net.HardwareAddr(mac[:])}
	if err := l.h.NeighSet(n); err != nil {
		return fmt.Errorf("neighbour %s: %w", a, err)
	}
	return nil
}

func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// bridgeUp makes the bridge again with all that hangs on it. It runs in the
// gateway netns.
func bridgeUp(n Network, fail string) error {
	if err := inject(fail, StageBridge+" up"); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()
	l := &linker{h: h, n: n, ipv6: !n.NoIPv6}
	_, err = h.LinkByName(n.Bridge)
	if err == nil {
		return nil
	}
	var missing netlink.LinkNotFoundError
	if !errors.As(err, &missing) {
		return fmt.Errorf("find %s: %w", n.Bridge, err)
	}
	for _, do := range []func() error{l.bridge, l.attach, l.bridgeRoutes} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) exists(path string) bool {
	var st unix.Stat_t
	return unix.Fstatat(k.outer, path, &st, 0) == nil || k.proc >= 0 && unix.Fstatat(k.proc, path, &st, 0) == nil
}
