package gate

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A setting is one file below /proc/sys/net. What it applies to is the
// network namespace of the thread that opens it.
type setting struct{ name, value string }

// gatewaySettings are written before any link exists: links start with the
// defaults. ip_forward comes first, because it resets others.
var gatewaySettings = []setting{
	{"ipv4/ip_forward", "1"},
	{"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/default/rp_filter", "0"},
	{"ipv4/conf/all/accept_redirects", "0"}, {"ipv4/conf/default/accept_redirects", "0"},
	{"ipv4/conf/all/send_redirects", "0"}, {"ipv4/conf/default/send_redirects", "0"},
	{"ipv4/conf/all/accept_source_route", "0"}, {"ipv4/conf/default/accept_source_route", "0"},
	{"ipv4/conf/all/proxy_arp", "0"}, {"ipv4/conf/default/proxy_arp", "0"},
	// 8: answer no ARP at all. Neighbours are permanent on both sides.
	{"ipv4/conf/all/arp_ignore", "8"},
}

var gatewaySettings6 = []setting{
	{"ipv6/conf/all/disable_ipv6", "0"}, {"ipv6/conf/default/disable_ipv6", "0"},
	{"ipv6/conf/all/forwarding", "1"}, {"ipv6/conf/default/forwarding", "1"},
	{"ipv6/conf/all/accept_ra", "0"}, {"ipv6/conf/default/accept_ra", "0"},
	{"ipv6/conf/all/accept_redirects", "0"}, {"ipv6/conf/default/accept_redirects", "0"},
	{"ipv6/conf/default/dad_transmits", "0"},
	{"ipv6/conf/default/addr_gen_mode", "1"}, // no link-local addresses
}

// agentSettings: the agent's user namespace has no power over its network
// namespace, so what an ordinary program may expect is set here. Group 0 of
// U1 is the caller's own group.
var agentSettings = []setting{
	{"ipv4/ip_unprivileged_port_start", "0"},
	{"ipv4/ping_group_range", "0 0"},
	// The host's own may be one that paces by timers (BBR): on a way without
	// loss, which ends in this machine, that only costs.
	{"ipv4/tcp_congestion_control", "reno"},
	{"ipv4/conf/all/accept_redirects", "0"}, {"ipv4/conf/default/accept_redirects", "0"},
}

var agentSettings6 = []setting{
	{"ipv6/conf/all/disable_ipv6", "0"}, {"ipv6/conf/default/disable_ipv6", "0"},
	{"ipv6/conf/all/accept_ra", "0"}, {"ipv6/conf/default/accept_ra", "0"},
	{"ipv6/conf/all/accept_redirects", "0"}, {"ipv6/conf/default/accept_redirects", "0"},
	{"ipv6/conf/default/dad_transmits", "0"},
	{"ipv6/conf/default/addr_gen_mode", "1"},
}

// sysctls prepares both namespaces. With the outer /proc (--weak proc)
// /proc/sys is usually read-only: then IPv4 forwarding goes over rtnetlink,
// there is no IPv6, and the agent's comforts are missing, which the banner
// says.
func (k *keeper) sysctls() error {
	err := k.writeAll()
	if err == nil || !k.o.View.WeakProc {
		return err
	}
	k.forward4 = true
	k.info.IPv6, k.o.Network.NoIPv6 = false, true
	k.info.Notes = append(k.info.Notes, "/proc/sys is read-only: no IPv6, no ping and no ports below 1024 inside")
	return nil
}

func (k *keeper) writeAll() error {
	gw, ag := gatewaySettings, agentSettings
	if k.info.IPv6 {
		gw, ag = append(gw[:len(gw):len(gw)], gatewaySettings6...), append(ag[:len(ag):len(ag)], agentSettings6...)
	}
	if err := k.writeSettings(gw); err != nil {
		return err
	}
	return k.agent.do(func() error { return k.writeSettings(ag) })
}

// writeSettings writes for the calling thread's network namespace.
func (k *keeper) writeSettings(list []setting) error {
	for _, s := range list {
		if err := k.write("sys/net/"+s.name, s.value); err != nil {
			return fmt.Errorf("net/%s: %w", s.name, err)
		}
	}
	return nil
}

// write uses the outer /proc, and where an outer container keeps that
// read-only the agent's, which is bare but with --as-root.
func (k *keeper) write(path, value string) error {
	fd, err := openAt(k.outer, path, unix.O_WRONLY)
	if err != nil && k.proc >= 0 {
		fd, err = openAt(k.proc, path, unix.O_WRONLY)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

// silent keeps a link from making itself a link-local address, by rtnetlink
// as well as by the default sysctl, which cannot always be written.
func (l *linker) silent(name string) error {
	link, err := l.h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	const (
		inet6AddrGenMode = 8 // IFLA_INET6_ADDR_GEN_MODE
		genModeNone      = 1 // IN6_ADDR_GEN_MODE_NONE
	)
	err = setLink(link.Attrs().Index, unix.AF_INET6, inet6AddrGenMode, []byte{genModeNone})
	if err == unix.EAFNOSUPPORT || err == unix.EOPNOTSUPP || (err == unix.EINVAL && !l.ipv6) {
		return nil // a kernel without IPv6
	}
	if err != nil {
		return fmt.Errorf("no link-local address on %s: %w", name, err)
	}
	if l.forward4 {
		if err := forwardLink4(link.Attrs().Index); err != nil {
			return fmt.Errorf("forward IPv4 from %s: %w", name, err)
		}
	}
	return nil
}

// forwardLink4 switches IPv4 forwarding on for what comes in by a link,
// without /proc.
func forwardLink4(index int) error {
	const (
		inetConf   = 1 // IFLA_INET_CONF
		forwarding = 1 // IPV4_DEVCONF_FORWARDING
	)
	conf := nl.NewRtAttr(forwarding, nl.Uint32Attr(1))
	return setLink(index, unix.AF_INET, inetConf, conf.Serialize())
}

// setLink sets one attribute of one address family of a link
// (IFLA_AF_SPEC, rtnetlink(7)), in the calling thread's namespace.
func setLink(index, family, attr int, value []byte) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(family, nil).AddRtAttr(attr, value)
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
