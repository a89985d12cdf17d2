package attrib

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nfnetlink_log.h.
const (
	nfulnlMsgPacket = 0
	nfulnlMsgConfig = 1

	nfulaPayload = 9
	nfulaPrefix  = 10

	nfulaCfgCmd     = 1
	nfulaCfgMode    = 2
	nfulaCfgNlbuf   = 3
	nfulaCfgQthresh = 5

	cfgCmdBind   = 1
	cfgCopyBytes = 2 // NFULNL_COPY_PACKET

	nfgenmsgLen = 4
	nlaTypeMask = 0x3fff
)

const (
	// logRecvSize holds one datagram of the kernel's, which has a page of
	// messages at most.
	logRecvSize = 64 << 10
	// maxPayload bounds the bytes of one logged packet.
	maxPayload = 1 << 10
	// logHeaders is room for what the kernel writes around a packet's bytes:
	// headers, interfaces, mark, time, owner and the prefix.
	logHeaders = 384
	// logBuffer is what the kernel keeps for a reader that is slower than the
	// packets; what finds no room there is dropped unseen, and Lost tells.
	logBuffer = 4 << 20
	// configTime bounds the wait for the answers to the configuration.
	configTime = 5 * time.Second
)

// A Packet is one packet that the table logged and dropped. Its slices are
// valid only during the call that they are passed to.
type Packet struct {
	Prefix string // the table's word for it, such as "denied"
	Data   []byte // from the network header on, cut to the copy range
}

// A Log reads one NFLOG group.
type Log struct {
	f        *os.File
	received atomic.Uint64
	lost     atomic.Uint64
	bad      atomic.Uint64
}

// OpenLog binds a NETLINK_NETFILTER socket, non-blocking and opened in the
// namespace whose packets are wanted, to a group. Packets are copied up to
// bytes, and sent one by one as they come. The Log owns the socket. A group
// that another socket reads is EPERM, as is a namespace of somebody else.
func OpenLog(f *os.File, group uint16, bytes uint32) (*Log, error) {
	if err := f.SetDeadline(time.Now().Add(configTime)); err != nil {
		return nil, fmt.Errorf("nflog socket: it must be non-blocking: %w", err)
	}
	enlarge(f)
	mode := append(binary.BigEndian.AppendUint32(nil, bytes), cfgCopyBytes, 0)
	for i, a := range [][]byte{
		attribute(nfulaCfgCmd, []byte{cfgCmdBind}),
		attribute(nfulaCfgMode, mode),
		attribute(nfulaCfgNlbuf, binary.BigEndian.AppendUint32(nil, bytes+logHeaders)),
		attribute(nfulaCfgQthresh, binary.BigEndian.AppendUint32(nil, 1)),
	} {
		if err := configure(f, group, uint32(i+1), a); err != nil {
			return nil, fmt.Errorf("nflog group %d: %s: %w", group, [...]string{"bind", "copy mode", "buffer size", "queue threshold"}[i], err)
		}
	}
	if err := f.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("nflog socket: %w", err)
	}
	return &Log{f: f}, nil
}

// enlarge asks for a larger receive buffer. The kernel caps it at
// net.core.rmem_max; less holds, too, for fewer packets.
func enlarge(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, logBuffer) })
	}
}

// attribute writes one netlink attribute, padded.
func attribute(typ uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// message writes one netlink message.
func message(typ, flags uint16, seq uint32, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(payload)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return append(b, payload...)
}

// configure sends one part of the configuration and waits for its answer.
// Packets that come between are skipped: nobody has been promised them yet.
func configure(f *os.File, group uint16, seq uint32, attr []byte) error {
	payload := append([]byte{unix.AF_UNSPEC, 0, byte(group >> 8), byte(group)}, attr...)
	m := message(unix.NFNL_SUBSYS_ULOG<<8|nfulnlMsgConfig, unix.NLM_F_REQUEST|unix.NLM_F_ACK, seq, payload)
	if _, err := f.Write(m); err != nil {
		return err
	}
	b := make([]byte, logRecvSize)
	for {
		n, err := receive(f, b)
		if err != nil {
			return err
		}
		var answer error
		found := false
		split(b[:n], func(h header, data []byte) {
			if h.typ == unix.NLMSG_ERROR && h.seq == seq && len(data) >= 4 {
				found = true
				if errno := -int32(binary.NativeEndian.Uint32(data)); errno != 0 {
					answer = unix.Errno(errno)
				}
			}
		})
		if found {
			return answer
		}
	}
}

// Received counts the packets that were read.
func (l *Log) Received() uint64 { return l.received.Load() }

// Lost counts how often the kernel had to throw logged packets away because
// they were not read in time. Nothing passed by that: the sender's
// retransmission is logged again.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// Malformed counts messages that could not be parsed.
func (l *Log) Malformed() uint64 { return l.bad.Load() }

// Run reads packets and calls f for each, one after the other, until ctx ends
// (then it returns nil) or the socket fails. f must be quick and hand work
// on: what it does not get in time is lost. It closes the socket.
func (l *Log) Run(ctx context.Context, f func(Packet)) error {
	defer l.f.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, logRecvSize)
	for {
		n, err := receive(l.f, b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			l.lost.Add(1)
			continue
		case err != nil:
			return fmt.Errorf("read nflog: %w", err)
		}
		if !parseLog(b[:n], func(p Packet) { l.received.Add(1); f(p) }) {
			l.bad.Add(1)
		}
	}
}

// parseLog calls f for each packet message of a datagram; false says that a
// part of it could not be parsed.
func parseLog(b []byte, f func(Packet)) bool {
	good := true
	whole := split(b, func(h header, data []byte) {
		if h.typ != unix.NFNL_SUBSYS_ULOG<<8|nfulnlMsgPacket {
			return
		}
		if p, ok := parsePacket(data); ok {
			f(p)
		} else {
			good = false
		}
	})
	return good && whole
}

// parsePacket reads one NFULNL_MSG_PACKET after its netlink header.
func parsePacket(b []byte) (p Packet, ok bool) {
	if len(b) < nfgenmsgLen {
		return p, false
	}
	b = b[nfgenmsgLen:]
	for len(b) > 0 {
		if len(b) < 4 {
			return p, false
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return p, false
		}
		data := b[4:n]
		switch binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask {
		case nfulaPayload:
			p.Data = data[:min(len(data), maxPayload)]
		case nfulaPrefix:
			for len(data) > 0 && data[len(data)-1] == 0 {
				data = data[:len(data)-1]
			}
			p.Prefix = string(data)
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return p, len(p.Data) > 0
}
