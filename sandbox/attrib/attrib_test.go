package attrib

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"outcall/netstack"
	"outcall/policy"
	"outcall/sandbox/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// A procFinder finds sockets among our own descriptors, as the gatekeeper
// does among the agent's.
type procFinder struct {
	mu    sync.Mutex
	asked int
	now   int // under way
	most  int
	slow  time.Duration
	proc  *policy.Process
}

func (p *procFinder) Who(ctx context.Context, inode uint64) (*policy.Process, error) {
	p.mu.Lock()
	p.asked++
	p.now++
	p.most = max(p.most, p.now)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.now--
		p.mu.Unlock()
	}()
	if p.slow > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(p.slow):
		}
	}
	if p.proc != nil {
		return p.proc, nil
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		if l, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && l == "socket:["+strconv.FormatUint(inode, 10)+"]" {
			return &policy.Process{PID: os.Getpid(), Exe: "/self", Args: []string{"self"}}, nil
		}
	}
	return nil, nil
}

func loopbackUp(t testing.TB) {
	t.Helper()
	nstest.Need(t)
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newAttributor(t testing.TB, f Finder) *Attributor {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(os.NewFile(uintptr(fd), "sock_diag"), f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func tupleOf(t testing.TB, proto policy.Proto, local, remote net.Addr) netstack.Tuple {
	t.Helper()
	src, err := netip.ParseAddrPort(local.String())
	if err != nil {
		t.Fatal(err)
	}
	dst, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		t.Fatal(err)
	}
	return netstack.Tuple{Proto: proto, Src: src, Dst: dst}
}

// Every kind of socket that a first packet may come from is found: connected
// and unconnected, of both families, and IPv4 on an IPv6 socket.
func TestFindsSockets(t *testing.T) {
	loopbackUp(t)
	for _, host := range []string{"127.0.0.1", "::1"} {
		addr := net.JoinHostPort(host, "0")
		a := newAttributor(t, &procFinder{})
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		tuple := tupleOf(t, policy.TCP, c.LocalAddr(), c.RemoteAddr())
		expect(t, a, host+" tcp", tuple, true)
		expect(t, a, host+" tcp, remembered", tuple, true)
		c.Close()

		far := netip.AddrPortFrom(netip.MustParseAddr(host), 9)
		u, err := net.Dial("udp", far.String())
		if err != nil {
			t.Fatal(err)
		}
		expect(t, a, host+" udp, connected", tupleOf(t, policy.UDP, u.LocalAddr(), u.RemoteAddr()), true)
		far = netip.AddrPortFrom(far.Addr(), 10)
		expect(t, a, host+" udp, connected elsewhere", netstack.Tuple{Proto: policy.UDP,
			Src: tupleOf(t, policy.UDP, u.LocalAddr(), u.RemoteAddr()).Src, Dst: far}, false)
		u.Close()
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		src := netip.MustParseAddrPort(p.LocalAddr().String())
		expect(t, a, host+" udp, unconnected", netstack.Tuple{Proto: policy.UDP, Src: src, Dst: far}, true)
		p.Close()
		expect(t, a, host+" udp, closed", netstack.Tuple{Proto: policy.UDP, Src: src, Dst: far}, false)
		expect(t, a, host+" icmp", netstack.Tuple{Proto: policy.ICMP, Src: src, Dst: far}, false)
	}
	dual, err := net.ListenPacket("udp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dual.Close()
	port := netip.MustParseAddrPort(dual.LocalAddr().String()).Port()
	expect(t, newAttributor(t, &procFinder{}), "IPv4 on an IPv6 socket", netstack.Tuple{Proto: policy.UDP,
		Src: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), Dst: netip.MustParseAddrPort("127.0.0.1:9")}, true)
}

func expect(t *testing.T, a *Attributor, what string, tuple netstack.Tuple, found bool) {
	t.Helper()
	p := a.Attribute(context.Background(), tuple)
	if found && (p == nil || p.PID != os.Getpid() || p.Exe != "/self") {
		t.Errorf("%s: %+v, want this process", what, p)
	}
	if !found && p != nil {
		t.Errorf("%s: %+v, want hidden", what, p)
	}
}

// A socket whose SYN is still unanswered is found: that is when a denial
// looks.
func TestFindsSynSent(t *testing.T) {
	w := nstest.NewWorld(t)
	f := w.Socket(t, w.Agent, unix.AF_INET, unix.SOCK_STREAM, 0)
	diagFile := w.Socket(t, w.Agent, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	a, err := New(diagFile, &procFinder{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var src netip.AddrPort
	err = raw.Control(func(fd uintptr) {
		err := unix.Connect(int(fd), &unix.SockaddrInet4{Addr: [4]byte{93, 184, 216, 34}, Port: 443})
		if !errors.Is(err, unix.EINPROGRESS) {
			t.Errorf("connect: %v", err)
		}
		sa, err := unix.Getsockname(int(fd))
		if in, ok := sa.(*unix.SockaddrInet4); ok && err == nil {
			src = netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, a, "SYN sent", netstack.Tuple{Proto: policy.TCP, Src: src, Dst: netip.MustParseAddrPort("93.184.216.34:443")}, true)
}

// The socket works from outside of its namespace.
func TestPassedSocket(t *testing.T) {
	a, err := New(nstest.Passed(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG), &procFinder{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, a, "nobody's", netstack.Tuple{Proto: policy.TCP, Src: netip.MustParseAddrPort("10.200.0.2:1"),
		Dst: netip.MustParseAddrPort("1.1.1.1:1")}, false)
}

func udpTuple(t testing.TB) netstack.Tuple {
	t.Helper()
	loopbackUp(t)
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return netstack.Tuple{Proto: policy.UDP, Src: netip.MustParseAddrPort(p.LocalAddr().String()),
		Dst: netip.MustParseAddrPort("127.0.0.1:9")}
}

// A slow answer is no answer, and many slow ones do not add up.
func TestBound(t *testing.T) {
	tuple := udpTuple(t)
	finder := &procFinder{slow: time.Hour}
	a := newAttributor(t, finder)
	start := time.Now()
	var wg sync.WaitGroup
	for range 10 * maxAsking {
		wg.Go(func() {
			if p := a.Attribute(context.Background(), tuple); p != nil {
				t.Errorf("late answer %+v", p)
			}
		})
	}
	wg.Wait()
	if d := time.Since(start); d > 10*Bound {
		t.Errorf("%d questions took %v", 10*maxAsking, d)
	}
	if finder.most != maxAsking {
		t.Errorf("%d questions under way, want %d", finder.most, maxAsking)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if p := a.Attribute(gone, tuple); p != nil {
		t.Errorf("with a cancelled context: %+v", p)
	}
}

// What is remembered is about the same socket, for a second.
func TestCache(t *testing.T) {
	tuple := udpTuple(t)
	finder := &procFinder{proc: &policy.Process{PID: 7, Exe: "/a"}}
	a := newAttributor(t, finder)
	now := time.Now()
	a.now = func() time.Time { return now }
	ask := func() { a.Attribute(context.Background(), tuple) }
	ask()
	ask()
	if finder.asked != 1 {
		t.Errorf("asked %d times, want 1", finder.asked)
	}
	now = now.Add(cacheTime)
	ask()
	if finder.asked != 2 {
		t.Errorf("after %v asked %d times, want 2", cacheTime, finder.asked)
	}
	a.remember(tuple, 1, nil) // another socket
	ask()
	if finder.asked != 3 {
		t.Errorf("for another socket asked %d times, want 3", finder.asked)
	}
	for i := range 3 * maxCached {
		other := tuple
		other.Dst = netip.AddrPortFrom(tuple.Dst.Addr(), uint16(i))
		a.remember(other, 1, nil)
	}
	if len(a.cache) > maxCached {
		t.Errorf("%d remembered, at most %d", len(a.cache), maxCached)
	}
}

// A Finder that fails or knows nothing is hidden.
type failing struct{}

func (failing) Who(context.Context, uint64) (*policy.Process, error) {
	return &policy.Process{Exe: "/x"}, errors.New("gone")
}

func TestFinderFails(t *testing.T) {
	if p := newAttributor(t, failing{}).Attribute(context.Background(), udpTuple(t)); p != nil {
		t.Errorf("with an error: %+v", p)
	}
}

// A wait for the kernel's turn is bounded, too.
func TestTurnIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Attributor{asking: make(chan struct{}, 1), ask: make(chan *diag, 1)}
		start := time.Now()
		if p := a.Attribute(context.Background(), netstack.Tuple{}); p != nil || time.Since(start) != Bound {
			t.Errorf("%v after %v, want hidden after %v", p, time.Since(start), Bound)
		}
	})
}

func BenchmarkAttribute(b *testing.B) {
	tuple := udpTuple(b)
	a := newAttributor(b, &procFinder{proc: &policy.Process{PID: 7, Exe: "/a"}})
	for b.Loop() {
		a.Attribute(context.Background(), tuple)
	}
}

func FuzzDiagAnswer(f *testing.F) {
	msg := make([]byte, diagMsgLen)
	f.Add(message(sockDiagByFamily, 0, 1, msg))
	f.Add(message(unix.NLMSG_ERROR, 0, 1, make([]byte, 4)))
	f.Add(append(message(sockDiagByFamily, 0, 2, msg), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		ino, found, err := parseDiag(b, 1)
		if ino != 0 && (!found || err != nil) {
			t.Errorf("an inode %d that was not found (%v)", ino, err)
		}
	})
}
