package attrib

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/internal/nstest"
	"outcall/sandbox/nft"
)

type conn struct {
	t testing.TB
	w *nstest.World
}

func (c conn) Socket() (*os.File, error) {
	return c.w.Socket(c.t, c.w.Gateway, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), nil
}

// newLog makes a world with its table and a Log of what that drops.
func newLog(t testing.TB) (*nstest.World, *Log) {
	t.Helper()
	w := nstest.NewWorld(t)
	table, err := nft.Open(conn{t, w})
	if err != nil {
		t.Fatal(err)
	}
	err = table.Base(context.Background(), nft.Options{Bridge: nstest.Bridge, Agent4: nstest.Agent4, Gateway4: nstest.Gateway4,
		Agent6: nstest.Agent6, Gateway6: nstest.Gateway6})
	if err != nil {
		t.Fatal(err)
	}
	f, err := conn{t, w}.Socket()
	if err != nil {
		t.Fatal(err)
	}
	l, err := OpenLog(f, nft.LogGroup, nft.LogBytes)
	if err != nil {
		t.Fatal(err)
	}
	return w, l
}

func sendTo(t testing.TB, w *nstest.World, to unix.Sockaddr, domain int, data []byte) {
	t.Helper()
	s := w.Socket(t, w.Agent, domain, unix.SOCK_DGRAM, 0)
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	var from unix.Sockaddr = &unix.SockaddrInet4{Addr: nstest.Agent4.As4()}
	if domain == unix.AF_INET6 {
		from = &unix.SockaddrInet6{Addr: nstest.Agent6.As16()}
	}
	err = raw.Control(func(fd uintptr) {
		inner = errors.Join(unix.Bind(int(fd), from), unix.Sendto(int(fd), data, 0, to))
	})
	if err := errors.Join(err, inner); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// Each dropped packet is told at once and one by one, cut to the copy range.
func TestLogTellsDrops(t *testing.T) {
	w, l := newLog(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	got := make(chan Packet, 8)
	done := make(chan error, 1)
	go func() {
		done <- l.Run(ctx, func(p Packet) {
			p.Data = append([]byte(nil), p.Data...)
			got <- p
		})
	}()
	for _, to := range []struct {
		sa     unix.Sockaddr
		domain int
		first  byte
	}{
		{&unix.SockaddrInet4{Addr: [4]byte{93, 184, 216, 34}, Port: 9}, unix.AF_INET, 0x45},
		{&unix.SockaddrInet6{Addr: [16]byte{0x20, 1, 0xd, 0xb8, 15: 1}, Port: 9}, unix.AF_INET6, 0x60},
	} {
		start := time.Now()
		sendTo(t, w, to.sa, to.domain, make([]byte, 500))
		select {
		case p := <-got:
			if p.Prefix != nft.PrefixDenied || len(p.Data) != nft.LogBytes || p.Data[0]&0xf0 != to.first&0xf0 {
				t.Errorf("packet %q of %d bytes: % x", p.Prefix, len(p.Data), p.Data)
			}
			if d := time.Since(start); d > 500*time.Millisecond {
				t.Errorf("told after %v: the kernel gathers", d)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("a dropped packet was not told")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A reader that is too slow loses packets, knows it, and goes on.
func TestLogOverflow(t *testing.T) {
	w, l := newLog(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := unix.SetsockoptInt(int(l.f.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(int(l.f.Fd()), true); err != nil { // Fd has undone it
		t.Fatal(err)
	}
	for range 4000 { // before anyone reads
		sendTo(t, w, &unix.SockaddrInet4{Addr: [4]byte{93, 184, 216, 34}, Port: 9}, unix.AF_INET, []byte("x"))
	}
	var once sync.Once
	seen := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, func(Packet) { once.Do(func() { close(seen) }) }) }()
	select {
	case <-seen:
	case <-time.After(5 * time.Second):
		t.Fatal("nothing was read after an overflow")
	}
	// The overflow is told by the first or second read.
	for deadline := time.Now().Add(5 * time.Second); l.Lost() == 0 && time.Now().Before(deadline); {
		sendTo(t, w, &unix.SockaddrInet4{Addr: [4]byte{93, 184, 216, 34}, Port: 9}, unix.AF_INET, []byte("x"))
	}
	if l.Lost() == 0 {
		t.Error("an overflow was not counted")
	}
	if n := l.Received(); n == 0 || n > 4000 {
		t.Errorf("%d packets were received", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestOpenLogTwice(t *testing.T) {
	w, l := newLog(t)
	defer l.f.Close()
	f, err := conn{t, w}.Socket()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLog(f, nft.LogGroup, nft.LogBytes); !errors.Is(err, unix.EPERM) {
		t.Errorf("a group that is taken: %v, want EPERM", err)
	}
}

func TestLogPassedSocket(t *testing.T) {
	if _, err := OpenLog(nstest.Passed(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), 9, 128); err != nil {
		t.Error(err)
	}
}

func logMessage(attrs ...[]byte) []byte {
	b := []byte{unix.AF_INET, 0, 0, 5}
	for _, a := range attrs {
		b = append(b, a...)
	}
	return message(unix.NFNL_SUBSYS_ULOG<<8|nfulnlMsgPacket, 0, 0, b)
}

// Several messages in one datagram are several packets.
func TestParseLog(t *testing.T) {
	one := logMessage(attribute(nfulaPrefix, []byte("denied\x00")), attribute(nfulaPayload, []byte{0x45, 1}))
	big := logMessage(attribute(nfulaPayload, make([]byte, 4*maxPayload)))
	var n, longest int
	ok := parseLog(append(append(one, one...), big...), func(p Packet) { n++; longest = max(longest, len(p.Data)) })
	if !ok || n != 3 || longest != maxPayload {
		t.Errorf("%d packets, longest %d, ok %v", n, longest, ok)
	}
	for name, b := range map[string][]byte{
		"no payload":   logMessage(),
		"cut header":   one[:10],
		"cut message":  one[:len(one)-2],
		"cut attr":     logMessage([]byte{1}),
		"attr length":  logMessage([]byte{3, 0, 9, 0}),
		"attr beyond":  logMessage([]byte{200, 0, 9, 0}),
		"no nfgenmsg":  message(unix.NFNL_SUBSYS_ULOG<<8, 0, 0, []byte{1}),
		"short length": {4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if parseLog(b, func(Packet) { t.Errorf("%s: a packet", name) }) {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzLogMessage(f *testing.F) {
	f.Add(logMessage(attribute(nfulaPrefix, []byte("denied\x00")), attribute(nfulaPayload, []byte{0x45, 1})))
	f.Add([]byte{4, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		parseLog(b, func(p Packet) {
			if len(p.Data) == 0 || len(p.Data) > maxPayload {
				t.Errorf("a packet of %d bytes", len(p.Data))
			}
		})
	})
}
