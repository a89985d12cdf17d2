package policy

import (
	"net/netip"
	"testing"
)

func allow(t testing.TB, targets ...string) *Snapshot {
	t.Helper()
	src, err := AllowTargets(targets)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load([]Source{src})
	if err != nil {
		t.Fatalf("Load: %v\n%s", err, src.Data)
	}
	return s
}

func cand(names ...string) []Candidate {
	var out []Candidate
	for _, n := range names {
		out = append(out, Candidate{Name: n})
	}
	return out
}

func TestAllowHost(t *testing.T) {
	s := allow(t, "API.allowed.test.")
	a := netip.MustParseAddr(pub)
	pins := cand("api.allowed.test")
	for _, c := range []struct {
		name string
		got  Flow
		want Word
	}{
		{"question", Flow{Outcome: s.Step(dnsFacts("api.allowed.test", "A"))}, Allow},
		{"other question", Flow{Outcome: s.Step(dnsFacts("evil.test", "A"))}, Open},
		{"below", Flow{Outcome: s.Step(dnsFacts("x.api.allowed.test", "A"))}, Open},
		{"443 pinned", s.Flow(flowFacts(pub, 443, TCP), a, pins, nil), Open},
		{"QUIC pinned", s.Flow(flowFacts(pub, 443, UDP), a, pins, nil), Open},
		{"443 not pinned", s.Flow(flowFacts(pub, 443, TCP), a, nil, nil), Deny},
		{"22", s.Flow(flowFacts(pub, 22, TCP), a, pins, nil), Deny},
		{"ping", s.Flow(flowFacts(pub, 0, ICMP), a, pins, nil), Deny},
		{"hello", s.Content(helloFacts(pub, 443, "api.allowed.test"), a, pins, nil), Allow},
		{"hello of another", s.Content(helloFacts(pub, 443, "evil.test"), a, cand("api.allowed.test", "evil.test"), nil), Deny},
		{"hello without SNI", s.Content(helloFacts(pub, 443, ""), a, pins, nil), Deny},
		{"hello not pinned", s.Content(helloFacts(pub, 443, "api.allowed.test"), a, cand("b.test"), nil), Deny},
		{"request", s.Content(requestFacts(pub, 80, HTTP{Host: "api.allowed.test", Method: "GET"}), a, pins, nil), Allow},
		{"raw", s.Content(rawFacts(pub, 443, TCP, ""), a, pins, nil), Deny},
		{"connect unresolved", s.Content(connectFacts("api.allowed.test", 443, ""), netip.Addr{}, nil, nil), Allow},
		{"connect", s.Content(connectFacts("api.allowed.test", 443, pub), a, pins, nil), Allow},
		{"connect 22", s.Content(connectFacts("api.allowed.test", 22, ""), netip.Addr{}, nil, nil), Deny},
	} {
		if c.got.Word != c.want {
			t.Errorf("%s: got %s (%s), want %s", c.name, c.got.Word, c.got.Reason, c.want)
		}
	}
}

func TestAllowHostPort(t *testing.T) {
	s := allow(t, "git.allowed.test:22")
	a := netip.MustParseAddr(pub)
	pins := cand("git.allowed.test")
	for _, c := range []struct {
		name string
		got  Flow
		want Word
	}{
		{"22", s.Flow(flowFacts(pub, 22, TCP), a, pins, nil), Allow},
		{"22 by another name", s.Flow(flowFacts(pub, 22, TCP), a, cand("evil.test"), nil), Deny},
		{"22 not pinned", s.Flow(flowFacts(pub, 22, TCP), a, nil, nil), Deny},
		{"UDP", s.Flow(flowFacts(pub, 22, UDP), a, pins, nil), Deny},
		{"443", s.Flow(flowFacts(pub, 443, TCP), a, pins, nil), Deny},
		{"raw", s.Content(rawFacts(pub, 22, TCP, ""), a, pins, nil), Allow},
		{"hello", s.Content(helloFacts(pub, 22, "git.allowed.test"), a, pins, nil), Allow},
		{"hello without SNI", s.Content(helloFacts(pub, 22, ""), a, pins, nil), Deny},
		{"hello of another", s.Content(helloFacts(pub, 22, "evil.test"), a, pins, nil), Deny},
	} {
		if c.got.Word != c.want {
			t.Errorf("%s: got %s (%s), want %s", c.name, c.got.Word, c.got.Reason, c.want)
		}
		if c.got.Unread {
			t.Errorf("%s: relayed unread", c.name)
		}
	}
}

func TestAllowBelow(t *testing.T) {
	s := allow(t, ".allowed.test")
	for name, want := range map[string]Word{"allowed.test": Allow, "a.b.allowed.test": Allow, "evilallowed.test": Open, "allowed.test.evil.test": Open} {
		o := s.Step(dnsFacts(name, "A"))
		if o.Word != want {
			t.Errorf("%s: got %s, want %s", name, o.Word, want)
		}
		if a := Act(LayerDNS, "", o, false); (a == Answer) != (want == Allow) {
			t.Errorf("%s: %s", name, a)
		}
	}
}

func TestAllowNetworks(t *testing.T) {
	host := &Host{
		Addrs:   []netip.Addr{netip.MustParseAddr("192.168.7.7"), netip.MustParseAddr("5.6.7.8")},
		OnLink:  []netip.Prefix{netip.MustParsePrefix("5.6.7.0/24")},
		Session: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24")},
	}
	for _, c := range []struct {
		target, addr string
		port         uint16
		want         Word
	}{
		{"93.184.216.34", pub, 443, Allow},
		{"93.184.216.34", "93.184.216.35", 443, Deny},
		{"93.184.216.0/24:443", pub, 443, Allow},
		{"93.184.216.0/24:443", pub, 80, Deny},
		{"[2606:4700::1]:443", "2606:4700::1", 443, Allow},
		{"2606:4700::/32", "2606:4700::1", 1, Allow},
		{"0.0.0.0/0", pub, 1, Allow},
		{"0.0.0.0/0", "127.0.0.1", 80, Deny},
		{"0.0.0.0/0", "169.254.169.254", 80, Deny},
		{"0.0.0.0/0", "10.1.2.3", 80, Deny},
		{"0.0.0.0/0", "5.6.7.8", 80, Deny},
		{"0.0.0.0/0:80", "192.168.1.1", 80, Deny},
		{"::/0:80", "::1", 80, Deny},
		{"[::/0]:80", "fe80::1", 80, Deny},
		{"10.0.0.0/8", "10.1.2.3", 80, Allow},
		{"10.0.0.0/7", "10.1.2.3", 80, Deny},
		{"10.0.0.0/8", "10.200.0.1", 80, Deny},
		{"10.200.0.1:8080", "10.200.0.1", 8080, Deny},
		{"127.0.0.1:5432", "127.0.0.1", 5432, Allow},
		{"127.0.0.1:5432", "127.0.0.1", 80, Deny},
		{"127.0.0.1", "127.0.0.1", 80, Deny},
		{"192.168.7.0/24:22", "192.168.7.7", 22, Deny},
		{"192.168.7.7:22", "192.168.7.7", 22, Allow},
		{"192.168.7.0/24:22", "192.168.7.8", 22, Allow},
		{"5.6.7.0/24", "5.6.7.9", 22, Allow},
		{"100.64.0.0/10:80", "100.100.100.200", 80, Deny},
		{"100.64.0.0/10:80", "100.100.100.201", 80, Allow},
		{"224.0.0.1:80", "224.0.0.1", 80, Deny},
		{"0.0.0.0:80", "0.0.0.0", 80, Deny},
		{"[::1]:80", "::1", 80, Allow},
		{"[::/0]:80", "64:ff9b::7f00:1", 80, Deny},
		{"[64:ff9b::/96]:80", "64:ff9b::7f00:1", 80, Deny},
		{"[64:ff9b::7f00:1]:80", "64:ff9b::7f00:1", 80, Allow},
		{"::ffff:10.0.0.1", "10.0.0.1", 80, Allow},
	} {
		if c.target == "::/0:80" { // an IPv6 network with a port needs brackets
			if _, err := AllowTargets([]string{c.target}); err == nil {
				t.Errorf("%s loads", c.target)
			}
			continue
		}
		fl := allow(t, c.target).Flow(flowFacts(c.addr, c.port, TCP), netip.MustParseAddr(c.addr), nil, host)
		if fl.Word != c.want || fl.Unread != (c.want == Allow) {
			t.Errorf("-a %s, %s:%d: got %s, unread %v (%s), want %s", c.target, c.addr, c.port, fl.Word, fl.Unread, fl.Reason, c.want)
		}
	}
}

func TestAllowTargetErrors(t *testing.T) {
	for _, target := range []string{
		"", ".", "a..b", "a b", "a\x00b", "a'b", `a"b`, "a:0", "a:65536", "a:x", "a:+1", "a:1:2", "*.a.test", "127.1", "0x7f.1",
		"2130706433", "0x7F000001", "0177.0.0.1", "10.0.0.1/8", "10.0.0.0/33", "[::1", "[::1]x", "[::1]:", "fe80::1%eth0", "preset:nmp", "-a", "http://a.test/",
		"a/b", "xn--\u00e9", "::ffff:10.0.0.0/104",
	} {
		src, err := AllowTargets([]string{target})
		if err == nil {
			t.Errorf("%q is accepted:\n%s", target, src.Data)
		}
	}
	if _, err := AllowTargets(make([]string, MaxTargets+1)); err == nil {
		t.Error("too many targets are accepted")
	}
	s := allow(t, "bücher.test")
	if o := s.Step(dnsFacts("xn--bcher-kva.test", "A")); o.Word != Allow {
		t.Errorf("an IDN is not in punycode: %s", o.Reason)
	}
}
