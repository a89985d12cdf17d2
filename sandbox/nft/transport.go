package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// recvSize holds the largest datagram that the kernel makes of a dump (32
	// KiB) or of an acknowledgement. A longer one is an error, never cut.
	recvSize = 64 << 10
	// sendSize is the most that is sent at once: what a socket takes whose
	// buffer nobody could enlarge, and less than an attribute's 16-bit length
	// can get wrong.
	sendSize = 64 << 10
	// answerTime bounds the wait for an answer. The kernel works on a request
	// within the send call, so the answer is there when send returns; the bound
	// is for a kernel that loses it.
	answerTime = 5 * time.Second
	// dumpTries bounds how often a dump is asked for again that a concurrent
	// change interrupted (NLM_F_DUMP_INTR).
	dumpTries = 16

	dumpInterrupted = 0x10  // NLM_F_DUMP_INTR
	ackTLVs         = 0x200 // NLM_F_ACK_TLVS
	ackMessage      = 1     // NLMSGERR_ATTR_MSG
)

// A kernelError is the kernel's answer to one message, with the text that
// NETLINK_EXT_ACK adds to some of them.
type kernelError struct {
	errno unix.Errno
	text  string
}

func (e *kernelError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return e.errno.Error() + " (" + e.text + ")"
}

func (e *kernelError) Unwrap() error { return e.errno }

// A socket speaks netlink on a descriptor that someone else opened. It is
// used under the Table's lock.
type socket struct {
	f    *os.File
	seq  uint32
	buf  []byte
	fail error // the error of the last exchange, before the library wrapped it
}

func newSocket(f *os.File) (*socket, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("netfilter socket: %w", err)
	}
	if err := f.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("netfilter socket: it must be non-blocking: %w", err)
	}
	var opt error
	err = raw.Control(func(fd uintptr) {
		// Short errors with a text: the answers to a batch must fit into the
		// receive buffer, which an unprivileged process cannot enlarge.
		for _, o := range []int{unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK} {
			opt = errors.Join(opt, unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, o, 1))
		}
	})
	if err := errors.Join(err, opt); err != nil {
		return nil, fmt.Errorf("netfilter socket: set options: %w", err)
	}
	return &socket{f: f, buf: make([]byte, recvSize)}, nil
}

// conn returns a fresh builder whose messages go out on this socket. It is
// for one operation: an error inside the library sticks to its Conn.
func (s *socket) conn(ctx context.Context) (*nftables.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.fail = nil
	return nftables.New(nftables.WithTestDial(s.exchange))
}

// flush sends what c has built as one atomic batch and returns the kernel's
// first objection.
func (s *socket) flush(c *nftables.Conn) error {
	if err := c.Flush(); err != nil {
		if s.fail != nil {
			return s.fail
		}
		return err
	}
	return nil
}

// exchange is the transport under google/nftables: a batch, a dump, or one
// request with its answer. Without a request it is asked for one more
// acknowledgement of a batch that went well as a whole.
func (s *socket) exchange(req []netlink.Message) ([]netlink.Message, error) {
	var (
		out []netlink.Message
		err error
	)
	switch {
	case len(req) == 0:
		return []netlink.Message{goodAck()}, nil
	case req[0].Header.Type == unix.NFNL_MSG_BATCH_BEGIN:
		out, err = []netlink.Message{goodAck()}, s.batch(req)
	case req[0].Header.Flags&netlink.Dump == netlink.Dump:
		out, err = s.dump(req[0])
	default:
		out, err = s.one(req[0])
	}
	if err != nil {
		s.fail = err
		return nil, err
	}
	for i := range out {
		out[i].Header.Sequence, out[i].Header.PID = req[0].Header.Sequence, req[0].Header.PID
	}
	return out, nil
}

func goodAck() netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: netlink.Error}, Data: make([]byte, 20)}
}

// batch sends one batch. Only its last message asks for an acknowledgement:
// one for each would overflow the receive buffer at some hundred messages. A
// message that fails is answered in any case, and then nothing was applied.
func (s *socket) batch(req []netlink.Message) error {
	first := s.seq + 1
	last := first + uint32(len(req)) - 2 // the one before BATCH_END
	for i := range req {
		h := &req[i].Header
		h.Flags &^= netlink.Acknowledge | netlink.Echo
		if i == len(req)-2 {
			h.Flags |= netlink.Acknowledge
		}
	}
	if err := s.send(req); err != nil {
		return err
	}
	var failed error
	for {
		msgs, err := s.recv()
		if errors.Is(err, unix.ENOBUFS) && failed != nil {
			return failed // more complaints than fit: all of one failed batch
		}
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if m.Header.Type != netlink.Error || m.Header.Sequence < first {
				continue // of an earlier request
			}
			if err := answer(m); err != nil && failed == nil {
				failed = err
			}
			// A batch that is refused as a whole is answered in the name of its
			// first message.
			if m.Header.Sequence == last || m.Header.Sequence == first {
				return failed
			}
		}
	}
}

// one sends one request and returns what came before its acknowledgement.
func (s *socket) one(req netlink.Message) ([]netlink.Message, error) {
	req.Header.Flags |= netlink.Acknowledge
	if err := s.send([]netlink.Message{req}); err != nil {
		return nil, err
	}
	var out []netlink.Message
	for {
		msgs, err := s.recv()
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			switch {
			case m.Header.Sequence != s.seq:
			case m.Header.Type == netlink.Error:
				return out, answer(m)
			default:
				out = append(out, m)
			}
		}
	}
}

func (s *socket) dump(req netlink.Message) ([]netlink.Message, error) {
	req.Header.Flags &^= netlink.Acknowledge | netlink.Echo
	for range dumpTries {
		if err := s.send([]netlink.Message{req}); err != nil {
			return nil, err
		}
		out, whole, err := s.collect()
		if err != nil || whole {
			return out, err
		}
	}
	return nil, errors.New("the kernel's tables changed under every attempt to read them")
}

// collect reads one dump to its end. It is not whole if a change of the
// tables came between its parts.
func (s *socket) collect() (out []netlink.Message, whole bool, err error) {
	whole = true
	for {
		msgs, err := s.recv()
		if err != nil {
			return nil, false, err
		}
		for _, m := range msgs {
			if m.Header.Sequence != s.seq {
				continue
			}
			if m.Header.Flags&dumpInterrupted != 0 {
				whole = false
			}
			switch m.Header.Type {
			case netlink.Error:
				return nil, false, answer(m)
			case netlink.Done:
				m.Header.Flags |= netlink.Multi
				return append(out, m), whole, nil
			}
			out = append(out, m)
		}
	}
}

// send writes messages as one datagram, numbered in a row.
func (s *socket) send(msgs []netlink.Message) error {
	var b []byte
	for i := range msgs {
		m := msgs[i]
		s.seq++
		m.Header.Sequence, m.Header.PID = s.seq, 0
		m.Header.Length = uint32(unix.SizeofNlMsghdr + len(m.Data))
		b = binary.NativeEndian.AppendUint32(b, m.Header.Length)
		b = binary.NativeEndian.AppendUint16(b, uint16(m.Header.Type))
		b = binary.NativeEndian.AppendUint16(b, uint16(m.Header.Flags))
		b = binary.NativeEndian.AppendUint32(b, m.Header.Sequence)
		b = binary.NativeEndian.AppendUint32(b, m.Header.PID)
		b = append(b, m.Data...)
		for len(b)%unix.NLMSG_ALIGNTO != 0 {
			b = append(b, 0)
		}
	}
	if len(b) > sendSize {
		return fmt.Errorf("send %d bytes to netfilter, more than %d", len(b), sendSize)
	}
	if err := s.f.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := s.f.Write(b); err != nil {
		return fmt.Errorf("send %d bytes to netfilter: %w", len(b), err)
	}
	return nil
}

// recv reads one datagram from the kernel and splits it.
func (s *socket) recv() ([]netlink.Message, error) {
	raw, err := s.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var (
			n     int
			from  unix.Sockaddr
			inner error
		)
		err = raw.Read(func(fd uintptr) bool {
			n, from, inner = unix.Recvfrom(int(fd), s.buf, unix.MSG_TRUNC|unix.MSG_DONTWAIT)
			return inner != unix.EAGAIN && inner != unix.EINTR
		})
		if err := errors.Join(err, inner); err != nil {
			return nil, fmt.Errorf("receive from netfilter: %w", err)
		}
		if n > len(s.buf) {
			return nil, fmt.Errorf("receive from netfilter: a datagram of %d bytes, more than %d", n, len(s.buf))
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // not the kernel
		}
		return splitMessages(s.buf[:n])
	}
}

// splitMessages cuts one datagram into its messages; their data are copies.
func splitMessages(b []byte) ([]netlink.Message, error) {
	var out []netlink.Message
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return nil, errors.New("receive from netfilter: a cut message")
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return nil, errors.New("receive from netfilter: a message of impossible length")
		}
		out = append(out, netlink.Message{
			Header: netlink.Header{
				Length:   uint32(n),
				Type:     netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])),
				Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
				Sequence: binary.NativeEndian.Uint32(b[8:]),
			},
			Data: append([]byte(nil), b[unix.SizeofNlMsghdr:n]...),
		})
		b = b[min((n+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return out, nil
}

// answer reads an NLMSG_ERROR; an errno of 0 is the acknowledgement.
func answer(m netlink.Message) error {
	if len(m.Data) < 4 {
		return errors.New("receive from netfilter: a cut acknowledgement")
	}
	errno := -int32(binary.NativeEndian.Uint32(m.Data))
	if errno == 0 {
		return nil
	}
	e := &kernelError{errno: unix.Errno(errno)}
	const tlvs = 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&ackTLVs != 0 && len(m.Data) > tlvs {
		if ad, err := netlink.NewAttributeDecoder(m.Data[tlvs:]); err == nil {
			for ad.Next() {
				if ad.Type() == ackMessage {
					e.text = ad.String()
				}
			}
		}
	}
	return e
}
