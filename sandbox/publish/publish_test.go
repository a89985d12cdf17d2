package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/netstack"
)

// here opens a socket in this network namespace: for a socket there is no
// difference.
func here(family int) (*os.File, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return os.NewFile(uintptr(fd), "socket"), err
}

func newInside(t *testing.T, n int) *Inside {
	t.Helper()
	in, err := NewInside(here, n, netip.MustParseAddr("127.0.0.2"), netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	return in
}

// server serves each connection to one address by f.
func server(t *testing.T, addr string, f func(*net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c.(*net.TCPConn)) }()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func TestParse(t *testing.T) {
	for in, want := range map[string]Spec{
		"3000:80":           {netip.MustParseAddrPort("127.0.0.1:3000"), 80},
		"0:80":              {netip.MustParseAddrPort("127.0.0.1:0"), 80},
		"0.0.0.0:3000:3001": {netip.MustParseAddrPort("0.0.0.0:3000"), 3001},
		"[::1]:8080:80":     {netip.MustParseAddrPort("[::1]:8080"), 80},
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "80", ":", "80:", ":80", "3000:0", "3000:65536", "65536:80", "-1:80", "a:80", "localhost:3000:80", "::1:80:80", "1.2.3.4:80", "80:80:80",
		"[fe80::1%lo]:80:80", "3000:80/tcp", "3000:+80", "+3000:80", " 3000:80", "1.2.3.4:5:6:7"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// 127.0.0.1 comes first, then ::1, then the agent's own address; where nobody
// listens it is refused.
func TestOrderInside(t *testing.T) {
	in := newInside(t, 2)
	both := server(t, "127.0.0.1:0", echo)
	for what, port := range map[string]uint16{"127.0.0.1": both, "::1": server(t, "[::1]:0", echo), "127.0.0.2": server(t, "127.0.0.2:0", echo)} {
		c, err := in.Dial(t.Context(), port)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := c.RemoteAddr().(*net.TCPAddr).IP.String(); got != what {
			t.Errorf("reached %s, not %s", got, what)
		}
		c.Release(t.Context())
	}
	for range 5 { // nothing is used up by failures
		if _, err := in.Dial(t.Context(), 1); !errors.Is(err, unix.ECONNREFUSED) || !strings.Contains(err.Error(), "127.0.0.1:1") {
			t.Fatalf("port 1: %v", err)
		}
	}
}

// One socket serves one connection after another, whatever became of the one
// before.
func TestSocketsAreUsedAgain(t *testing.T) {
	in := newInside(t, 1)
	port := server(t, "127.0.0.1:0", echo)
	reset := server(t, "127.0.0.1:0", func(c *net.TCPConn) { _ = c.SetLinger(0) })
	for i := range 200 {
		c, err := in.Dial(t.Context(), port)
		if err != nil {
			t.Fatal(i, err)
		}
		switch i % 4 {
		case 0: // in order
			_, _ = io.WriteString(c, "hello")
			_ = c.CloseWrite()
			if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
				t.Fatal(i, string(b), err)
			}
		case 1:
			c.Abort()
		case 2: // something unread
			_, _ = io.WriteString(c, "unread")
		case 3:
			c.Release(t.Context())
			if c, err = in.Dial(t.Context(), reset); err == nil {
				_, _ = io.ReadAll(c)
			} else if !errors.Is(err, unix.ECONNRESET) {
				t.Fatal(i, err)
			} else {
				continue
			}
		}
		c.Release(t.Context())
	}
}

// What was written last arrives, also where the reader takes its time.
func TestReleaseLosesNothing(t *testing.T) {
	in := newInside(t, 1)
	const size = 8 << 20
	got := make(chan int64, 1)
	port := server(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_ = c.CloseWrite()
		time.Sleep(300 * time.Millisecond) // a slow reader is what is tried
		n, _ := io.Copy(io.Discard, c)
		got <- n
	})
	c, err := in.Dial(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	_, _ = io.ReadAll(c)
	c.Release(t.Context())
	if n := <-got; n != size {
		t.Errorf("%d octets of %d arrived", n, size)
	}
}

// The far end inside sees a reset where the connection was broken off.
func TestReleaseResets(t *testing.T) {
	in := newInside(t, 1)
	saw := make(chan error, 1)
	port := server(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		saw <- err
	})
	c, err := in.Dial(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	c.Abort()
	c.Release(t.Context())
	if err := <-saw; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server saw %v", err)
	}
}

// A connect that nobody answers ends with its context.
func TestDialEnds(t *testing.T) {
	in := newInside(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	full, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(full)
	sa := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(full, sa), unix.Listen(full, 0)); err != nil {
		t.Fatal(err)
	}
	own, _ := unix.Getsockname(full)
	at := netip.AddrPortFrom(loopback, port(own))
	for range 4 { // its queue takes one or two
		c, err := net.DialTimeout("tcp", at.String(), 50*time.Millisecond)
		if err != nil {
			break
		}
		defer c.Close()
	}
	if _, err := in.Dial(ctx, at.Port()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// fullStack is a stack whose connections never end by themselves.
type fullStack struct {
	in    chan netstack.Inbound
	hold  chan struct{}
	limit chan string
}

func (s *fullStack) Inbound(in netstack.Inbound) {
	s.in <- in
	<-s.hold
	in.Conn.Close()
}

func (s *fullStack) Limited(text string) {
	select {
	case s.limit <- text:
	default:
	}
}

// Connections beyond Max wait unaccepted, and the session hears of it.
func TestMaxConnections(t *testing.T) {
	ports, err := Listen([]Spec{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Port: 80}})
	if err != nil {
		t.Fatal(err)
	}
	s := &fullStack{in: make(chan netstack.Inbound, 2*Max), hold: make(chan struct{}), limit: make(chan string, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ports.Serve(ctx, nil, s) }()
	for range Max + 10 {
		c, err := net.Dial("tcp", ports.Specs()[0].Host.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if text := <-s.limit; !strings.Contains(text, fmt.Sprint(Max)) {
		t.Errorf("limit: %q", text)
	}
	if n := len(s.in); n > Max {
		t.Errorf("%d connections at once", n)
	}
	s.hold <- struct{}{} // one ends, one of those that wait is taken
	for range Max + 1 {
		<-s.in
	}
	close(s.hold)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestHostPortTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	_, err = Listen([]Spec{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Port: 1}, {Host: at, Port: 2}})
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), at.String()) || !strings.Contains(err.Error(), "another HOSTPORT") {
		t.Errorf("%v", err)
	}
	if _, err := Listen([]Spec{{Host: netip.MustParseAddrPort("192.0.2.1:0"), Port: 1}}); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("%v", err)
	}
}
