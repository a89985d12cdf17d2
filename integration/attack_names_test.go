package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// gateways are the session's resolver in both families.
var gateways = []string{"10.200.0.1:53", "[fd0c:a11::1]:53"}

// wantDNS demands an answer that begins so for each attempt.
func wantDNS(t *testing.T, what string, lines []harness.Line, want string) {
	t.Helper()
	for _, l := range lines {
		if !l.OK || !strings.HasPrefix(l.Data, want) {
			t.Errorf("%s: %s: %q %s, want %s", what, l.Target, l.Data, l.Err, want)
		}
	}
}

// D1, D3: a denied name leaves by no resolver, whichever was asked and by
// whatever transport; an allowed one leaves to the host's own resolver only.
func TestD3EveryResolverIsTheFilter(t *testing.T) {
	b := harness.New(t)
	k, mark := b.Canary(t), b.Mark()
	servers := append([]string{"8.8.8.8:53", "1.1.1.1:53", at(b.Resolver, 53), at(b.Resolver6, 53), "[2606:4700:4700::1111]:53"}, gateways...)
	for _, server := range servers {
		for _, network := range []string{"udp", "tcp"} {
			r, lines := b.Attempts(append(allowAPI, "--no-proxy"), "dns", network, server, "A", k.Word+".evil.test", k.Word+".api.allowed.test")
			wantDNS(t, network+" "+server, lines, "NXDOMAIN ede=15:outcall: default policy d-")
			if n := len(b.Denials(t, r.Name, func(e harness.Event) bool { return e.Layer == "dns" && e.Process != nil })); n != 2 {
				t.Errorf("%s %s: %d denials with a process, want 2", network, server, n)
			}
		}
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, mark, nil)
	for _, server := range servers {
		_, lines := b.Attempts(append(allowAPI, "--no-proxy"), "dns", "udp", server, "A", "api.allowed.test")
		wantDNS(t, server, lines, "NOERROR A=")
	}
	b.MustBeQuiet(t, mark, onlyQuestions(b.World)) // to the host's resolver
}

// D2: an allowed suffix is no channel of any width.
func TestD2LabelsUnderAnAllowedSuffix(t *testing.T) {
	b := harness.New(t)
	args := []string{"dns", "udp", gateways[0], "A"}
	for i := range 200 {
		name := fmt.Sprintf("c%d.tunnel.test", i)
		b.DNS.Set(name, world.Records{Addrs: []netip.Addr{b.Addr4()}, TTL: 1})
		args = append(args, name)
	}
	r, lines := b.Attempts([]string{"-q", "--allow", ".tunnel.test", "--no-proxy"}, args...)
	refused := 0
	for _, l := range lines {
		if strings.HasPrefix(l.Data, "SERVFAIL ede=15:outcall: too many questions below tunnel.test d-") {
			refused++
		}
	}
	left := map[string]bool{}
	for _, q := range b.DNS.Log() {
		if strings.HasSuffix(q.Name, ".tunnel.test") {
			left[q.Name] = true
		}
	}
	if refused != 100 || len(left) != 100 {
		t.Errorf("%d questions of 200 were refused, %d names left", refused, len(left))
	}
	limits := slices.ContainsFunc(b.Events(t, r.Name), func(e harness.Event) bool {
		return e.Event == "limit" && strings.Contains(e.Reason, "tunnel.test")
	})
	if !limits {
		t.Error("no limit event")
	}
	b.SomeDenial(t, r.Name, func(e harness.Event) bool {
		return e.Structural && e.Layer == "dns" && strings.HasSuffix(e.Query, ".tunnel.test")
	})
}

// D6: other people's resolvers over HTTPS are addresses and names like any.
func TestD6OtherResolversOverHTTPS(t *testing.T) {
	b := harness.New(t)
	b.DNS.Set("dns.google", world.Records{Addrs: []netip.Addr{b.Addr4(), b.Addr6()}})
	b.DNS.Set("cloudflare-dns.com", world.Records{Addrs: []netip.Addr{b.Addr4(), b.Addr6()}})
	mark := b.Mark()
	to := []string{"8.8.8.8:443", "1.1.1.1:443", "[2606:4700:4700::1111]:443", "1.1.1.1:853", "[2001:4860:4860::8888]:853"}
	for _, sni := range []string{"dns.google", "api.allowed.test", ""} {
		r, lines := b.Attempts(append(allowAPI, "--no-proxy"), append([]string{"tls", sni}, to...)...)
		harness.Refused(t, lines, 1000)
		if n := len(b.Denials(t, r.Name, nil)); n != len(to) {
			t.Errorf("SNI %q: %d denials for %d attempts", sni, n, len(to))
		}
	}
	for _, name := range []string{"dns.google", "cloudflare-dns.com"} {
		for _, flags := range [][]string{{"--no-proxy"}, nil} {
			if r := b.Sandbox(append(slices.Clone(allowAPI), flags...), curl("https://"+name+"/dns-query?dns=AAABAAABAAAAAAAA")...); r.Code == 0 {
				t.Errorf("%s %v: answered", name, flags)
			}
		}
	}
	b.MustBeQuiet(t, mark, nil)
}

// D7: under an allowed name only addresses and cleaned service records pass;
// PTR of what is not pinned does not.
func TestD7OtherTypesOfAnAllowedName(t *testing.T) {
	b := harness.New(t)
	k, mark := b.Canary(t), b.Mark()
	for _, typ := range []string{"TXT", "NULL", "MX", "SRV", "ANY", "NS", "SOA", "CAA", "NAPTR", "AXFR"} {
		r, lines := b.Attempts(append(allowAPI, "--no-proxy"), "dns", "tcp", gateways[0], typ, "api.allowed.test")
		wantDNS(t, typ, lines, "NOERROR ede=15:outcall: ")
		b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.RecordType == typ && e.Query == "api.allowed.test" })
	}
	_, lines := b.Attempts(append(allowAPI, "--no-proxy"), "dns", "udp", gateways[1], "PTR",
		"34.216.184.93.in-addr.arpa", "1.0.0.127.in-addr.arpa.evil.test", k.Word+".in-addr.arpa")
	wantDNS(t, "PTR", lines, "NXDOMAIN ede=15:")
	k.MustNotArrive(t)
	b.MustBeQuiet(t, mark, nil)
}

// D8: of a service record the parts that lead around the judged path are
// gone, and an address that only stood in a hint is refused.
func TestD8HintsOfServiceRecords(t *testing.T) {
	b := harness.New(t)
	own, other := b.V4(t, "api.allowed.test"), b.Addr4()
	b.DNS.Set("api.allowed.test", world.Records{Addrs: b.AddrsOf("api.allowed.test"), TTL: 300, Extra: []string{
		fmt.Sprintf("HTTPS 1 . alpn=h2 port=8443 ech=AEX+DQA= ipv4hint=%s,%s", own, other), "HTTPS 0 evil.test.", "HTTPS 2 other.evil.test. alpn=h3",
	}})
	script := `$0 dns udp $1 A api.allowed.test; $0 dns udp $1 HTTPS api.allowed.test; $0 tls api.allowed.test $2`
	r := b.Sandbox(append(allowAPI, "--no-proxy"), "sh", "-c", script, harness.Probe, gateways[0], at(other, 443))
	lines := r.Lines(t)
	if len(lines) != 3 {
		t.Fatalf("%d lines: %s %s", len(lines), r.Stdout, r.Stderr)
	}
	got := lines[1].Data
	if !strings.Contains(got, "alpn=") || !strings.Contains(got, own.String()) || strings.Contains(got, other.String()) ||
		strings.Contains(got, "ech") || strings.Contains(got, "port") || strings.Contains(got, "evil") || strings.Count(got, "HTTPS=") != 1 {
		t.Errorf("HTTPS: %s", got)
	}
	harness.Refused(t, lines[2:], 1000)
}

// D10, D11: a name that turns to a restricted address has none, whoever runs
// its zone, and what was pinned before is what is dialled.
func TestD10RebindingToRestrictedAddresses(t *testing.T) {
	b := harness.New(t)
	restricted := []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "100.64.0.1", "::1", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
		"0.0.0.0", "10.200.0.1", "fd0c:a11::1", world.HostV4.Addr().String(), "2a00:64::7f00:1", "2606:2800::5efe:7f00:1"}
	b.DNS.Set("ipv4only.arpa", world.Records{Addrs: []netip.Addr{netip.MustParseAddr("2a00:64::c000:aa")}, TTL: 60})
	var names []string
	for i, text := range restricted {
		addr, name := netip.MustParseAddr(text), fmt.Sprintf("r%d.allowed.test", i)
		good4, good6 := b.Addr4(), b.Addr6()
		b.DNS.Set(name, world.Records{Func: func(n int, q dns.Question) []dns.RR {
			give := good4
			if addr.Is6() {
				give = good6
			}
			if n >= 1 {
				give = addr
			}
			hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET}
			switch {
			case q.Qtype == dns.TypeA && give.Is4():
				return []dns.RR{&dns.A{Hdr: hdr, A: give.AsSlice()}}
			case q.Qtype == dns.TypeAAAA && give.Is6():
				return []dns.RR{&dns.AAAA{Hdr: hdr, AAAA: give.AsSlice()}}
			}
			return nil
		}})
		names = append(names, name)
	}
	b.DNS.Set("127.0.0.1.nip.io", world.Records{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	mark := b.Mark()
	for i, name := range names {
		typ := "A"
		if netip.MustParseAddr(restricted[i]).Is6() {
			typ = "AAAA"
		}
		r, lines := b.Attempts(append(harness.Allow(name), "--no-proxy"), "dns", "udp", gateways[0], typ, name, name, name)
		if len(lines) != 3 || !strings.HasPrefix(lines[0].Data, "NOERROR "+typ+"=") {
			t.Fatalf("%s: %+v", name, lines)
		}
		for _, l := range lines[1:] {
			if !strings.HasPrefix(l.Data, "SERVFAIL") || !strings.Contains(l.Data, "ede=15:outcall: restricted address d-") {
				t.Errorf("%s → %s: %s", name, restricted[i], l.Data)
			}
		}
		b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Structural && e.Query == name })
	}
	r := b.Sandbox(append(harness.Allow("127.0.0.1.nip.io"), "--no-proxy"), curl("http://127.0.0.1.nip.io/")...)
	if r.Code != 6 {
		t.Errorf("nip.io: curl's code %d %s", r.Code, r.Stderr)
	}
	b.MustBeQuiet(t, mark, onlyQuestions(b.World))
}
