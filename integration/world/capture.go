package world

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of what the capture keeps; a test that goes beyond them can no
// longer claim that nothing arrived, and fails where it does.
const (
	keepFrames  = 1 << 17
	keepPayload = 1 << 10 // bytes of each frame; port 53 is kept whole
)

// A Frame is one packet that arrived on the internet side. Neighbour
// discovery is not kept: it never leaves the cable.
type Frame struct {
	Proto   string // tcp, udp, icmp, icmp6, or ip-<number>
	Src     netip.AddrPort
	Dst     netip.AddrPort // port 0 where the protocol has none
	Flags   byte           // TCP
	Payload []byte         // above the transport header, the first keepPayload bytes
}

func (f Frame) String() string {
	return fmt.Sprintf("%s %s > %s flags %#x %q", f.Proto, f.Src, f.Dst, f.Flags, f.Payload)
}

// A Capture sees every byte that arrives in the internet.
type Capture struct {
	file *os.File
	done chan struct{}

	mu     sync.Mutex
	grew   *sync.Cond
	frames []Frame
	lost   bool
	watch  map[string]bool // lower case canary → arrived
}

func newCapture(internet *place) (*Capture, error) {
	c := &Capture{done: make(chan struct{}), watch: map[string]bool{}}
	c.grew = sync.NewCond(&c.mu)
	err := internet.do(func() error {
		proto := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		c.file = os.NewFile(uintptr(fd), "capture")
		ifi, err := net.InterfaceByName(worldLink)
		if err != nil {
			return err
		}
		// Answers of our own servers are no evidence of anything.
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return fmt.Errorf("ignore outgoing: %w", err)
		}
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<20) // as much as the kernel gives
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: ifi.Index})
	})
	if err != nil {
		if c.file != nil {
			c.file.Close()
		}
		return nil, err
	}
	go c.run()
	return c, nil
}

func (c *Capture) close() error {
	err := c.file.Close()
	<-c.done
	return err
}

// Stop ends the capture for good: a benchmark wants an internet that only takes.
func (c *Capture) Stop() error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	serr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	})
	return errors.Join(serr, err)
}

func (c *Capture) run() {
	defer close(c.done)
	buf := make([]byte, 1<<17)
	for {
		n, err := c.file.Read(buf)
		if err != nil {
			return
		}
		c.take(buf[:n])
	}
}

func (c *Capture) take(raw []byte) {
	f, ok := parseFrame(raw)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.watch) > 0 {
		low := bytes.ToLower(raw)
		for s := range c.watch {
			if bytes.Contains(low, []byte(s)) {
				c.watch[s] = true
			}
		}
	}
	if len(c.frames) >= keepFrames {
		c.lost = true
	} else {
		if f.Dst.Port() != 53 && len(f.Payload) > keepPayload {
			f.Payload = f.Payload[:keepPayload]
		}
		f.Payload = bytes.Clone(f.Payload)
		c.frames = append(c.frames, f)
	}
	c.grew.Broadcast()
}

// A Mark is a point in the capture.
type Mark int

// Mark returns the present point: Since tells what came after.
func (c *Capture) Mark() Mark {
	c.sync()
	c.mu.Lock()
	defer c.mu.Unlock()
	return Mark(len(c.frames))
}

// Since returns what arrived after the mark, all that has been sent before
// the call included. It fails the test when the capture was full or lossy.
func (c *Capture) Since(t testing.TB, m Mark) []Frame {
	t.Helper()
	c.sync()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost {
		t.Error("world: the capture is full: nothing can be said of what arrived")
	}
	var out []Frame
	for _, f := range c.frames[m:] {
		if !isSync(f) {
			out = append(out, f)
		}
	}
	return out
}

// MustBeQuiet fails the test if anything arrived after the mark that
// expected does not accept. A nil expected accepts nothing.
func (c *Capture) MustBeQuiet(t testing.TB, m Mark, expected func(Frame) bool) {
	t.Helper()
	for _, f := range c.Since(t, m) {
		if expected == nil || !expected(f) {
			t.Errorf("world: this got out: %s", f)
		}
	}
}

// The barrier: a datagram that the test sends itself along the same cable.
// When it has arrived, so has everything sent before it.
var syncAddr = netip.MustParseAddrPort("192.0.0.9:9")

const syncWord = "world-barrier-"

func isSync(f Frame) bool {
	return f.Dst == syncAddr && strings.HasPrefix(string(f.Payload), syncWord)
}

func (c *Capture) sync() {
	word := syncWord + token()
	conn, err := net.Dial("udp", syncAddr.String())
	if err != nil {
		panic("world: no route for the barrier: " + err.Error())
	}
	defer conn.Close()
	stop := time.AfterFunc(5*time.Second, func() { panic("world: the capture is stuck") })
	defer stop.Stop()
	conn.Write([]byte(word))
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; ; c.grew.Wait() {
		for ; n < len(c.frames); n++ {
			if string(c.frames[n].Payload) == word {
				return
			}
		}
		if c.lost {
			return
		}
	}
}

// A Canary is a random word that a hostile process tries to get out. It is
// one DNS label, and is found in any case.
type Canary struct {
	Word string
	c    *Capture
}

// Canary makes a canary; when the test ends it must not have arrived, unless
// MayArrive was called.
func (c *Capture) Canary(t testing.TB) *Canary {
	k := &Canary{Word: "canary" + token(), c: c}
	c.mu.Lock()
	c.watch[k.Word] = false
	c.mu.Unlock()
	return k
}

// Arrived tells whether the word was seen in any packet so far.
func (k *Canary) Arrived() bool {
	k.c.sync()
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.c.watch[k.Word]
}

// MustNotArrive fails the test if the word has been seen.
func (k *Canary) MustNotArrive(t testing.TB) {
	t.Helper()
	if k.Arrived() {
		t.Errorf("world: the canary %s got out", k.Word)
	}
}

// MustArrive fails the test if the word has not been seen: the proof that the
// capture would have caught it.
func (k *Canary) MustArrive(t testing.TB) {
	t.Helper()
	if !k.Arrived() {
		t.Errorf("world: the canary %s did not arrive", k.Word)
	}
}

func (k *Canary) String() string { return k.Word }

func token() string {
	var b [10]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
