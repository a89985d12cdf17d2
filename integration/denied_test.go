package integration

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

func TestDeniedNameOverProxy(t *testing.T) {
	b := harness.New(t)
	m := b.Mark()
	r := b.Sandbox(allowAPI, curl("https://evil.test/")...)
	if r.Code != 56 && r.Code != 22 {
		t.Errorf("curl's code %d", r.Code)
	}
	mustContain(t, "curl's text", r.Stderr, "403")
	e := b.OneDenial(t, r.Name, "/curl", nil)
	if e.Layer != "connect" || e.Host != "evil.test" || e.Rule != "default policy" {
		t.Errorf("audit: %s", e)
	}
	b.MustBeQuiet(t, m, nil)
}

func TestDeniedNameOverDNS(t *testing.T) {
	b := harness.New(t)
	m := b.Mark()
	r := b.Sandbox(append(allowAPI, "--no-proxy"), curl("-4", "https://evil.test/")...)
	if r.Code != 6 {
		t.Errorf("curl's code %d: %s", r.Code, r.Stderr)
	}
	mustContain(t, "curl's text", r.Stderr, "Could not resolve host: evil.test")
	e := b.OneDenial(t, r.Name, "/curl", func(e harness.Event) bool { return e.RecordType == "A" })
	if e.Layer != "dns" || e.Query != "evil.test" {
		t.Errorf("audit: %s", e)
	}
	b.MustBeQuiet(t, m, nil)
}

func TestDeniedPlainHTTPByHost(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox(append(harness.Allow("shared.allowed.test"), "--no-proxy"),
		curl("-i", "-H", "Host: shared.evil.test", "http://shared.allowed.test/secret")...).Must(t, 0)
	mustContain(t, "answer", r.Stdout, "403", "X-Outcall-Block-Reason: ", "Blocked by outcall: ", "(d-")
	for _, q := range b.Origins.Requests() {
		t.Errorf("a request arrived: %+v", q)
	}
	b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Layer == "request" && e.Host == "shared.evil.test" })
}

func TestDeniedEDEText(t *testing.T) {
	b := harness.New(t)
	for _, network := range []string{"udp", "tcp"} {
		for _, server := range []string{"10.200.0.1:53", "[fd0c:a11::1]:53"} {
			_, lines := b.Attempts(append(allowAPI, "--no-proxy"), "dns", network, server, "A", "evil.test")
			if !lines[0].OK || !strings.HasPrefix(lines[0].Data, "NXDOMAIN") {
				t.Errorf("%s %s: %+v", network, server, lines[0])
			}
			mustContain(t, "EDE", lines[0].Data, "ede=15:outcall: default policy d-")
		}
	}
}

func TestDeniedEmptyPolicy(t *testing.T) {
	b := harness.New(t)
	m := b.Mark()
	r := b.Sandbox(nil, curl("https://api.allowed.test/")...)
	if r.Code == 0 {
		t.Error("an empty policy let a request through")
	}
	mustContain(t, "banner", r.Stderr, "0 rules")
	b.MustBeQuiet(t, m, nil)
}

// Every address but the allowed one, by every protocol: N1, N2, N7, N10, N11,
// N12 of the attacks.
func TestDeniedDirectAddress(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	evil4, evil6 := b.V4(t, "evil.test"), b.V6(t, "evil.test")
	m := b.Mark()
	targets := []string{
		at(evil4, 443), at(evil6, 443), at(evil4, b.Ports.Echo), "8.8.8.8:443", "169.254.169.254:80", "100.64.0.1:80", "172.17.0.1:80",
		"192.168.1.1:80", "10.1.2.3:80", "[fd00:ec2::254]:80", at(world.HostV4.Addr(), 22), at(world.HostV6.Addr(), 22), "10.77.0.1:80",
		"10.200.0.1:22", "10.200.0.254:80", "[fd0c:a11::1]:22", "[fd0c:a11::fe]:80", "10.200.0.77:80", "[64:ff9b::7f00:1]:80",
	}
	r, lines := b.Attempts(append(allowAPI, "--no-proxy"), append([]string{"tcp", k.Word}, targets...)...)
	for i, l := range lines {
		if l.OK {
			t.Errorf("%s answered %q", targets[i], l.Data)
		}
		e := b.Denials(t, r.Name, func(e harness.Event) bool {
			return at(mustAddr(e.IP), e.Port) == at(mustAddrPort(targets[i]), mustPort(targets[i]))
		})
		if len(e) == 0 && !strings.HasPrefix(targets[i], "10.200.0.77") {
			t.Errorf("no denial of %s in the audit", targets[i])
		}
	}
	soon(t, lines)
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
}

// soon demands that most refusals were prompt: a busy machine may delay one.
func soon(t *testing.T, lines []harness.Line) {
	t.Helper()
	var late []harness.Line
	for _, l := range lines {
		if l.MS > prompt {
			late = append(late, l)
		}
	}
	if len(late)*5 > len(lines) {
		t.Errorf("%d of %d refusals took more than %d ms: %+v", len(late), len(lines), prompt, late)
	}
}

func mustAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}

func mustAddrPort(s string) netip.Addr { return netip.MustParseAddrPort(s).Addr() }
func mustPort(s string) uint16         { return netip.MustParseAddrPort(s).Port() }

func TestDeniedOtherPortsOfAnAllowedHost(t *testing.T) {
	b := harness.New(t)
	api4, api6 := b.V4(t, "api.allowed.test"), b.V6(t, "api.allowed.test")
	m := b.Mark()
	script := `curl -sS -o /dev/null https://api.allowed.test/ && curl -sS -o /dev/null -6 https://api.allowed.test/ || exit 9; ` +
		harness.Probe + " scan " + api4.String() + " 1-2000; " + harness.Probe + " scan " + api6.String() + " 1-2000; " +
		harness.Probe + " tcp x " + at(api4, b.Ports.Echo) + " " + at(api4, 80) + " " + at(api4, 8443) + " " + at(api6, 22)
	r := b.Sandbox(append(harness.Allow("api.allowed.test:443"), "--no-proxy"), "sh", "-c", script).Must(t, 0)
	lines := r.Lines(t)
	for _, l := range lines[:2] {
		if l.Data != "53 443" { // 53 is our own filter, whatever the address
			t.Errorf("open ports of %s: %q", l.Target, l.Data)
		}
	}
	harness.Refused(t, lines[2:], 1000)
	soon(t, lines[2:])
	b.MustBeQuiet(t, m, func(f world.Frame) bool { return f.Dst.Port() == 443 || onlyQuestions(b.World)(f) })
}

func TestDeniedOtherResolvers(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	m := b.Mark()
	for _, network := range []string{"udp", "tcp"} {
		for _, server := range []string{"8.8.8.8:53", "1.1.1.1:53", at(b.Resolver, 53), "[2001:4860:4860::8888]:53", "10.200.0.1:53"} {
			_, lines := b.Attempts(append(allowAPI, "--no-proxy"), "dns", network, server, "A", k.Word+".evil.test", "api.allowed.test")
			if strings.HasPrefix(lines[0].Data, "NOERROR") {
				t.Errorf("%s %s answered for the canary: %+v", network, server, lines[0])
			}
			if !strings.Contains(lines[1].Data, b.V4(t, "api.allowed.test").String()) {
				t.Errorf("%s %s: our filter did not answer: %+v", network, server, lines[1])
			}
			if lines[0].MS > 1000 {
				t.Errorf("%s %s: %.0f ms", network, server, lines[0].MS)
			}
		}
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, onlyQuestions(b.World))
}

func TestDeniedUDPAndICMP(t *testing.T) {
	b := harness.New(t)
	k := b.Canary(t)
	m := b.Mark()
	api := b.V4(t, "api.allowed.test")
	r, lines := b.Attempts(append(allowAPI, "--no-proxy"), "udp", k.Word, at(api, 443), "8.8.8.8:853", "[2001:4860:4860::8888]:443",
		at(world.HostV4.Addr(), 5353), "224.0.0.251:5353", "10.200.0.1:9", at(b.V4(t, "evil.test"), b.Ports.Echo))
	harness.Refused(t, lines, 5000)
	soon(t, lines[:4])
	b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Protocol == "udp" && e.Port == 853 })
	r, lines = b.Attempts(append(allowAPI, "--no-proxy"), "icmp", k.Word, api.String(), "8.8.8.8", "2001:4860:4860::8888", world.HostV4.Addr().String())
	harness.Refused(t, lines, 5000)
	b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Protocol == "icmp" })
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
}

func TestDeniedHostLoopback(t *testing.T) {
	b := harness.New(t)
	var addrs []string
	for _, a := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				t.Errorf("something connected to the host's %s", ln.Addr())
				c.Close()
			}
		}()
		p := ln.Addr().(*net.TCPAddr).Port
		addrs = append(addrs, ln.Addr().String(), at(world.HostV4.Addr(), uint16(p)), at(mustAddr("10.200.0.254"), uint16(p)), at(mustAddr("fd0c:a11::fe"), uint16(p)))
	}
	_, lines := b.Attempts(append(harness.Allow("0.0.0.0/0", "::/0"), "--no-proxy"), append([]string{"tcp", "x"}, addrs...)...)
	harness.Refused(t, lines, 4000)
}
