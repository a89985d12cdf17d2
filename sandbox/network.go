package sandbox

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"outcall/netstack"
	"outcall/netstack/dnsfilter"
	"outcall/netstack/egress"
	"outcall/netstack/link"
	"outcall/netstack/pin"
	"outcall/policy"
	"outcall/sandbox/attrib"
	"outcall/sandbox/gate"
	"outcall/sandbox/nft"
)

// hostLoopback is what host.outcall.internal stands for, by either of its own
// addresses: many services listen in one family alone, and which one is no
// matter of the client's.
var hostLoopback = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

var (
	hostService6 = netip.MustParseAddr("fd0c:a11::fe")
	sessionNet6  = netip.MustParsePrefix("fd0c:a11::/64")
)

// ulaGateway6 is the netstack's own IPv6 address; it exists in the netstack
// also where the session carries no IPv6.
var ulaGateway6 = netip.MustParseAddr("fd0c:a11::1")

// hostService4 is the last usable address of the subnet.
func hostService4(subnet netip.Prefix) netip.Addr {
	a := subnet.Masked().Addr().As4()
	size := uint32(1) << (32 - subnet.Bits())
	n := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	n += size - 2
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// syntheticNet is where names get addresses that never leave (RFC 1112's
// reserved block), when only an upstream proxy can resolve them.
var syntheticNet = netip.MustParsePrefix("240.0.0.0/4")

// sessionNets are never dialled and never a valid answer, except the host's
// service addresses, which the egress dialler maps by rule.
func sessionNets(subnet netip.Prefix) []netip.Prefix {
	return []netip.Prefix{subnet.Masked(), sessionNet6}
}

// A gateSockets opens sockets of the gateway netns for package nft.
type gateSockets struct {
	ctx  context.Context
	gate *gate.Client
}

// Socket implements nft.Conn.
func (g gateSockets) Socket() (*os.File, error) {
	return g.gate.Socket(g.ctx, gate.Gateway, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
}

// startTable makes table inet outcall: before it stands, the gateway forwards
// nothing that anyone would look at.
func (s *supervisor) startTable(ctx context.Context) error {
	t, err := nft.Open(gateSockets{ctx, s.gate})
	if err != nil {
		return nftRefused(err)
	}
	s.table = t
	o := nft.Options{
		Bridge: s.cfg.Bridge, Uplink: gate.Uplink0,
		Agent4: s.info.Agent4, Gateway4: s.info.Gateway4,
		Observe: s.cfg.Observe,
	}
	if s.info.IPv6 {
		o.Agent6, o.Gateway6 = s.info.Agent6, s.info.Gateway6
	}
	if !s.cfg.NoProxy {
		o.ProxyPort = s.cfg.ProxyPort
	}
	if err := t.Base(ctx, o); err != nil {
		return nftRefused(err)
	}
	return nil
}

// setNets gives the kernel what the rules allow without a name. Where that is
// IPv6, this network's NAT64 prefixes are learnt first: what is below them is
// as restricted as the IPv4 address that it leads to.
func (s *supervisor) setNets(ctx context.Context, snap *policy.Snapshot) error {
	cells := snap.NetCells(s.who, s.host.Host())
	if s.info.IPv6 && slices.ContainsFunc(cells, func(c policy.Cell) bool { return c.Prefix.Addr().Is6() }) {
		s.dns.LearnNAT64(ctx)
		cells = snap.NetCells(s.who, s.host.Host())
	}
	return s.table.SetNets(ctx, cells)
}

// startAttribution opens what finds the process behind a packet.
func (s *supervisor) startAttribution(ctx context.Context) error {
	diag, err := s.gate.Socket(ctx, gate.Agent, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return fmt.Errorf("sock_diag: %w", err)
	}
	if s.finder, err = attrib.New(diag, s.gate); err != nil {
		diag.Close()
		return fmt.Errorf("sock_diag: %w", err)
	}
	s.closers = append(s.closers, s.finder.Close)
	log, err := s.gate.Socket(ctx, gate.Gateway, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("NFLOG: %w", err)
	}
	if s.nflog, err = attrib.OpenLog(log, nft.LogGroup, nft.LogBytes); err != nil {
		return fmt.Errorf("NFLOG: %w", err)
	}
	return nil
}

// startStack builds link, pins, DNS filter, dialler and netstack.
func (s *supervisor) startStack(ctx context.Context) error {
	l, err := s.openLink(ctx)
	if err != nil {
		return err
	}
	snap := s.snap.Load()
	s.pins = pin.New(pin.Options{
		Kernel: s.table, Generation: snap.Generation,
		Cells: s.cellsOf(snap),
	})
	s.dns = dnsfilter.New(dnsfilter.Config{
		Who: s.who, Snapshot: s.snap.Load, Host: s.host.Host, Pins: s.pins, Audit: s.audit,
		Attribute: func(ctx context.Context, p policy.Proto, src, dst netip.AddrPort) *policy.Process {
			return s.finder.Attribute(ctx, netstack.Tuple{Proto: p, Src: src, Dst: dst})
		},
		Exchanger: dnsfilter.Sockets{}, Upstreams: s.upstreams,
		Observe: s.cfg.Observe, IPv6: s.info.IPv6, Synthetic: s.synthetic,
		Gateway4: s.info.Gateway4, Gateway6: ulaGateway6,
		Host4: hostService4(s.cfg.Subnet), Host6: hostService6,
		Hosts: func(name string) []netip.Addr { return s.hosts[name] },
	})
	s.host.nat64 = s.dns.NAT64
	if err := s.setNets(ctx, snap); err != nil { // with what is behind a NAT64
		return err
	}
	s.dialer, err = egress.New(egress.Config{
		Proxy: s.proxy.url, NoProxy: s.proxy.except,
		Session: sessionNets(s.cfg.Subnet),
		Services: map[netip.Addr][]netip.Addr{
			hostService4(s.cfg.Subnet): hostLoopback,
			hostService6:               hostLoopback,
		},
	})
	if err != nil {
		return err
	}
	s.stack, err = netstack.New(netstack.Config{
		Link: l, Snapshot: s.snap.Load, Who: s.who, Pins: s.pins, DNS: netstack.FilterNames{Filter: s.dns},
		Egress: s.dialer, Attributor: s.finder, Auditor: s.audit, Observe: s.cfg.Observe, Host: s.host.Host,
		Gateway4: s.info.Gateway4, Gateway6: ulaGateway6,
		ProxyPort: s.cfg.ProxyPort, NoProxy: s.cfg.NoProxy,
	})
	return err
}

// cellsOf derives the kernel's share of one name at one address by snap.
func (s *supervisor) cellsOf(snap *policy.Snapshot) func(string, netip.Addr, []policy.Grant) []policy.Cell {
	return func(name string, addr netip.Addr, grants []policy.Grant) []policy.Cell {
		return snap.Cells(s.who, name, addr, grants, s.host.Host())
	}
}

// openLink attaches the netstack to what the gatekeeper made for it.
func (s *supervisor) openLink(ctx context.Context) (link.Link, error) {
	if s.info.Tap {
		s.linkName = "tap"
		return s.tapLink()
	}
	s.linkName = "packet"
	l, err := s.packetLink(ctx)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	return l, nil
}

func (s *supervisor) tapLink() (link.Link, error) {
	f := s.gate.Tap()
	// The agent's own MTU: what is larger would be cut up behind the netstack.
	l, err := link.Tap(f, link.Options{Peer: net.HardwareAddr(s.info.Uplink0MAC[:]), MTU: link.PacketMTU})
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("tap: %w", err)
	}
	s.closers = append(s.closers, f.Close)
	return l, nil
}

func (s *supervisor) packetLink(ctx context.Context) (link.Link, error) {
	var files [2]*os.File
	for i := range files {
		f, err := s.gate.PacketSocket(ctx)
		if err != nil {
			return nil, err
		}
		files[i] = f
		s.closers = append(s.closers, f.Close)
	}
	return link.Packet(files[0], files[1], link.Options{
		Peer: net.HardwareAddr(s.info.Uplink0MAC[:]), MTU: link.PacketMTU, Ifindex: s.info.Uplink1Index,
	})
}

// An upstreamProxy is how the supervisor itself reaches out.
type upstreamProxy struct {
	url    *url.URL
	except string // NO_PROXY
}

// chooseProxy reads --upstream-proxy, else the caller's own variables.
func chooseProxy(flag string, env []string) (upstreamProxy, error) {
	get := func(names ...string) string {
		for _, n := range names {
			for _, kv := range env {
				if k, v, _ := strings.Cut(kv, "="); v != "" && strings.EqualFold(k, n) {
					return v
				}
			}
		}
		return ""
	}
	p := upstreamProxy{except: get("NO_PROXY")}
	raw := flag
	if raw == "" {
		raw = get("HTTPS_PROXY", "ALL_PROXY")
	}
	if raw == "" || raw == "none" {
		return p, nil
	}
	u, err := parseProxy(raw)
	if err != nil {
		return p, err
	}
	p.url = u
	return p, nil
}
