package sandbox

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"outcall/policy"
)

// hostNet tells the machine's own addresses and on-link networks. They change
// under a running session (VPNs, DHCP), and an address that became the host's
// own must be restricted at once, so they are read anew when they are older
// than hostNetFresh.
type hostNet struct {
	session   []netip.Prefix
	synthetic []netip.Prefix
	nat64     func() []netip.Prefix // nil until there is a DNS filter; set before anyone judges

	mu   sync.Mutex
	read time.Time
	host *policy.Host
}

// hostNetFresh bounds how long a change of the host's addresses goes unseen,
// and how often an agent can make us ask the kernel.
const hostNetFresh = time.Second

// Host returns the present view. When the kernel cannot be asked it returns
// the last one that it told: it never forgets a restricted address.
func (h *hostNet) Host() *policy.Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.host == nil || time.Since(h.read) >= hostNetFresh {
		fresh, err := readHost(h.session)
		switch {
		case err == nil:
			fresh.Synthetic = h.synthetic
			h.host, h.read = fresh, time.Now()
		case h.host == nil:
			h.host = &policy.Host{Session: h.session, Synthetic: h.synthetic}
		}
	}
	if h.nat64 == nil {
		return h.host
	}
	if p := h.nat64(); !slices.Equal(p, h.host.NAT64) {
		with := *h.host // others hold the old one
		with.NAT64 = p
		h.host = &with
	}
	return h.host
}

func readHost(session []netip.Prefix) (*policy.Host, error) {
	out := &policy.Host{Session: session}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if a.IPNet == nil {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		out.Addrs = append(out.Addrs, ip)
		ones, _ := a.Mask.Size()
		if p, err := ip.Prefix(ones); err == nil && ones < ip.BitLen() {
			out.OnLink = append(out.OnLink, p)
		}
	}
	return out, nil
}

// hasIPv6Route tells whether the host can reach the IPv6 internet at all: a
// session without it answers AAAA with NODATA, so that clients do not wait
// for connections that cannot be had.
func hasIPv6Route() bool { return hasDefaultRoute(netlink.FAMILY_V6) }

// hasDefaultRoute asks for one address family's default route that leads
// somewhere.
func hasDefaultRoute(family int) bool {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false
	}
	for _, r := range routes {
		isDefault := r.Dst == nil
		if !isDefault {
			ones, _ := r.Dst.Mask.Size()
			isDefault = ones == 0
		}
		if isDefault && r.Type != unix.RTN_UNREACHABLE && r.Type != unix.RTN_BLACKHOLE && r.Type != unix.RTN_PROHIBIT {
			return true
		}
	}
	return false
}

// resolvConfLimit bounds what is read of the host's resolv.conf.
const resolvConfLimit = 64 << 10

// hostResolvers reads the nameserver lines of the host's resolv.conf. An
// unreadable address is an error, never dropped: a typo must not silently
// move questions to another server.
func hostResolvers(path string) ([]netip.AddrPort, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the host's resolvers: %w", err)
	}
	defer f.Close()
	return parseResolvConf(path, f)
}

func parseResolvConf(path string, r io.Reader) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	sc := bufio.NewScanner(io.LimitReader(r, resolvConfLimit))
	for n := 1; sc.Scan(); n++ {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: nameserver %q is no address", path, n, fields[1])
		}
		out = append(out, netip.AddrPortFrom(a, 53))
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return out, nil
}

// hostsLimit bounds what is read of the host's hosts file.
const hostsLimit = 1 << 20

// hostsFile reads the host's own static names; the DNS filter answers them,
// judged and pinned like any other name. Loopback entries are left out: a
// name inside must not be led to the host's loopback.
func hostsFile(path string) (map[string][]netip.Addr, error) {
	f, err := os.Open(path)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read the host's names: %w", err)
	}
	defer f.Close()
	out := map[string][]netip.Addr{}
	sc := bufio.NewScanner(io.LimitReader(f, hostsLimit))
	for sc.Scan() {
		line, _, _ := strings.Cut(sc.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil || a.IsLoopback() || a.Zone() != "" {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			out[name] = append(out[name], a.Unmap())
		}
	}
	return out, sc.Err()
}
