package integration

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// unbound starts Debian's resolver on the host, with the world's as the one it
// asks, and returns where it listens.
func unbound(t *testing.T, b *harness.Bed) string {
	t.Helper()
	const program = "/usr/sbin/unbound"
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: install the unbound package (make deps)", err)
	}
	const local = "127.0.0.1:5300" // the tests' user may not listen at 53
	conf := b.Write("unbound/unbound.conf", fmt.Sprintf(`server:
  interface: 127.0.0.1
  port: 5300
  do-not-query-localhost: no
  do-daemonize: no
  use-syslog: no
  username: ""
  chroot: ""
  directory: %[1]q
  pidfile: ""
  module-config: "iterator"
  domain-insecure: "."
  local-zone: "test." nodefault
  qname-minimisation: no
forward-zone:
  name: "."
  forward-addr: %[2]s
`, filepath.Join(b.Home, "unbound"), b.Resolver))
	p := b.Start(b.Program(program, "-d", "-c", conf))
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.Dial("tcp", local)
		if err == nil {
			c.Close()
			return local
		}
		if time.Now().After(deadline) {
			t.Fatalf("unbound does not listen: %v\n%s", err, p.Errors())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// The usual DNS clients, with a resolver as machines have it behind us: what it
// answers they see, over UDP and TCP, with EDNS and without.
func TestResolverAndClients(t *testing.T) {
	b := harness.New(t)
	upstream := unbound(t, b)
	v4, v6 := b.V4(t, "api.allowed.test"), b.V6(t, "api.allowed.test")
	var many []netip.Addr
	for range 60 {
		many = append(many, b.Addr4())
	}
	b.DNS.Set("big.allowed.test", world.Records{Addrs: many, TTL: 60})
	b.DNS.Set("empty.allowed.test", world.Records{Extra: []string{"TXT none"}})
	flags := append(harness.Allow(".allowed.test"), "--no-proxy", "--dns-upstream", upstream)
	for _, c := range []struct {
		cmd  string
		want []string
	}{
		{"dig +noall +answer +comments api.allowed.test A", []string{"status: NOERROR", v4.String()}},
		{"dig +noall +answer +comments +tcp api.allowed.test AAAA", []string{"status: NOERROR", v6.String()}},
		{"dig +noall +answer +comments +noedns api.allowed.test", []string{"status: NOERROR", v4.String()}},
		{"dig +noall +answer +comments +dnssec +cd api.allowed.test", []string{"status: NOERROR", "flags: do", v4.String()}},
		{"dig +noall +answer +comments @8.8.8.8 www.allowed.test", []string{"status: NOERROR", v4.String()}},
		{"dig +noall +answer +comments nothere.allowed.test", []string{"status: NXDOMAIN"}},
		{"dig +noall +answer +comments +authority empty.allowed.test", []string{"status: NOERROR", "SOA"}},
		{"dig +noall +answer +comments +bufsize=512 big.allowed.test", []string{"status: NOERROR", many[0].String(), many[59].String()}},
		{"dig +noall +comments evil.test", []string{"status: NXDOMAIN", "EDE: 15 (Blocked)", "outcall: default policy d-"}},
		{"dig +noall +comments +tcp api.allowed.test TXT", []string{"status: NOERROR", "EDE: 15 (Blocked)"}},
		{"drill api.allowed.test", []string{"rcode: NOERROR", v4.String()}},
		{"drill -t AAAA api.allowed.test @1.1.1.1", []string{"rcode: NOERROR", v6.String()}},
		{"drill evil.test", []string{"rcode: NXDOMAIN"}},
		{"getent ahosts api.allowed.test", []string{v4.String(), v6.String()}},
	} {
		r := b.Sandbox(flags, strings.Fields(c.cmd)...)
		for _, w := range c.want {
			if !strings.Contains(r.Stdout, w) {
				t.Errorf("%s: no %q in\n%s%s", c.cmd, w, r.Stdout, r.Stderr)
			}
		}
	}
	if b.DNS.Asked("evil.test") || b.DNS.Asked("api.allowed.test TXT") {
		t.Error("a denied question left")
	}
}
