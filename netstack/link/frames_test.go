package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// datagrams is a frames endpoint on one end of a pair of datagram sockets, which
// keep the borders of what is written as packet sockets do, and the other end.
func datagrams(t testing.TB, ended func(error)) (*frames, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newFrameSocket(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	e := newFrames(peerMAC, PacketMTU, ended)
	e.socks = []*frameSocket{s}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return e, fds[1]
}

// received is a dispatcher that keeps what it is given, in its pieces.
type received chan [][]byte

func (r received) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	got := [][]byte{binary.BigEndian.AppendUint16(nil, uint16(proto))}
	for _, b := range pkt.AsSlices() {
		got = append(got, bytes.Clone(b))
	}
	r <- got
}

func (r received) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// tcpPacket is an IPv4 packet of n octets with a TCP header of 32.
func tcpPacket(n int) []byte {
	p := make([]byte, n)
	header.IPv4(p).Encode(&header.IPv4Fields{TotalLength: uint16(min(n, 65535)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber)})
	header.TCP(p[20:]).Encode(&header.TCPFields{DataOffset: 32})
	for i := 52; i < n; i++ {
		p[i] = byte(i * 7)
	}
	return p
}

func frame(dst, src []byte, proto uint16, packet []byte) []byte {
	f := make([]byte, vnetLen, vnetLen+14+len(packet))
	f = append(append(f, dst...), src...)
	return append(binary.BigEndian.AppendUint16(f, proto), packet...)
}

func TestFramesRead(t *testing.T) {
	e, out := datagrams(t, func(err error) { t.Error(err) })
	got := make(received, 1)
	e.Attach(got)
	defer e.Attach(nil)
	send := func(f []byte) {
		t.Helper()
		if _, err := unix.Write(out, f); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{52, 60, 1500, copyUpTo, copyUpTo + 1, 65535} {
		// What is not from the peer to the netstack is lost, and what has no packet.
		send(frame(MAC[:], MAC[:], 0x0800, tcpPacket(100)))
		send(frame(peerMAC, peerMAC, 0x0800, tcpPacket(100)))
		send(frame([]byte{255, 255, 255, 255, 255, 255}, peerMAC, 0x0800, tcpPacket(100)))
		send(frame(MAC[:], peerMAC, 0x0800, nil))
		send([]byte{1})
		want := tcpPacket(n)
		send(frame(MAC[:], peerMAC, 0x0800, want))
		parts := <-got
		if !bytes.Equal(parts[0], []byte{8, 0}) || !bytes.Equal(bytes.Join(parts[1:], nil), want) {
			t.Fatalf("%d octets: %d parts came, of type %x, or others", n, len(parts)-1, parts[0])
		}
		if len(parts[1]) > headersMost || len(parts) > 3 {
			t.Errorf("%d octets came in %d parts, the first of %d: the headers are to be in a small one", n, len(parts)-1, len(parts[1]))
		}
	}
}

// TestFramesMemory: a packet that waits holds at most twice its octets, however
// long it is.
func TestFramesMemory(t *testing.T) {
	var held []*stack.PacketBuffer
	more := make(chan struct{})
	e, out := datagrams(t, func(err error) { t.Error(err) })
	e.Attach(keeping(func(pkt *stack.PacketBuffer) { held = append(held, pkt.IncRef()); more <- struct{}{} }))
	for n := 64; n <= 65535; n += n/3 + 1 {
		if _, err := unix.Write(out, frame(MAC[:], peerMAC, 0x0800, tcpPacket(n))); err != nil {
			t.Fatal(err)
		}
		<-more
	}
	e.Attach(nil)
	for _, pkt := range held {
		room := 0
		views, _ := pkt.AsViewList()
		for v := views.Front(); v != nil; v = v.Next() {
			room += v.Capacity()
		}
		if most := 2*pkt.Size() + headersMost; room > most {
			t.Errorf("a packet of %d octets holds %d", pkt.Size(), room)
		}
		pkt.DecRef()
	}
}

type keeping func(*stack.PacketBuffer)

func (k keeping) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) { k(pkt) }
func (keeping) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer)            {}

func TestFramesWrite(t *testing.T) {
	e, in := datagrams(t, nil)
	e.Attach(make(received))
	defer e.Attach(nil)
	for _, c := range []struct {
		name  string
		parts []int
		gso   stack.GSO
		vnet  []uint16 // flags and type, header length, segment size, checksum start and offset
	}{
		{"a short segment", []int{10}, stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: 1448, L3HdrLen: 20}, []uint16{0x0001, 66, 0, 34, 16}},
		{"a long one", []int{3000}, stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: 1448, L3HdrLen: 20}, []uint16{0x0101, 66, 1448, 34, 16}},
		{"IPv6", []int{3000, 20}, stack.GSO{Type: stack.GSOTCPv6, NeedsCsum: true, CsumOffset: 16, MSS: 1428, L3HdrLen: 40}, []uint16{0x0401, 66, 1428, 54, 16}},
		{"no TCP", []int{100}, stack.GSO{}, []uint16{0, 0, 0, 0, 0}},
		{"just as many parts", make13(pieces - 2), stack.GSO{}, []uint16{0, 0, 0, 0, 0}},
		{"one more", make13(pieces - 1), stack.GSO{}, []uint16{0, 0, 0, 0, 0}},
		{"many", make13(1000), stack.GSO{}, []uint16{0, 0, 0, 0, 0}},
	} {
		var payload buffer.Buffer
		for i, n := range c.parts {
			payload.Append(buffer.NewViewWithData(bytes.Repeat([]byte{byte(i + 1)}, n)))
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload, ReserveHeaderBytes: 60})
		copy(pkt.NetworkHeader().Push(52), "headers") // less than is reserved
		pkt.NetworkProtocolNumber, pkt.GSOOptions = header.IPv4ProtocolNumber, c.gso
		want := pkt.ToView()
		var list stack.PacketBufferList
		list.PushBack(pkt)
		if n, err := e.WritePackets(list); n != 1 || err != nil {
			t.Fatalf("%s: %d, %v", c.name, n, err)
		}
		b := make([]byte, 1<<17)
		n, err := unix.Read(in, b)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		b = b[:n]
		var vnet []byte
		for i, v := range c.vnet {
			if i == 0 {
				vnet = append(vnet, byte(v), byte(v>>8))
			} else {
				vnet = binary.NativeEndian.AppendUint16(vnet, v)
			}
		}
		if !bytes.Equal(b[:vnetLen], vnet) {
			t.Errorf("%s: the vnet header is % x, want % x", c.name, b[:vnetLen], vnet)
		}
		if whole := frame(peerMAC, MAC[:], 0x0800, want.AsSlice()); !bytes.Equal(b[vnetLen:], whole[vnetLen:]) {
			t.Errorf("%s: %d octets were sent, want %d, or others", c.name, n, len(whole))
		}
		want.Release()
		pkt.DecRef()
	}
}

func make13(n int) []int {
	parts := make([]int, n)
	for i := range parts {
		parts[i] = 13
	}
	return parts
}

// TestFramesFull: a socket without room loses the packet, and says so.
func TestFramesFull(t *testing.T) {
	e, _ := datagrams(t, nil)
	e.Attach(make(received))
	defer e.Attach(nil)
	for range 10000 {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(make([]byte, 1000))})
		var list stack.PacketBufferList
		list.PushBack(pkt)
		n, err := e.WritePackets(list)
		pkt.DecRef()
		if err != nil {
			if _, full := err.(*tcpip.ErrWouldBlock); !full || n != 0 {
				t.Errorf("%d, %v", n, err)
			}
			return
		}
	}
	t.Error("10,000 packets that nobody reads were taken")
}

// TestFramesEnd: an error of the socket is told, once, and ends its reader.
func TestFramesEnd(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	s, err := newFrameSocket(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	e := newFrames(peerMAC, PacketMTU, func(err error) { ended <- err })
	e.socks = []*frameSocket{s}
	e.Attach(make(received))
	// What was sent and not read makes the close a reset.
	if _, err := unix.Write(fds[0], []byte("x")); err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[1])
	select {
	case err := <-ended:
		if !errors.Is(err, unix.ECONNRESET) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the reader goes on")
	}
	e.Attach(nil)
	if len(ended) != 0 {
		t.Error("told again: ", <-ended)
	}
}

// TestPolledSocket: a socket that the runtime's poller knows would wake a thread
// for each packet that is sent.
func TestPolledSocket(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	f := os.NewFile(uintptr(fds[0]), "polled")
	defer f.Close()
	if _, err := Packet(f, f, Options{Peer: peerMAC}); err == nil || !strings.Contains(err.Error(), "poller") {
		t.Errorf("a socket in the poller: %v", err)
	}
}

// FuzzHeadersLen: whatever the packet is, it is cut within.
func FuzzHeadersLen(f *testing.F) {
	f.Add(uint16(0x0800), tcpPacket(60))
	f.Add(uint16(0x0800), make([]byte, 200))
	f.Add(uint16(0x86dd), append([]byte{0x60, 0, 0, 0, 0, 20, 6, 64}, make([]byte, 52)...))
	f.Fuzz(func(t *testing.T, proto uint16, b []byte) {
		n := headersLen(tcpip.NetworkProtocolNumber(proto), b)
		if n < min(1, len(b)) || n > len(b) || n > headersMost {
			t.Errorf("%d of %d octets", n, len(b))
		}
	})
}

func BenchmarkFramesRead(b *testing.B) {
	for _, n := range []int{52, 1500, 65160} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			got := make(chan struct{})
			e, out := datagrams(b, func(err error) { b.Error(err) })
			e.Attach(keeping(func(*stack.PacketBuffer) { got <- struct{}{} }))
			defer e.Attach(nil)
			f := frame(MAC[:], peerMAC, 0x0800, tcpPacket(n))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := unix.Write(out, f); err != nil {
					b.Fatal(err)
				}
				<-got
			}
		})
	}
}

func BenchmarkFramesWrite(b *testing.B) {
	e, in := datagrams(b, nil)
	payload := buffer.MakeWithData(make([]byte, 65160-52))
	to := make([]byte, 1<<17)
	b.SetBytes(65160)
	b.ReportAllocs()
	for b.Loop() {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload.Clone(), ReserveHeaderBytes: 60})
		pkt.NetworkHeader().Push(52)
		if errno := e.write(pkt); errno != 0 {
			b.Fatal(errno)
		}
		pkt.DecRef()
		if _, err := unix.Read(in, to); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFramesDetached: when Attach(nil) has returned, the descriptors may be
// closed, and their numbers another file's: nothing is written there any more,
// whoever is late.
func TestFramesDetached(t *testing.T) {
	e, in := datagrams(t, func(err error) { t.Error(err) })
	e.Attach(make(received, 1))
	var late sync.WaitGroup
	begun, stop := make(chan struct{}), make(chan struct{})
	for _, size := range []int{100, queueFrom} {
		late.Go(func() {
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(make([]byte, size))})
			defer pkt.DecRef()
			var list stack.PacketBufferList
			list.PushBack(pkt)
			_, _ = e.WritePackets(list) // taken or lost, until the end
			begun <- struct{}{}
			for {
				select {
				case <-stop:
					for range 100 { // and after it refused
						if n, err := e.WritePackets(list); n != 0 || err == nil {
							t.Errorf("after the end: %d packets, %v", n, err)
						}
					}
					return
				default:
					_, _ = e.WritePackets(list)
				}
			}
		})
	}
	<-begun
	<-begun
	e.Attach(nil)
	b := make([]byte, 200)
	for { // what was sent before
		if _, err := unix.Read(in, b); err != nil {
			break
		}
	}
	close(stop)
	late.Wait()
	if n, err := unix.Read(in, b); err == nil {
		t.Errorf("%d octets were written after the end", n)
	}
}
