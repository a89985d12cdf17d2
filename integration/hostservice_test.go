package integration

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"outcall/integration/harness"
)

const hostName = "host.outcall.internal"

// Service addresses of a session with the default subnet.
var (
	service4 = netip.MustParseAddr("10.200.0.254")
	service6 = netip.MustParseAddr("fd0c:a11::fe")
)

// oneFamily is an echo server on a single address of the host's loopback.
func oneFamily(t *testing.T, addr string) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
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
			wg.Go(func() { io.Copy(c, c); c.Close() })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

// A service of the host's loopback that a rule names by name and port is
// reached by its name in both families, whichever one it listens in, and by
// every way: transparent, CONNECT, absolute form. The next port is not.
func TestHostServicesByRule(t *testing.T) {
	b := harness.New(t)
	h, only4, only6 := newHostEcho(t), oneFamily(t, "127.0.0.1"), oneFamily(t, "::1")
	flags := harness.Allow(hostName+":"+port(h.port), hostName+":"+port(only4), hostName+":"+port(only6))
	script := fmt.Sprintf("P=%s\n$P dns udp 10.200.0.1:53 A %s\n$P dns udp 10.200.0.1:53 AAAA %s\n", harness.Probe, hostName, hostName)
	for _, p := range []uint16{h.port, only4, only6} {
		script += fmt.Sprintf("$P tcp '%s' %s:%d %s %s\n", spoken("x"), hostName, p, at(service4, p), at(service6, p))
		script += fmt.Sprintf("$P connect 10.200.0.1:8080 'CONNECT %s:%d HTTP/1.1' %s\n", hostName, p, hex.EncodeToString([]byte(spoken("x"))))
	}
	r := b.Sandbox(flags, "sh", "-c", script).Must(t, 0)
	lines := r.Lines(t)
	if len(lines) != 2+3*4 {
		t.Fatalf("%d lines: %s", len(lines), r.Stdout)
	}
	mustContain(t, "A", lines[0].Data, service4.String())
	mustContain(t, "AAAA", lines[1].Data, service6.String())
	for _, l := range lines[2:] {
		if !l.OK || !strings.HasSuffix(l.Data, spoken("x")) {
			t.Errorf("%s %s: %+v", l.Op, l.Target, l)
		}
	}
	// One verdict and one end for each connection, by the name and its rule.
	count := map[string]int{}
	for _, e := range b.Events(t, r.Name) {
		if e.Event == "end" || e.Event == "verdict" && (e.Layer == "flow" || e.Layer == "connect") {
			count[e.Event+" "+e.Verdict]++
			if e.Host != hostName || e.Event == "verdict" && !strings.HasPrefix(e.Rule, "cli-") {
				t.Errorf("not by the name's rule: %s", e)
			}
		}
	}
	if count["verdict allow"] != 12 || count["end "] != 12 {
		t.Errorf("audit: %v", count)
	}
}

// The host's plain HTTP, as a developer would ask it.
func TestHostServiceHTTP(t *testing.T) {
	b := harness.New(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "dev server for %s\n", r.Host) })}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-done })
	url := fmt.Sprintf("http://%s:%d/", hostName, ln.Addr().(*net.TCPAddr).Port)
	for _, more := range [][]string{nil, {"--noproxy", "*"}, {"-p"}, {"--noproxy", "*", "-6"}} {
		r := b.Sandbox(harness.Allow(strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")), curl(append(more, url)...)...).Must(t, 0)
		mustContain(t, "the page", r.Stdout, "dev server for "+hostName)
	}
}

// N11: without a rule that names it and the port, the host is not there: its
// name, its service addresses, its own addresses and loopback, by every way and
// in every mode, and no rule on everything changes that.
func TestN11HostAndGateway(t *testing.T) {
	b := harness.New(t)
	h := newHostEcho(t)
	all := b.Rules("all.yaml", "  - id: all\n    condition: 'true'\n    action: allow\n    egress: {allow_private_ips: true}\n")
	targets := []string{hostName, "host.docker.internal", "host.containers.internal", "_gateway", "gateway.outcall.internal",
		service4.String(), "[" + service6.String() + "]", "10.200.0.1", "[fd0c:a11::1]", "10.0.2.2", "172.17.0.1", "192.168.65.2", "100.64.0.1", "[::ffff:10.200.0.254]"}
	hostPort := port(h.port)
	for name, flags := range map[string][]string{
		"observe": {"-q", "--mode", "observe"}, "true": {"-q", "--rules", all}, "another port": harness.Allow(hostName + ":1"), "the name without a port": harness.Allow(hostName),
	} {
		k, m := b.Canary(t), b.Mark()
		script := ""
		for _, to := range targets {
			script += fmt.Sprintf("%[1]s tcp %[2]s '%[3]s:%[4]s'\n%[1]s connect 10.200.0.1:8080 'CONNECT %[3]s:%[4]s HTTP/1.1'\n%[1]s connect 10.200.0.1:8080 'GET http://%[3]s:%[4]s/%[2]s HTTP/1.1'\n",
				harness.Probe, k.Word, to, hostPort)
		}
		r := b.Sandbox(flags, "sh", "-c", script)
		lines := r.Lines(t)
		if len(lines) != 3*len(targets) {
			t.Fatalf("N11 %s: %d lines: %s", name, len(lines), r.Stdout)
		}
		for _, l := range lines {
			if l.OK && (l.Op == "tcp" || strings.HasPrefix(l.Data, "200")) {
				t.Errorf("N11 %s: %s %s got through: %q", name, l.Op, l.Target, l.Data)
			}
		}
		k.MustNotArrive(t)
		if got := h.took(); got != "" {
			t.Errorf("N11 %s: the host heard %q", name, got)
		}
		b.MustBeQuiet(t, m, onlyQuestions(b.World))
		for _, a := range []netip.Addr{service4, service6} {
			b.SomeDenial(t, r.Name, func(e harness.Event) bool {
				return e.Layer == "flow" && e.IP == a.String() && e.Port == h.port && e.Structural
			})
			b.SomeDenial(t, r.Name, func(e harness.Event) bool {
				return e.Layer == "connect" && e.IP == a.String() && e.Port == h.port && e.Structural
			})
		}
		b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Host == hostName || e.Query == hostName })
	}
}
