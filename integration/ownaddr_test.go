package integration

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// hostAddr gives the host one more address, until the function that it returns
// is called.
func hostAddr(t *testing.T, p netip.Prefix) (remove func()) {
	t.Helper()
	l, err := netlink.LinkByName("wan0")
	if err != nil {
		t.Fatal(err)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}
	if err := netlink.AddrAdd(l, a); err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	return func() { netlink.AddrDel(l, a) }
}

// The host's own addresses and its on-link networks are restricted as they are
// at that moment: one that it gets under a running session is no longer in
// answers and not reached by the pin that there is, and is again when it has gone.
func TestOwnAddressesOfTheMoment(t *testing.T) {
	b := harness.New(t)
	const own, near = "own.allowed.test", "near.allowed.test"
	addrs := map[string][]netip.Addr{own: {b.Addr4(), b.Addr6()}, near: {b.Addr4(), b.Addr6()}}
	for n, a := range addrs {
		b.DNS.Set(n, world.Records{Addrs: a, TTL: 0})
	}
	p := b.StartSandbox(append(harness.Allow(own, near), "--no-proxy"), "sh", "-c", "echo up; exec sleep 1000")
	p.WaitFor("up")
	defer func() { b.Outcall("stop", p.Name); p.Wait() }()
	reached := func(want bool) {
		t.Helper()
		for n, all := range addrs {
			for _, a := range all {
				k := b.Canary(t)
				typ := map[bool]string{true: "A", false: "AAAA"}[a.Is4()]
				script := fmt.Sprintf("%[1]s dns udp 10.200.0.1:53 %[2]s %[3]s; %[1]s bytes %[4]s %[5]x", harness.Probe, typ, n, at(a, 80), "GET /"+k.Word+" HTTP/1.1\r\nHost: "+n+"\r\n\r\n")
				lines := b.Outcall("exec", p.Name, "--", "sh", "-c", script).Lines(t)
				if len(lines) != 2 || lines[1].OK != want || strings.Contains(lines[0].Data, a.String()) != want {
					t.Errorf("reachable: %v; %s at %s: %+v", want, n, a, lines)
				}
				if !want {
					k.MustNotArrive(t)
				}
			}
		}
	}
	// answered waits until answers tell of a change, which may go unseen for a second.
	answered := func(want bool) {
		t.Helper()
		harness.MustEventually(t, 3*time.Second, "the answers tell of the change", func() bool {
			for n, all := range addrs {
				l := b.Outcall("exec", p.Name, "--", harness.Probe, "dns", "udp", "10.200.0.1:53", "A", n).Lines(t)
				if len(l) != 1 || strings.Contains(l[0].Data, all[0].String()) != want {
					return false
				}
			}
			return true
		})
	}
	reached(true) // and pinned
	var removes []func()
	for _, a := range addrs[own] {
		removes = append(removes, hostAddr(t, netip.PrefixFrom(a, a.BitLen())))
	}
	for _, a := range addrs[near] {
		removes = append(removes, hostAddr(t, netip.PrefixFrom(a.Prev(), a.BitLen()-8)))
	}
	answered(false)
	m := b.Mark()
	reached(false)
	b.MustBeQuiet(t, m, func(f world.Frame) bool {
		return !slices.Contains(addrs[own], f.Dst.Addr()) && !slices.Contains(addrs[near], f.Dst.Addr())
	})
	for _, all := range addrs {
		for _, a := range all {
			b.SomeDenial(t, p.Name, func(e harness.Event) bool { return e.Structural && e.Layer == "flow" && e.IP == a.String() })
		}
	}
	for _, f := range removes {
		f()
	}
	answered(true)
	reached(true)
}
