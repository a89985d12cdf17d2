package integration

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An insider sends frames on a session's own cable with every power over its
// network namespace. No agent has that; the tests do, since their own user
// namespace is an ancestor of the session's. What holds against an insider
// does not rest on what the agent's kernel would refuse to send.
type insider struct {
	calls    chan func()
	eth, lan int // the agent's link, a packet socket on it
	from, to [6]byte
}

// newInsider enters the network namespace whose /proc name is ns.
func newInsider(t *testing.T, ns string) *insider {
	t.Helper()
	i := &insider{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := i.enter(ns)
		ready <- err
		if err != nil {
			return
		}
		for f := range i.calls {
			f()
		}
		unix.Close(i.lan)
	}()
	if err := <-ready; err != nil {
		t.Fatalf("enter %s: %v", ns, err)
	}
	t.Cleanup(func() { close(i.calls) })
	return i
}

func (i *insider) enter(ns string) error {
	file, err := findNamespace(ns)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	i.eth, i.from = link.Attrs().Index, [6]byte(link.Attrs().HardwareAddr)
	peers, err := netlink.NeighList(i.eth, unix.AF_INET)
	if err != nil || len(peers) == 0 {
		return fmt.Errorf("the gateway's link address: %d neighbours, %w", len(peers), err)
	}
	i.to = [6]byte(peers[0].HardwareAddr)
	i.lan, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	return unix.Bind(i.lan, &unix.SockaddrLinklayer{Ifindex: i.eth})
}

// findNamespace opens a network namespace by the name of its link in /proc.
func findNamespace(ns string) (*os.File, error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if is, err := os.Readlink(l); err == nil && is == ns {
			return os.Open(l)
		}
	}
	return nil, fmt.Errorf("no process is in %s", ns)
}

// send puts whole frames on the cable, one after the other.
func (i *insider) send(t *testing.T, frames ...[]byte) {
	t.Helper()
	done := make(chan error)
	i.calls <- func() {
		for _, f := range frames {
			if err := unix.Send(i.lan, f, 0); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}
	if err := <-done; err != nil {
		t.Errorf("send: %v", err)
	}
}

// frame is an Ethernet frame from the agent's link to the gateway's.
func (i *insider) frame(packet []byte) []byte {
	if packet[0]>>4 == 6 {
		return ether(i.to, i.from, unix.ETH_P_IPV6, packet)
	}
	return ether(i.to, i.from, unix.ETH_P_IP, packet)
}

func ether(to, from [6]byte, typ uint16, packet []byte) []byte {
	b := append(append([]byte(nil), to[:]...), from[:]...)
	return append(binary.BigEndian.AppendUint16(b, typ), packet...)
}

// ipPacket writes an IPv4 or IPv6 packet; options are IPv4's, a multiple of
// four octets.
func ipPacket(src, dst netip.Addr, proto byte, payload, options []byte) []byte {
	if src.Is6() {
		b := make([]byte, 40, 40+len(payload))
		b[0], b[6], b[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		return append(b, payload...)
	}
	head := 20 + len(options)
	b := make([]byte, head, head+len(payload))
	b[0], b[8], b[9] = 0x40|byte(head/4), 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(head+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	copy(b[20:], options)
	binary.BigEndian.PutUint16(b[10:], ^onesSum(0, b))
	return append(b, payload...)
}

// onesSum is the sum that Internet checksums are made of (RFC 1071).
func onesSum(sum uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// sealed computes the checksum at offset of a transport packet.
func sealed(src, dst netip.Addr, proto byte, b []byte, offset int) []byte {
	pseudo := append(append([]byte(nil), src.AsSlice()...), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(proto))
	if proto == unix.IPPROTO_ICMP {
		pseudo = nil
	}
	binary.BigEndian.PutUint16(b[offset:], ^onesSum(uint32(onesSum(0, pseudo)), b))
	return b
}

// tcpTo and udpTo write a TCP segment with flags, and a datagram.
func tcpTo(src, dst netip.AddrPort, flags byte, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = append(b, 0, 0, 0, 7, 0, 0, 0, 0, 5<<4, flags, 0xfa, 0xf0, 0, 0, 0, 0)
	return sealed(src.Addr(), dst.Addr(), unix.IPPROTO_TCP, append(b, data...), 16)
}

func udpTo(src, dst netip.AddrPort, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	return sealed(src.Addr(), dst.Addr(), unix.IPPROTO_UDP, append(append(b, 0, 0), data...), 6)
}

func icmpTo(src, dst netip.Addr, typ, code byte, body []byte) []byte {
	proto := byte(unix.IPPROTO_ICMP)
	if src.Is6() {
		proto = unix.IPPROTO_ICMPV6
	}
	return sealed(src, dst, proto, append([]byte{typ, code, 0, 0}, body...), 2)
}
