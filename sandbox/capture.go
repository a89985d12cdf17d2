package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"outcall/netstack/link"
	"outcall/policy"
	"outcall/sandbox/gate"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/pcap"
)

const (
	// maxCaptures is how many captures one session serves at a time: each
	// holds a kernel buffer. A further one is refused.
	maxCaptures = 4
	// captureBuffer is what the kernel keeps for one capture; frames beyond it
	// are dropped from the capture, never from the wire, and counted.
	captureBuffer = 8 << 20
	// stampLen is a struct timespec of a 64-bit kernel.
	stampLen = 16
)

// beginCapture takes one of the places in running.
func beginCapture(running *atomic.Int32) error {
	if running.Add(1) > maxCaptures {
		running.Add(-1)
		return hostapi.Errorf(409, "capture: %d captures run already", maxCaptures)
	}
	return nil
}

// Capture implements hostapi.Backend. The socket is opened when it is asked
// for, since most sessions never do: where the gatekeeper cannot, only the
// capture fails.
func (b backend) Capture(ctx context.Context, begun func() error, emit func(pcap.Frame) error) (dropped uint64, err error) {
	s := b.s
	if err := beginCapture(&s.counts.captures); err != nil {
		return 0, err
	}
	defer s.counts.captures.Add(-1)
	index, up, err := s.gate.BridgeStatus(ctx)
	if err != nil {
		return 0, fmt.Errorf("capture: %w", err)
	}
	if index == 0 || !up {
		return 0, hostapi.Errorf(409, "capture on %s: the bridge is down", s.cfg.Bridge)
	}
	f, err := s.gate.Socket(ctx, gate.Gateway, unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return 0, fmt.Errorf("capture on %s: %w", s.cfg.Bridge, err)
	}
	defer f.Close()
	c := &capture{file: f}
	if err := c.open(index); err != nil {
		return 0, fmt.Errorf("capture on %s: %w", s.cfg.Bridge, err)
	}
	if err = begun(); err == nil {
		err = c.run(ctx, emit)
	}
	if dropped = c.drops(); dropped > 0 {
		s.audit.Record(s.event("limit", policy.Event{Reason: "capture: frames that came faster than they were taken are not in it", Count: int(dropped)}))
	}
	if err != nil {
		err = fmt.Errorf("capture on %s: %w", s.cfg.Bridge, err)
	}
	return dropped, err
}

// A capture is one packet socket on the bridge.
type capture struct {
	file *os.File
	raw  syscall.RawConn
	oob  []byte // the kernel's time of the last frame
}

// open binds last: a packet socket without a protocol receives nothing.
func (c *capture) open(index int) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	c.raw, c.oob = raw, make([]byte, unix.CmsgSpace(stampLen))
	var did error
	err = raw.Control(func(fd uintptr) {
		// The kernel caps it at net.core.rmem_max; less holds, too.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer)
		if did = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); did != nil {
			did = fmt.Errorf("SO_TIMESTAMPNS: %w", did)
			return
		}
		if did = unix.Bind(int(fd), &unix.SockaddrLinklayer{Protocol: link.AllFrames, Ifindex: index}); did != nil {
			did = fmt.Errorf("bind to interface %d: %w", index, did)
		}
	})
	return errors.Join(err, did)
}

// run emits frames until ctx ends (nil), the bridge goes or emit fails.
func (c *capture) run(ctx context.Context, emit func(pcap.Frame) error) error {
	defer context.AfterFunc(ctx, func() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, pcap.MaxFrame)
	for {
		f, err := c.next(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENETDOWN):
			return errors.New("the bridge went down")
		case err != nil:
			return err
		}
		if err := emit(f); err != nil {
			return err
		}
	}
}

func (c *capture) next(buf []byte) (pcap.Frame, error) {
	var n, oobn int
	var got error
	err := c.raw.Read(func(fd uintptr) bool {
		for {
			// MSG_TRUNC gives the frame's true length where the buffer is shorter.
			n, oobn, _, _, got = unix.Recvmsg(int(fd), buf, c.oob, unix.MSG_TRUNC)
			if !errors.Is(got, unix.EINTR) {
				return !errors.Is(got, unix.EAGAIN)
			}
		}
	})
	if err = errors.Join(err, got); err != nil {
		return pcap.Frame{}, err
	}
	return pcap.Frame{Time: stamp(c.oob[:oobn]), Length: n, Data: buf[:min(n, len(buf))]}, nil
}

// stamp is the kernel's time of a frame, else now.
func stamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 || len(messages[0].Data) < stampLen {
		return time.Now()
	}
	d := messages[0].Data
	return time.Unix(int64(binary.NativeEndian.Uint64(d)), int64(binary.NativeEndian.Uint64(d[8:])))
}

// drops asks the kernel how many frames found no room.
func (c *capture) drops() (n uint64) {
	_ = c.raw.Control(func(fd uintptr) {
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = uint64(st.Drops)
		}
	})
	return n
}
