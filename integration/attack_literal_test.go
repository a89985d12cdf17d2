package integration

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// A hostEcho stands on one port of the machine's own loopback, both families,
// and keeps what it hears.
type hostEcho struct {
	port  uint16
	mu    sync.Mutex
	heard strings.Builder
}

func newHostEcho(t *testing.T) *hostEcho {
	t.Helper()
	h := &hostEcho{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.port = uint16(ln.Addr().(*net.TCPAddr).Port)
	ln6, err := net.Listen("tcp", fmt.Sprintf("[::1]:%d", h.port))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, l := range []net.Listener{ln, ln6} {
		wg.Go(func() { h.serve(l, &wg) })
	}
	t.Cleanup(func() { ln.Close(); ln6.Close(); wg.Wait() })
	return h
}

func (h *hostEcho) serve(ln net.Listener, wg *sync.WaitGroup) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		h.Write([]byte("connection\n"))
		wg.Go(func() {
			io.Copy(io.MultiWriter(h, c), c)
			c.Close()
		})
	}
}

func (h *hostEcho) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.heard.Write(p)
}

// took returns what was heard since the last call.
func (h *hostEcho) took() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.heard.Reset()
	return h.heard.String()
}

// A k14 is one way of opening addresses, and what it must open. Targets are
// HOST:PORT; "LO" is the port of the machine's loopback, "ECHO" the world's.
type k14 struct {
	what   string
	allow  []string // --allow
	rule   string   // condition and egress of one rule
	open   []string
	closed []string
}

func k14Rule(cond, egress string) string {
	return fmt.Sprintf("  - id: k14\n    action: allow\n    condition: '%s'\n    egress: {%s}\n", cond, egress)
}

const (
	metadata4 = "169.254.169.254"
	metadata6 = "[fd00:ec2::254]"
	inward    = `dns.query == "inward.test" || network.hostname == "inward.test"`
)

// everywhere are targets that none of the rules below is about.
var everywhere = []string{"10.9.9.9:ECHO", "[fd12::9]:ECHO", "127.0.0.1:LO", "[::1]:LO", "[::ffff:127.0.0.1]:LO", "10.200.0.254:LO", "[fd0c:a11::fe]:LO",
	metadata4 + ":ECHO", metadata6 + ":ECHO", "[::ffff:169.254.169.254]:ECHO", "[64:ff9b::a9fe:a9fe]:ECHO", "[2002:a9fe:a9fe::1]:ECHO", "[64:ff9b::7f00:1]:LO", "[2002:7f00:1::]:LO"}

var k14Cases = []k14{
	{what: "a name without allow_private_ips", rule: k14Rule(inward, ""), closed: []string{"inward.test:ECHO", "10.1.2.3:ECHO"}},
	{what: "a name with allow_private_ips", rule: k14Rule(inward, "allow_private_ips: true"), open: []string{"inward.test:ECHO"}, closed: []string{"loop.test:LO", "inward.test:LO"}},
	{what: "every name with allow_private_ips", rule: k14Rule("true", "allow_private_ips: true"), open: []string{"inward.test:ECHO", "cgnat.test:ECHO"},
		closed: []string{"loop.test:LO", "meta.test:ECHO", "mapped.test:LO", "nat64.test:LO", "own.test:22", "host.outcall.internal:LO"}},
	{what: "all by CIDR", allow: []string{"0.0.0.0/0", "::/0", "0.0.0.0/0:ECHO", "[::/0]:ECHO"}, closed: []string{"inward.test:ECHO", "10.1.2.3:ECHO"}},
	{what: "a private address and port", allow: []string{"10.1.2.3/32:ECHO"}, open: []string{"10.1.2.3:ECHO", "[::ffff:10.1.2.3]:ECHO"}, closed: []string{"10.1.2.3:7", "10.1.2.4:ECHO", "[64:ff9b::a01:203]:ECHO", "[2002:a01:203::]:ECHO"}},
	{what: "a private network and port", allow: []string{"10.1.2.0/24:ECHO"}, open: []string{"10.1.2.3:ECHO", "10.1.2.255:ECHO"}, closed: []string{"10.1.3.0:ECHO", "10.1.2.3:7"}},
	{what: "a private address in v6 and port", allow: []string{"[fd12::3/128]:ECHO"}, open: []string{"[fd12::3]:ECHO"}, closed: []string{"[fd12::4]:ECHO", "[fd12::3]:7"}},
	{what: "the metadata address and port", allow: []string{metadata4 + "/32:7"}, open: []string{metadata4 + ":7", "[::ffff:a9fe:a9fe]:7"}, closed: []string{metadata4 + ":ECHO", "169.254.169.253:7", "[64:ff9b::a9fe:a9fe]:7"}},
	{what: "the metadata address without a port", allow: []string{metadata4 + "/32"}, closed: []string{metadata4 + ":7", metadata4 + ":80"}},
	{what: "the metadata address in a larger network", allow: []string{"168.0.0.0/6:7"}, closed: []string{metadata4 + ":7"}},
	{what: "metadata in v6 and port", rule: k14Rule(`network.ip == "fd00:ec2::254" && network.port == 7`, ""), open: []string{metadata6 + ":7"}, closed: []string{"[fd00:ec2::253]:7"}},
	{what: "metadata by a port range", rule: k14Rule(`network.ip == "169.254.169.254" && network.port > 0`, ""), closed: []string{metadata4 + ":7"}},
	{what: "metadata by a negation", rule: k14Rule(`network.ip != "1.1.1.1" && network.port == 7`, ""), closed: []string{metadata4 + ":7", "10.1.2.3:7", "127.0.0.1:7"}},
	{what: "loopback and port", allow: []string{"127.0.0.1/32:LO"}, open: []string{"proxy 127.0.0.1:LO"}, closed: []string{"proxy 127.0.0.1:22", "proxy 127.0.0.2:LO", "loop.test:7"}},
	{what: "loopback without a port", allow: []string{"127.0.0.0/8"}, closed: []string{"proxy 127.0.0.1:443", "proxy 127.0.0.1:80"}},
	{what: "the host's loopback by its name", allow: []string{"host.outcall.internal:LO"}, open: []string{"host.outcall.internal:LO"}, closed: []string{"host.outcall.internal:22"}},
	{what: "the service address as a literal", allow: []string{"10.200.0.254/32:LO", "[fd0c:a11::fe/128]:LO"}, closed: []string{"host.outcall.internal:LO"}},
	{what: "NAT64 as a network", allow: []string{"[64:ff9b::/96]:ECHO", "[2002::/16]:ECHO", "[64:ff9b::/96]:LO", "[2002::/16]:LO"}, closed: []string{"[64:ff9b::a01:203]:ECHO", "nat64.test:LO"}},
}

// spare are the targets of everywhere that a case opens on purpose.
func (c k14) spare(target string) bool {
	return slices.Contains(c.open, target) || slices.Contains(c.open, "proxy "+target) || c.what == "loopback and port" && strings.Contains(target, "127.0.0.1]:LO") ||
		strings.HasPrefix(c.what, "the host's") && strings.Contains(target, "fe]:LO") || strings.HasPrefix(c.what, "the host's") && strings.Contains(target, "254:LO")
}

// attempts writes a shell script that tries each target, straight and through
// the proxy, and returns the targets in the order of its lines.
func (c k14) attempts(word string, fill *strings.Replacer) (script string, targets []string) {
	list := append(slices.Clone(c.open), c.closed...)
	for _, target := range everywhere {
		if !c.spare(target) {
			list = append(list, target)
		}
	}
	payload := spoken(word)
	for _, target := range list {
		to, proxyOnly := strings.CutPrefix(fill.Replace(target), "proxy ")
		if !proxyOnly {
			script += fmt.Sprintf("%s tcp '%s' '%s'\n", harness.Probe, payload, to)
			targets = append(targets, target)
		}
		script += fmt.Sprintf("%s connect 10.200.0.1:8080 'CONNECT %s HTTP/1.1' %s\n", harness.Probe, to, hex.EncodeToString([]byte(payload)))
		targets = append(targets, "proxy "+target)
	}
	return script, targets
}

// K14: what opens an address that is not public, end to end, and what does not.
func TestK14WhatOpensARestrictedAddress(t *testing.T) {
	b := harness.New(t)
	h := newHostEcho(t)
	for name, addrs := range map[string][]string{
		"inward.test": {"10.1.2.3", "fd12::3"}, "cgnat.test": {"100.64.1.2"}, "loop.test": {"127.0.0.1", "::1"}, "meta.test": {metadata4, "fd00:ec2::254"},
		"mapped.test": {"::ffff:127.0.0.1"}, "nat64.test": {"64:ff9b::7f00:1", "2002:7f00:1::"}, "own.test": {world.HostV4.Addr().String(), world.HostV6.Addr().String()},
	} {
		var rec world.Records
		for _, a := range addrs {
			rec.Addrs = append(rec.Addrs, netip.MustParseAddr(a))
		}
		b.DNS.Set(name, rec)
	}
	fill := strings.NewReplacer("ECHO", port(b.Ports.Echo), "LO", port(h.port))
	for _, c := range k14Cases {
		t.Run(c.what, func(t *testing.T) { c.run(t, b, h, fill) })
	}
}

func (c k14) run(t *testing.T, b *harness.Bed, h *hostEcho, fill *strings.Replacer) {
	flags := []string{"-q"}
	for _, a := range c.allow {
		flags = append(flags, "--allow", fill.Replace(a))
	}
	if c.rule != "" {
		flags = append(flags, "--rules", b.Rules("k14.yaml", c.rule))
	}
	k, m := b.Canary(t), b.Mark()
	script, targets := c.attempts(k.Word, fill)
	h.took()
	r := b.Sandbox(flags, "sh", "-c", script)
	lines := r.Lines(t)
	if len(lines) != len(targets) {
		t.Fatalf("%d answers to %d attempts: %s %s", len(lines), len(targets), r.Stdout, r.Stderr)
	}
	for i, l := range lines {
		target := strings.TrimPrefix(targets[i], "proxy ")
		want := slices.Contains(c.open, target) || slices.Contains(c.open, "proxy "+target)
		if got := l.OK && strings.Contains(l.Data, k.Word); got != want {
			t.Errorf("%s: open %v, want %v: %+v", targets[i], got, want, l)
		}
	}
	if len(c.open) == 0 {
		k.MustNotArrive(t)
		b.MustBeQuiet(t, m, onlyQuestions(b.World))
		if got := h.took(); got != "" {
			t.Errorf("the host's loopback heard %q", got)
		}
	}
	c.audited(t, b, r.Name, lines, targets, fill)
}

// audited demands one denial for each attempt at an address that left the
// command's own network namespace. Of most of them the process is known; a busy
// machine may be too slow to find it while a SYN waits.
func (c k14) audited(t *testing.T, b *harness.Bed, session string, lines []harness.Line, targets []string, fill *strings.Replacer) {
	t.Helper()
	type attempt struct{ layer, to string }
	want, got, nameless := map[attempt]int{}, map[attempt]int{}, 0
	for i, target := range targets {
		to, proxied := strings.CutPrefix(target, "proxy ")
		to, _ = strings.CutPrefix(fill.Replace(to), "proxy ")
		a, err := netip.ParseAddrPort(to)
		if err != nil || lines[i].OK && strings.Contains(lines[i].Data, "EHLO") || !proxied && a.Addr().Unmap().IsLoopback() {
			continue // a name's denial may be that of its question; loopback is the command's own
		}
		want[attempt{map[bool]string{true: "connect", false: "flow"}[proxied], at(a.Addr().Unmap(), a.Port())}]++
	}
	for _, e := range b.Denials(t, session, func(e harness.Event) bool { return e.IP != "" && (e.Layer == "flow" || e.Layer == "connect") }) {
		got[attempt{e.Layer, at(mustAddr(e.IP).Unmap(), e.Port)}] += max(1, e.Count)
		if e.Process == nil || !strings.HasSuffix(e.Process.Exe, "/probe") {
			nameless++
		}
		if !e.Structural && e.Rule == "" {
			t.Errorf("a denial that names nothing: %s", e)
		}
	}
	byName := slices.ContainsFunc(targets, func(s string) bool { return strings.HasPrefix(s, "host.outcall.internal") })
	for a, n := range want {
		// The name of the host's services leads to the addresses that are tried as such.
		if ok := got[a] == n || byName && got[a] == n+1 && a.layer == "flow"; !ok {
			t.Errorf("%d denials of %s at %s, and %d attempts", got[a], a.to, a.layer, n)
		}
	}
	if nameless*2 > len(want) {
		t.Errorf("%d of %d denials do not name the process", nameless, len(want))
	}
}
