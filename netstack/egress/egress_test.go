package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// listen serves every connection with handle until the test ends.
func listen(t *testing.T, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); _ = c.SetDeadline(time.Now().Add(5 * time.Second)); handle(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func dialer(t *testing.T, cfg Config) *Dialer {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func kind(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

var public = netip.MustParseAddrPort("93.184.216.34:443")

func TestNeverDialled(t *testing.T) {
	d := dialer(t, Config{Session: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24"), netip.MustParsePrefix("fd0c:a11::/64")}})
	for _, a := range []string{"10.200.0.1:80", "10.200.0.254:80", "[fd0c:a11::1]:80", "[::ffff:10.200.0.1]:80", "0.0.0.0:80", "[::]:80",
		"224.0.0.1:80", "[ff02::1]:80", "240.1.2.3:80", "1.2.3.4:0", "[fe80::1%lo]:80"} {
		if c, err := d.Dial(t.Context(), "", netip.MustParseAddrPort(a)); kind(err) != Forbidden {
			t.Errorf("%s: %v, %v", a, c, err)
		}
	}
}

func TestDirectAndServices(t *testing.T) {
	at := listen(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	service := netip.MustParseAddr("10.200.0.254")
	d := dialer(t, Config{Session: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24")},
		Services: map[netip.Addr][]netip.Addr{service: {netip.MustParseAddr("127.0.0.3"), at.Addr()}}})
	for _, dst := range []netip.AddrPort{at, netip.AddrPortFrom(service, at.Port())} {
		c, err := d.Dial(t.Context(), "", dst)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "x")
		_ = c.CloseWrite()
		if got, _ := io.ReadAll(c); string(got) != "x" || c.Via != Direct {
			t.Errorf("%q via %q", got, c.Via)
		}
		c.Close()
	}
}

// A service that nobody offers is refused, by the host's own answer and with
// the address that was asked for.
func TestServiceThatIsNotThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	service := netip.MustParseAddrPort("10.200.0.254:" + fmt.Sprint(closed.Port()))
	d := dialer(t, Config{Services: map[netip.Addr][]netip.Addr{service.Addr(): {closed.Addr(), netip.MustParseAddr("2001:db8::1")}}})
	_, err = d.Dial(t.Context(), "", service)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Refused || e.Addr != service {
		t.Errorf("%v", err)
	}
	if got := d.Service(netip.AddrPortFrom(service.Addr(), 0)); got != nil {
		t.Errorf("port 0: %v", got)
	}
	if got := d.Service(public); got != nil {
		t.Errorf("%s: %v", public, got)
	}
}

func TestKinds(t *testing.T) {
	d := dialer(t, Config{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	if _, err := d.Dial(t.Context(), "", closed); kind(err) != Refused {
		t.Errorf("closed port: %v", err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := d.Dial(ctx, "", public); kind(err) != Timeout {
		t.Errorf("deadline: %v", err)
	}
}

// proxy is an HTTP proxy that records targets and takes those that allow says.
func proxy(t *testing.T, allow func(string) bool, early string) (*url.URL, func() []string) {
	var mu sync.Mutex
	var seen []string
	at := listen(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		mu.Lock()
		seen = append(seen, r.Host+" "+r.Header.Get("Proxy-Authorization"))
		mu.Unlock()
		if !allow(r.Host) {
			fmt.Fprint(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
			return
		}
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n"+early)
		_, _ = io.Copy(c, c)
	})
	u, _ := url.Parse("http://u:p@" + at.String())
	return u, func() []string { mu.Lock(); defer mu.Unlock(); return append([]string(nil), seen...) }
}

func TestHTTPProxy(t *testing.T) {
	u, seen := proxy(t, func(string) bool { return true }, "early ")
	d := dialer(t, Config{Proxy: u})
	c, err := d.Dial(t.Context(), "a.test", public)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "x")
	_ = c.CloseWrite()
	if got, _ := io.ReadAll(c); string(got) != "early x" || c.Via != Proxied {
		t.Errorf("%q via %q", got, c.Via)
	}
	if s := seen(); len(s) != 1 || s[0] != "93.184.216.34:443 Basic dTpw" {
		t.Errorf("%q", s)
	}
}

func TestProxyByName(t *testing.T) {
	u, seen := proxy(t, func(h string) bool { return strings.HasPrefix(h, "a.test") }, "")
	d := dialer(t, Config{Proxy: u})
	for range 2 {
		c, err := d.Dial(t.Context(), "a.test", public)
		if err != nil || c.Via != ByProxy {
			t.Fatalf("%v, %v", c, err)
		}
		c.Close()
	}
	if s := seen(); len(s) != 3 { // the second time the name at once
		t.Errorf("%q", s)
	}
	if _, err := d.Dial(t.Context(), "", public); kind(err) != Proxy {
		t.Errorf("an address that the proxy refuses: %v", err)
	}
	// A synthetic address goes by its name, and never by itself.
	synth := netip.MustParseAddrPort("240.0.0.1:443")
	n := len(seen())
	if c, err := d.Dial(t.Context(), "a.test", synth); err != nil || c.Via != ByProxy {
		t.Errorf("%v, %v", c, err)
	} else {
		c.Close()
	}
	if _, err := d.Dial(t.Context(), "", synth); kind(err) != Forbidden {
		t.Errorf("%v", err)
	}
	if s := seen(); len(s) != n+1 || strings.Contains(s[n], "240.") {
		t.Errorf("%q", s)
	}
}

func TestProxyFailures(t *testing.T) {
	for name, answer := range map[string]string{"502": "HTTP/1.1 502 Bad\r\n\r\n", "407": "HTTP/1.1 407 Auth\r\n\r\n", "nonsense": "hello\r\n\r\n",
		"cut": "HTTP/1.1 2", "endless": strings.Repeat("x", 70<<10)} {
		at := listen(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)); _, _ = io.WriteString(c, answer) })
		u, _ := url.Parse("http://u:secret@" + at.String())
		_, err := dialer(t, Config{Proxy: u}).Dial(t.Context(), "", public)
		if kind(err) != Proxy || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	silent := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	u, _ := url.Parse("http://" + silent.String())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := dialer(t, Config{Proxy: u}).Dial(ctx, "", public); kind(err) != Proxy {
		t.Errorf("silent: %v", err)
	}
	for _, bad := range []string{"https://p", "ftp://p", "http://"} {
		u, _ := url.Parse(bad)
		if _, err := New(Config{Proxy: u}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestNoProxy(t *testing.T) {
	at := listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "direct") })
	u, seen := proxy(t, func(string) bool { return true }, "")
	for _, no := range []string{"a.test", ".test", "127.0.0.0/8", "*"} {
		c, err := dialer(t, Config{Proxy: u, NoProxy: no}).Dial(t.Context(), "a.test", at)
		if err != nil || c.Via != Direct {
			t.Errorf("%s: %v, %v", no, c, err)
		}
	}
	if s := seen(); len(s) != 0 {
		t.Errorf("%q", s)
	}
}

func TestSOCKS(t *testing.T) {
	var mu sync.Mutex
	var kinds []byte
	at := listen(t, func(c net.Conn) {
		b := make([]byte, 512)
		_, _ = c.Read(b)
		_, _ = c.Write([]byte{5, 2})
		n, _ := c.Read(b)
		if string(b[:n]) != "\x01\x01u\x01p" {
			_, _ = c.Write([]byte{1, 1})
			return
		}
		_, _ = c.Write([]byte{1, 0})
		_, _ = c.Read(b)
		mu.Lock()
		kinds = append(kinds, b[3])
		mu.Unlock()
		if b[3] == 1 {
			_, _ = c.Write([]byte{5, 2, 0, 1, 0, 0, 0, 0, 0, 0})
			return
		}
		_, _ = c.Write(append([]byte{5, 0, 0, 3, 2, 'o', 'k', 0, 0}, "hi"...))
	})
	u, _ := url.Parse("socks5://u:p@" + at.String())
	c, err := dialer(t, Config{Proxy: u}).Dial(t.Context(), "a.test", public)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(c); string(got) != "hi" || c.Via != ByProxy || string(kinds) != "\x01\x03" {
		t.Errorf("%q via %q, types %v", got, c.Via, kinds)
	}
	u.User = url.UserPassword("u", "wrong")
	if _, err := dialer(t, Config{Proxy: u}).Dial(t.Context(), "a.test", public); kind(err) != Proxy {
		t.Errorf("wrong password: %v", err)
	}
}

// A reset that a Write was told of is no end of the stream to who reads; an
// end that came before it is.
func TestResetIsNoEnd(t *testing.T) {
	for _, fin := range []bool{false, true} {
		end := make(chan bool)
		at := listen(t, func(c net.Conn) {
			if fin {
				_ = c.(*net.TCPConn).CloseWrite()
			}
			<-end
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			end <- true
		})
		nc, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		c := Wrap(nc.(*net.TCPConn))
		defer c.Close()
		end <- true
		<-end
		for err = nil; err == nil; _, err = io.WriteString(c, "x") {
			time.Sleep(time.Millisecond)
		}
		if n, err := c.Wait(); n != 0 || (err == io.EOF) != fin || err == nil {
			t.Errorf("FIN before %v: Wait: %d, %v", fin, n, err)
		}
	}
}
