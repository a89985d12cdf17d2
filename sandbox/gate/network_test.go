package gate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ip runs iproute2 in the gateway netns, where these tests need to look
// around as an operator would.
func ip(t *testing.T, c *Client, args ...string) string {
	t.Helper()
	out, ws := run(t, c, Gateway, Spec{Argv: append([]string{"ip"}, args...)})
	if ws.ExitStatus() != 0 {
		t.Fatalf("ip %v: exit %d, %s (iproute2 must be installed)", args, ws.ExitStatus(), out)
	}
	return out
}

// The kernel owns no address in the gateway but loopback's: nothing there can
// be reached without being forwarded.
func TestGatewayHasNoAddresses(t *testing.T) {
	c := inside(t)
	var links []struct {
		Ifname string
		Addrs  []struct{ Local string } `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(ip(t, c, "-j", "addr")), &links); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, l := range links {
		names[l.Ifname] = true
		if l.Ifname != "lo" && len(l.Addrs) != 0 {
			t.Errorf("%s has %v", l.Ifname, l.Addrs)
		}
	}
	for _, n := range []string{"outcall0", PortLink, Uplink0, Uplink1} {
		if !names[n] {
			t.Errorf("%s is missing", n)
		}
	}
	if out := ip(t, c, "-d", "link", "show", PortLink); !strings.Contains(out, "isolated on") || !strings.Contains(out, "learning off") {
		t.Errorf("the port: %s", out)
	}
	if out := sh(t, c, "ip -o addr show dev eth0 | grep -c fe80 || true"); out != "0" {
		t.Error("eth0 has a link-local address")
	}
	gid := sh(t, c, "id -g")
	if out := sh(t, c, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"); out != "0\n"+gid+"\t"+gid {
		t.Errorf("settings inside: %q", out)
	}
	if out := sh(t, c, "cat /proc/sys/net/ipv4/tcp_congestion_control"); out != "reno" {
		t.Errorf("congestion control inside: %q", out)
	}
}

// A wire is the netstack's end of the link.
type wire struct {
	f    *os.File
	info Info
	hdr  int // what comes before each frame
}

func openWire(t *testing.T, c *Client) *wire {
	t.Helper()
	f, err := c.Socket(deadline(t), Gateway, unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := &wire{f: f, info: c.Info(), hdr: vnetHdr}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			unix.Bind(int(fd), &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: w.info.Uplink1Index})) // ETH_P_ALL
	})
	if err := errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	return w
}

const vnetHdr = 10

// answer waits for a UDP datagram to dst and sends its payload back in
// capitals. It checks that the frame is for the netstack's address.
func (w *wire) answer(t *testing.T, dst netip.AddrPort, stack [6]byte) {
	t.Helper()
	buf := make([]byte, 70000)
	_ = w.f.SetReadDeadline(time.Now().Add(15 * time.Second))
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			t.Fatalf("no datagram to %s: %v", dst, err)
		}
		frame := bytes.Clone(buf[w.hdr:n])
		l3, udp := frame[14:], []byte(nil)
		var to netip.Addr
		if dst.Addr().Is4() && frame[12] == 0x08 && frame[13] == 0 && l3[9] == unix.IPPROTO_UDP {
			to, udp = netip.AddrFrom4([4]byte(l3[16:20])), l3[20:]
		} else if dst.Addr().Is6() && frame[12] == 0x86 && l3[6] == unix.IPPROTO_UDP {
			to, udp = netip.AddrFrom16([16]byte(l3[24:40])), l3[40:]
		}
		if to != dst.Addr() || binary.BigEndian.Uint16(udp[2:]) != dst.Port() {
			continue
		}
		if !bytes.Equal(frame[:6], stack[:]) {
			t.Errorf("the frame to %s is for %x, want the netstack's %x", dst, frame[:6], stack)
		}
		w.reply(t, frame, l3, udp)
		return
	}
}

func (w *wire) reply(t *testing.T, frame, l3, udp []byte) {
	t.Helper()
	copy(frame[6:12], frame[:6])
	copy(frame[:6], w.info.Uplink0MAC[:])
	swap := func(b []byte, n int) {
		for i := range n {
			b[i], b[n+i] = b[n+i], b[i]
		}
	}
	swap(udp, 2)
	copy(udp[8:], bytes.ToUpper(udp[8:]))
	udp[6], udp[7] = 0, 0
	if frame[12] == 0x08 {
		swap(l3[12:], 4)
		l3[8], l3[10], l3[11] = 64, 0, 0
		binary.BigEndian.PutUint16(l3[10:], ^sum(0, l3[:20]))
	} else {
		swap(l3[8:], 16)
		pseudo := append(append([]byte{}, l3[8:40]...), 0, 0, udp[4], udp[5], 0, 0, 0, unix.IPPROTO_UDP)
		binary.BigEndian.PutUint16(udp[6:], ^sum(uint32(sum(0, pseudo)), udp))
	}
	if _, err := w.f.Write(append(make([]byte, w.hdr), frame...)); err != nil {
		t.Fatal(err)
	}
}

// sum is the Internet checksum (RFC 1071), not complemented.
func sum(s uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// Whatever the agent sends is routed to the netstack, also to the gateway's
// own addresses, and answers come back.
func TestEveryAddressIsRouted(t *testing.T) {
	c := inside(t)
	checkRouted(t, c, openWire(t, c))
}

func checkRouted(t *testing.T, c *Client, w *wire) {
	t.Helper()
	targets := []string{"8.8.8.8:53", "10.200.0.1:53", "10.200.0.254:80", "10.200.0.77:9", "192.168.1.1:443"}
	if c.Info().IPv6 {
		targets = append(targets, "[2001:4860:4860::8888]:53", "[fd0c:a11::1]:53", "[fd0c:a11::fe]:80", "[fd0c:a11::77]:9")
	}
	done := make(chan string, 1)
	go func() { done <- probe(t, c, "udp", targets...) }()
	for _, to := range targets {
		w.answer(t, netip.MustParseAddrPort(to), mac("026f75746301"))
	}
	want := strings.ToUpper("ask " + strings.Join(targets, "\nask "))
	if got := <-done; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The kernel itself never takes what the netstack sends to it.
func TestGatewayTakesNothing(t *testing.T) {
	c := inside(t)
	f, err := c.Socket(deadline(t), Gateway, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, conf := range []string{"forwarding", "rp_filter"} {
		out, _ := run(t, c, Gateway, Spec{Argv: []string{"cat", "/proc/sys/net/ipv4/conf/outcall0/" + conf}})
		if want := map[string]string{"forwarding": "1\n", "rp_filter": "0\n"}[conf]; out != want {
			t.Errorf("%s is %q", conf, out)
		}
	}
	if c.Info().IPv6 {
		if out, _ := run(t, c, Gateway, Spec{Argv: []string{"cat", "/proc/sys/net/ipv6/conf/" + Uplink1 + "/disable_ipv6"}}); out != "1\n" {
			t.Errorf("IPv6 on %s: disable_ipv6 is %q", Uplink1, out)
		}
	}
}

func TestBridgeDownAndUp(t *testing.T) {
	c := inside(t)
	ctx := deadline(t)
	first, up, err := c.BridgeStatus(ctx)
	if err != nil || !up || first != c.Info().BridgeIndex {
		t.Fatalf("at the start: %d, %t, %v", first, up, err)
	}
	w := openWire(t, c)
	for range 2 { // a second time is no error
		if err := c.BridgeDown(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if index, up, err := c.BridgeStatus(ctx); index != 0 || up || err != nil {
		t.Errorf("down: %d, %t, %v", index, up, err)
	}
	// Nothing passes: eth0 has lost its other end's bridge.
	sh(t, c, "echo x > /dev/udp/8.8.8.8/99 2>/dev/null || bash -c 'echo x > /dev/udp/8.8.8.8/99' || true")
	_ = w.f.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	buf := make([]byte, 2000)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			break
		}
		if bytes.Contains(buf[:n], []byte{8, 8, 8, 8}) {
			t.Error("a packet passed while the bridge was down")
		}
	}
	for range 2 {
		if err := c.BridgeUp(ctx); err != nil {
			t.Fatal(err)
		}
	}
	index, up, err := c.BridgeStatus(ctx)
	if err != nil || !up || index == 0 {
		t.Errorf("up: %d, %t, %v", index, up, err)
	}
	targets := []string{"8.8.8.8:53"}
	if c.Info().IPv6 {
		targets = append(targets, "[2001:4860:4860::8888]:53")
	}
	done := make(chan string, 1)
	go func() { done <- probe(t, c, "udp", targets...) }()
	for _, to := range targets {
		w.answer(t, netip.MustParseAddrPort(to), mac("026f75746301"))
	}
	<-done
}

func TestOtherNetwork(t *testing.T) {
	needNamespaces(t)
	o := options(t)
	o.Network = Network{Bridge: "br-x", Subnet: netip.MustParsePrefix("172.30.4.0/22"), StackMAC: [6]byte{2, 1, 1, 1, 1, 1}, NoIPv6: true}
	c := session(t, o)
	if c.Info().IPv6 || c.Info().Gateway4 != netip.MustParseAddr("172.30.4.1") || c.Info().Agent4 != netip.MustParseAddr("172.30.4.2") {
		t.Errorf("info %+v", c.Info())
	}
	w := openWire(t, c)
	done := make(chan string, 1)
	go func() { done <- probe(t, c, "udp", "1.1.1.1:53") }()
	w.answer(t, netip.MustParseAddrPort("1.1.1.1:53"), o.Network.StackMAC)
	<-done
	if out := sh(t, c, "ip -6 -o addr show dev eth0 | wc -l"); out != "0" {
		t.Errorf("%s IPv6 addresses inside", out)
	}
}

func TestNetworkIsChecked(t *testing.T) {
	for _, n := range []Network{
		{Bridge: "a b"}, {Bridge: "0123456789abcdef"}, {Bridge: "../x"}, {Bridge: ".."}, {Bridge: Uplink0}, {Bridge: "lo"},
		{Subnet: netip.MustParsePrefix("10.0.0.0/25")}, {Subnet: netip.MustParsePrefix("fd00::/64")},
	} {
		if got, err := n.filled(); err == nil {
			t.Errorf("%+v is taken as %+v", n, got)
		}
	}
	if n, err := (Network{Subnet: netip.MustParsePrefix("10.1.2.3/24")}).filled(); err != nil || n.gateway4() != netip.MustParseAddr("10.1.2.1") || n.Bridge != "outcall0" {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestGatewayTools(t *testing.T) {
	c := inside(t)
	dir := t.TempDir()
	planted := dir + "/nft"
	if err := os.WriteFile(planted, []byte("#!/bin/sh\necho planted\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// Owned by the command's uid, as if it had written it.
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{dir, planted} {
			if err := os.Chown(p, c.Info().agentUID(), -1); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, argv0 := range []string{planted, "nft-that-is-nowhere", "./nft", dir + "/missing"} {
		_, err := c.Spawn(deadline(t), Gateway, Spec{Argv: []string{argv0}, Env: []string{"PATH=" + dir}, Dir: dir})
		var se *StageError
		if !errors.As(err, &se) || se.Stage != StageExec {
			t.Errorf("%s: %v", argv0, err)
		}
	}
	out, ws := run(t, c, Gateway, Spec{Argv: []string{"sh", "-c", "id -u; touch " + dir + "/x 2>&1; exit 9"}, Env: []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}})
	if ws.ExitStatus() != 9 || !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "Read-only") {
		t.Errorf("exit %d, %q", ws.ExitStatus(), out)
	}
	if _, ws := run(t, c, Gateway, Spec{Argv: []string{"sh", "-c", "kill -9 $$"}}); ws.Signal() != unix.SIGKILL {
		t.Errorf("status %v", ws)
	}
	p, err := c.Spawn(deadline(t), Gateway, Spec{Argv: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(deadline(t), p, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wait(t, p.Done(), "the tool's end")
	if p.Status().Signal() != unix.SIGTERM {
		t.Errorf("status %v", p.Status())
	}
	if _, err := c.Spawn(deadline(t), Gateway, Spec{Argv: []string{"sleep"}, TTY: true}); err == nil {
		t.Error("a tool got a terminal")
	}
}

func (i Info) agentUID() int {
	var st unix.Stat_t
	_ = unix.Stat(fmt.Sprintf("/proc/%d", i.KeeperPID), &st)
	return int(st.Uid)
}
