package platform

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Specifically we expect: a new network namespace has no ping sockets and
// privileged ports from 1024 down; its owner changes both, a child user
// namespace cannot.
func TestNetSysctlsAreTheOwners(t *testing.T) { holds(t, "sysctl") }

// Specifically we expect: the owner of a network namespace sets its congestion
// control, whatever the host's is.
func TestCongestionControlIsTheOwners(t *testing.T) { holds(t, "congestion") }

// Specifically we expect: both ends of a veth may stand in one network
// namespace; a frame to a MAC that is nobody's is seen by a packet socket and
// by nothing else.
func TestVethPairInOneNamespace(t *testing.T) { holds(t, "veth") }

// Specifically we expect: IPv4 forwarding is set over rtnetlink, without /proc.
func TestForwardingWithoutProc(t *testing.T) { holds(t, "forward") }

// Specifically we expect: NFLOG and a drop in one rule, in a namespace of an
// ordinary user.
func TestLogAndDropRule(t *testing.T) { holds(t, "nflog") }

// Specifically we expect: an interval map refuses an element inside a wider
// one, so that pins and networks need maps of their own.
func TestIntervalMapRefusesOverlap(t *testing.T) { holds(t, "overlap") }

// Specifically we expect: a connected TCP socket is taken elsewhere by
// AF_UNSPEC, so that an inherited one would leave the network namespace.
func TestConnectedSocketIsReconnected(t *testing.T) { holds(t, "reconnect") }

// Specifically we expect: /proc/net/unix lists one network namespace, and a
// path listener of another is connectable all the same; an abstract one is not.
func TestPathSocketsIgnoreNetNamespaces(t *testing.T) { holds(t, "unix") }

func init() {
	facts["sysctl"] = func() error { return again(inU1, "sysctl-u1") }
	facts["sysctl-u1"] = func() error {
		port, _ := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
		if strings.TrimSpace(string(port)) != "1024" {
			return fmt.Errorf("ip_unprivileged_port_start is %q", port)
		}
		_, before := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
		if err := again(inU2, "sysctl-u2"); err != nil {
			return err
		}
		if err := errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)); err != nil {
			return err
		}
		_, after := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
		return errors.Join(want("ping socket by default", before, unix.EACCES), want("ping socket then", after, nil))
	}
	facts["sysctl-u2"] = func() error {
		return want("write", os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0), unix.EACCES)
	}

	facts["congestion"] = func() error { return again(inU1, "congestion-u1") }
	facts["congestion-u1"] = func() error {
		const file = "/proc/sys/net/ipv4/tcp_congestion_control"
		if err := os.WriteFile(file, []byte("reno"), 0); err != nil {
			return err
		}
		now, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(now)) != "reno" {
			err = fmt.Errorf("it is %q", now)
		}
		return err
	}

	facts["veth"] = func() error { return again(inU1, "veth-u1") }
	facts["veth-u1"] = vethFact
	facts["forward"] = func() error { return again(inU1, "forward-u1") }
	facts["forward-u1"] = forwardFact
	facts["nflog"] = func() error { return again(inU1, "nflog-u1") }
	facts["nflog-u1"] = nflogFact
	facts["overlap"] = func() error { return again(inU1, "overlap-u1") }
	facts["overlap-u1"] = overlapFact
	facts["reconnect"] = reconnectFact

	facts["unix"] = func() error {
		dir, err := os.MkdirTemp("", "fact")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		for _, name := range []string{dir + "/s", "@fact-abstract"} {
			l, err := net.Listen("unix", name)
			if err != nil {
				return err
			}
			defer l.Close()
		}
		os.Setenv("FACT_DIR", dir)
		return again(inU1, "unix-u1")
	}
	facts["unix-u1"] = func() error {
		path := os.Getenv("FACT_DIR") + "/s"
		list, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			return err
		}
		if strings.Contains(string(list), path) {
			return errors.New("the listener is listed in another network namespace")
		}
		_, viaPath := net.Dial("unix", path)
		_, abstract := net.Dial("unix", "@fact-abstract")
		return errors.Join(want("path", viaPath, nil), want("abstract", abstract, unix.ECONNREFUSED))
	}
}

func vethFact() error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "a1"}); err != nil {
		return err
	}
	var index [2]int
	for i, n := range []string{"a0", "a1"} {
		l, err := netlink.LinkByName(n)
		if err != nil {
			return err
		}
		index[i] = l.Attrs().Index
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	// As big-endian 16 bit: all protocols on the near side, IPv4 on the far.
	in, err := packetSocket(index[1], unix.ETH_P_ALL<<8)
	if err != nil {
		return err
	}
	out, err := packetSocket(index[0], 0)
	if err != nil {
		return err
	}
	frame := append([]byte{2, 0x77, 1, 2, 3, 4, 2, 0x77, 9, 9, 9, 9, 0x08, 0x00}, make([]byte, 46)...)
	frame[14] = 0x45
	b := make([]byte, 2048)
	for range 50 {
		// Sent again and again: the link drops all until it has noticed its peer.
		if err := unix.Sendto(out, frame, 0, &unix.SockaddrLinklayer{Ifindex: index[0], Halen: 6}); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		n, from, err := unix.Recvfrom(in, b, 0)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return err
		}
		if n < 14 || string(b[:6]) != string(frame[:6]) {
			continue // the kernel's own neighbour discovery
		}
		if kind := from.(*unix.SockaddrLinklayer).Pkttype; kind != unix.PACKET_OTHERHOST {
			return fmt.Errorf("the kernel takes the frame for its own: packet type %d", kind)
		}
		return nil
	}
	return errors.New("the frame did not arrive")
}

func packetSocket(index, proto int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return -1, err
	}
	tv := unix.Timeval{Usec: 100_000}
	return fd, errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: index}))
}

func forwardFact() error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "d0"}, PeerName: "d1"}); err != nil {
		return err
	}
	l, err := netlink.LinkByName("d0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	// nlmsghdr, ifinfomsg, IFLA_AF_SPEC { AF_INET { IFLA_INET_CONF { forwarding = 1 } } }
	const length = 16 + 16 + 4 + 4 + 4 + 8
	msg := make([]byte, length)
	ne := nativeEndian
	ne.PutUint32(msg[0:], length)
	ne.PutUint16(msg[4:], unix.RTM_SETLINK)
	ne.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	ne.PutUint32(msg[20:], uint32(l.Attrs().Index))
	attr := func(at, n, kind int) {
		ne.PutUint16(msg[at:], uint16(n))
		ne.PutUint16(msg[at+2:], uint16(kind))
	}
	attr(32, 20, unix.IFLA_AF_SPEC)
	attr(36, 16, unix.AF_INET)
	attr(40, 12, 1) // IFLA_INET_CONF
	attr(44, 8, 1)  // IPV4_DEVCONF_FORWARDING
	ne.PutUint32(msg[48:], 1)
	if _, err := unix.Write(fd, msg); err != nil {
		return err
	}
	b := make([]byte, 4096)
	if _, err := unix.Read(fd, b); err != nil {
		return err
	}
	if code := int32(ne.Uint32(b[16:])); code != 0 {
		return fmt.Errorf("RTM_SETLINK: %w", unix.Errno(-code))
	}
	got, err := os.ReadFile("/proc/sys/net/ipv4/conf/d0/forwarding")
	if err == nil && strings.TrimSpace(string(got)) != "1" {
		err = fmt.Errorf("forwarding is %q", got)
	}
	return err
}

func nflogFact() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "fact", Family: nftables.TableFamilyINet})
	policy := nftables.ChainPolicyDrop
	chain := c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Log{Group: 1, Snaplen: 128, QThreshold: 1, Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_QTHRESHOLD},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return c.Flush()
}

func overlapFact() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "fact", Family: nftables.TableFamilyINet})
	set := &nftables.Set{Name: "nets", Table: table, Interval: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)}
	wide := nftables.SetElement{Key: []byte{93, 184, 0, 0, 1, 187, 0, 0}, KeyEnd: []byte{93, 184, 255, 255, 1, 187, 0, 0}}
	if err := c.AddSet(set, []nftables.SetElement{wide}); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("the wide element: %w", err)
	}
	pin := nftables.SetElement{Key: []byte{93, 184, 216, 34, 1, 187, 0, 0}, KeyEnd: []byte{93, 184, 216, 34, 1, 187, 0, 0}}
	if err := c.SetAddElements(set, []nftables.SetElement{pin}); err != nil {
		return err
	}
	return want("an element inside it", c.Flush(), unix.EEXIST)
}

func reconnectFact() error {
	var l [2]net.Listener
	for i := range l {
		var err error
		if l[i], err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return err
		}
		defer l[i].Close()
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	for i := range l {
		if i > 0 {
			if err := disconnect(fd); err != nil {
				return fmt.Errorf("AF_UNSPEC: %w", err)
			}
		}
		a := l[i].Addr().(*net.TCPAddr)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte(a.IP.To4()), Port: a.Port}); err != nil {
			return err
		}
	}
	return nil
}
