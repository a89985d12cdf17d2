package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// What stands before each packet: a virtio_net_hdr (linux/virtio_net.h, in the
// machine's byte order), and the Ethernet header.
const (
	vnetLen   = 10
	headerLen = vnetLen + header.EthernetMinimumSize

	vnetNeedsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	vnetTCPv4     = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	vnetTCPv6     = 4 // VIRTIO_NET_HDR_GSO_TCPV6
)

const (
	// packetRoom is one piece of the stack's memory, and more than the longest
	// packet: 65,535 octets with the header of IPv4, and what the kernel's
	// segments of IPv6 are held to (GSO_LEGACY_MAX_SIZE).
	packetRoom = buffer.MaxChunkSize
	// copyUpTo is up to which length a packet is copied to memory of its own
	// size: one that waits to be read holds at most twice its octets.
	copyUpTo = packetRoom / 2
	// headersMost is how much is looked at for a packet's headers.
	headersMost = 128
	// queueFrom is from which length on a packet is sent by another goroutine: to
	// wake it costs more than to send a short one.
	queueFrom = 16 << 10
	// queueLen bounds the packets that wait for it, and so how long the packets of
	// other flows stand behind them: 4 MiB at most, which is three milliseconds.
	queueLen = 64
	// pieces bounds the parts that a packet is written in.
	pieces = 16
)

// frames is the link endpoint over packet sockets. Each socket has a reader,
// which hands its packets to the stack by itself, one after the other: to hand
// them to another goroutine costs a wakeup for each. What is sent is sent by who
// sends it; long packets, which come many at a time, by a sender of their own.
type frames struct {
	socks []*frameSocket // the first one sends, too
	mtu   uint32
	out   [headerLen]byte // before what goes to the peer, less what is left to do
	in    [12]byte        // the Ethernet addresses of a frame that is taken
	ended func(error)

	queue  chan *stack.PacketBuffer // to send, in their order
	queued atomic.Int32             // in the queue or just being sent

	mu      sync.RWMutex            // who sends holds it, too
	to      stack.NetworkDispatcher // nil while nothing is attached
	running sync.WaitGroup          // the readers and the sender
}

// A frameSocket is a packet socket and how to wait for its frames. The runtime's
// poller waits for room to write as well, and every frame that leaves makes some:
// a stream woke it 5,000 times a second for that alone. So the socket is not in
// it, but in an epoll instance of its own for frames to read, and that is.
type frameSocket struct {
	fd    int // non-blocking; the caller's
	epoll *os.File
	wait  syscall.RawConn
}

func newFrameSocket(fd int) (*frameSocket, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = os.NewSyscallError("epoll_ctl", unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN}))
	if err == nil {
		err = unix.SetNonblock(ep, true) // for NewFile
	}
	if err != nil {
		unix.Close(ep)
		return nil, err
	}
	s := &frameSocket{fd: fd, epoll: os.NewFile(uintptr(ep), "frames")}
	if s.wait, err = s.epoll.SyscallConn(); err == nil {
		if err = s.epoll.SetReadDeadline(time.Time{}); err != nil {
			err = fmt.Errorf("the runtime's poller does not take an epoll instance (sysctl fs.epoll.max_user_watches bounds it): %w", err)
		}
	}
	if err != nil {
		s.epoll.Close()
		return nil, err
	}
	return s, nil
}

func newFrames(peer []byte, mtu uint32, ended func(error)) *frames {
	e := &frames{mtu: mtu, ended: ended, queue: make(chan *stack.PacketBuffer, queueLen)}
	header.Ethernet(e.out[vnetLen:]).Encode(&header.EthernetFields{SrcAddr: linkAddr(MAC[:]), DstAddr: linkAddr(peer)})
	copy(e.in[:], MAC[:])
	copy(e.in[len(MAC):], peer)
	return e
}

// Attach implements stack.LinkEndpoint. With nil it returns when no reader is
// left and nothing is sent any more; nothing can be attached again.
func (e *frames) Attach(to stack.NetworkDispatcher) {
	e.mu.Lock()
	was := e.to
	e.to = to
	e.mu.Unlock()
	switch {
	case was == nil && to != nil:
		e.running.Go(e.send)
		for _, s := range e.socks {
			e.running.Go(func() {
				if err := e.read(s); err != nil {
					e.ended(err)
				}
			})
		}
	case was != nil && to == nil:
		for _, s := range e.socks {
			_ = s.epoll.SetReadDeadline(time.Unix(1, 0)) // it takes one: newFrameSocket has tried
		}
		close(e.queue) // nobody writes to it any more
		e.running.Wait()
		e.close()
	}
}

func (e *frames) close() {
	for _, s := range e.socks {
		_ = s.epoll.Close() // nothing is written there
	}
}

func (e *frames) dispatcher() stack.NetworkDispatcher {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.to
}

// read delivers what a socket receives until Attach ends it (nil), or an error.
func (e *frames) read(s *frameSocket) error {
	var head [headerLen]byte
	room := buffer.NewViewSize(packetRoom)
	defer func() { room.Release() }()
	iov := []unix.Iovec{piece(head[:]), piece(room.AsSlice())}
	for {
		var n int
		var errno syscall.Errno
		err := s.wait.Read(func(uintptr) bool {
			n, errno = vector(unix.SYS_READV, s.fd, iov)
			return errno != unix.EAGAIN
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		case errno == unix.EINTR, errno == unix.EINVAL: // and a segment that a vnet header has no word for is lost
			continue
		case errno != 0:
			return os.NewSyscallError("read", errno)
		}
		if n -= headerLen; n <= 0 || [12]byte(head[vnetLen:]) != e.in {
			continue
		}
		proto := header.Ethernet(head[vnetLen:]).Type()
		b := room.AsSlice()[:n]
		h := headersLen(proto, b)
		packet := buffer.MakeWithData(b[:h])
		switch {
		case n == h:
		case n <= copyUpTo:
			packet.Append(buffer.NewViewWithData(b[h:]))
		default:
			room.CapLength(n)
			room.TrimFront(h)
			packet.Append(room)
			room = buffer.NewViewSize(packetRoom)
			iov[1] = piece(room.AsSlice())
		}
		e.deliver(proto, packet)
	}
}

// headersLen is where the payload of a packet begins, or any place of one that
// is not TCP. The stack copies the whole piece that its headers are in: so they
// get a small one. Told wrong, it costs a copy.
func headersLen(proto tcpip.NetworkProtocolNumber, packet []byte) int {
	b := packet[:min(len(packet), headersMost)]
	n, next := 0, uint8(0)
	switch {
	case proto == header.IPv4ProtocolNumber && len(b) >= header.IPv4MinimumSize:
		n, next = int(header.IPv4(b).HeaderLength()), header.IPv4(b).Protocol()
	case proto == header.IPv6ProtocolNumber && len(b) >= header.IPv6MinimumSize:
		n, next = header.IPv6MinimumSize, header.IPv6(b).NextHeader()
	}
	if next != uint8(header.TCPProtocolNumber) || n+header.TCPMinimumSize > len(b) {
		return len(b)
	}
	return min(n+max(int(header.TCP(b[n:]).DataOffset()), header.TCPMinimumSize), len(b))
}

func (e *frames) deliver(proto tcpip.NetworkProtocolNumber, packet buffer.Buffer) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: packet})
	defer pkt.DecRef()
	pkt.NetworkProtocolNumber = proto
	if to := e.dispatcher(); to != nil {
		to.DeliverNetworkPacket(proto, pkt)
	}
}

// WritePackets implements stack.LinkEndpoint. A long packet is sent by another
// goroutine, so that who reads from a server goes on reading meanwhile, and what
// comes while such are queued stands behind them. It waits for room in the queue,
// but not for room in the kernel: what has none there is lost, as on a wire.
func (e *frames) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.to == nil {
		return 0, &tcpip.ErrClosedForSend{}
	}
	for i, pkt := range pkts.AsSlice() {
		if pkt.Size() >= queueFrom || e.queued.Load() > 0 {
			e.queued.Add(1)
			e.queue <- pkt.IncRef()
		} else if errno := e.write(pkt); errno != 0 {
			return i, tcpip.TranslateErrno(errno)
		}
	}
	return pkts.Len(), nil
}

// send sends what is queued until the queue is closed.
func (e *frames) send() {
	for pkt := range e.queue {
		_ = e.write(pkt) // as on a wire
		pkt.DecRef()
		e.queued.Add(-1)
	}
}

func (e *frames) write(pkt *stack.PacketBuffer) syscall.Errno {
	head := e.head(pkt)
	var iov [pieces]unix.Iovec
	iov[0] = piece(head[:])
	n := 1
	views, off := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if off >= len(b) {
			off -= len(b)
			continue
		}
		if n == pieces { // of many small writes
			whole := pkt.ToView()
			defer whole.Release()
			iov[1], n = piece(whole.AsSlice()), 2
			break
		}
		iov[n] = piece(b[off:])
		off = 0
		n++
	}
	_, errno := vector(unix.SYS_WRITEV, e.socks[0].fd, iov[:n])
	return errno
}

// head is what goes before a packet: what is left to do to it, from whom and to whom.
func (e *frames) head(pkt *stack.PacketBuffer) [headerLen]byte {
	h := e.out
	if g := &pkt.GSOOptions; g.Type != stack.GSONone {
		binary.NativeEndian.PutUint16(h[2:], uint16(header.EthernetMinimumSize+pkt.HeaderSize()))
		if g.NeedsCsum {
			h[0] = vnetNeedsCsum
			binary.NativeEndian.PutUint16(h[6:], header.EthernetMinimumSize+g.L3HdrLen)
			binary.NativeEndian.PutUint16(h[8:], g.CsumOffset)
		}
		if pkt.Data().Size() > int(g.MSS) {
			h[1] = vnetTCPv4
			if g.Type == stack.GSOTCPv6 {
				h[1] = vnetTCPv6
			}
			binary.NativeEndian.PutUint16(h[4:], g.MSS)
		}
	}
	binary.BigEndian.PutUint16(h[headerLen-2:], uint16(pkt.NetworkProtocolNumber))
	return h
}

// piece is b as a part of what vector moves; b is not empty.
func piece(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// vector is readv or writev of a descriptor that does not wait: the runtime need
// not be ready to go on without this thread.
func vector(call uintptr, fd int, iov []unix.Iovec) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
	return int(n), errno
}
