package egress

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, d *Dialer, dst netip.AddrPort) *Datagrams {
	t.Helper()
	c, err := d.DialUDP("", dst)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func plain(t *testing.T, cfg Config) *Dialer {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDatagramsBothWays(t *testing.T) {
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		srv, err := net.ListenPacket("udp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		c := open(t, plain(t, Config{}), srv.LocalAddr().(*net.UDPAddr).AddrPort())
		if _, err := c.Write([]byte("there")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, from, err := srv.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "there" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		// Nobody else is heard.
		other, err := net.ListenPacket("udp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		for _, s := range []net.PacketConn{other, srv} {
			if _, err := s.WriteTo([]byte("back"), from); err != nil {
				t.Fatal(err)
			}
		}
		got := 0
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if err := c.Receive(func(b []byte) { got++ }); err != nil || got != 1 {
			t.Fatalf("%d datagrams, %v", got, err)
		}
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if err := c.Receive(func(b []byte) { got++ }); !errors.Is(err, os.ErrDeadlineExceeded) || got != 1 {
			t.Errorf("a second datagram: %v", err)
		}
	}
}

// What the far kernel says of a closed port is told, with type and code.
func TestComplaints(t *testing.T) {
	for host, want := range map[string]Complaint{"127.0.0.1:0": {3, 3, 0}, "[::1]:0": {1, 4, 0}} {
		srv, err := net.ListenPacket("udp", host)
		if err != nil {
			t.Fatal(err)
		}
		dst := srv.LocalAddr().(*net.UDPAddr).AddrPort()
		srv.Close()
		c := open(t, plain(t, Config{}), dst)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if err := c.Receive(func([]byte) { t.Error("a datagram") }); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", host, err)
		}
		if got := c.Complaints(); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, want %v", host, got, want)
		}
		if got := c.Complaints(); len(got) != 0 {
			t.Errorf("%s: once more %v", host, got)
		}
	}
}

// UDP and ICMP go by no proxy, and to no address that TCP does not go to.
func TestDatagramsThatNeverGoOut(t *testing.T) {
	proxy, err := url.Parse("http://user:secret@127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	session := netip.MustParsePrefix("10.200.0.0/24")
	direct, proxied := plain(t, Config{Session: []netip.Prefix{session}}), plain(t, Config{Proxy: proxy, NoProxy: "127.0.0.1"})
	for dst, c := range map[string]struct {
		d    *Dialer
		kind Kind
	}{
		"10.200.0.1:9": {direct, Forbidden}, "0.0.0.0:9": {direct, Forbidden}, "224.0.0.1:9": {direct, Forbidden}, "[ff02::1]:9": {direct, Forbidden},
		"240.0.0.1:9": {direct, Forbidden}, "93.184.216.34:443": {proxied, Proxy}, "[2606:2800::1]:443": {proxied, Proxy},
	} {
		at := netip.MustParseAddrPort(dst)
		_, err1 := c.d.DialUDP("a.test", at)
		_, err2 := c.d.DialEcho("a.test", at.Addr())
		for _, err := range []error{err1, err2} {
			var e *Error
			if !errors.As(err, &e) || e.Kind != c.kind || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v", dst, err)
			}
		}
	}
	c, err := proxied.DialUDP("", netip.MustParseAddrPort("127.0.0.1:9"))
	if err != nil {
		t.Errorf("what NO_PROXY names: %v", err)
	} else {
		c.Close()
	}
	if _, err := direct.DialUDP("", netip.MustParseAddrPort("93.184.216.34:0")); err == nil {
		t.Error("port 0")
	}
}
