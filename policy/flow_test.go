package policy

import (
	"net/netip"
	"sync"
	"testing"
)

func TestHostLoopbackOnlyByItsName(t *testing.T) {
	svc := netip.MustParseAddr("10.200.0.254")
	h := &Host{Session: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24")}}
	pins := cand(HostName)
	for _, c := range []struct {
		name string
		s    *Snapshot
		port uint16
		want Word
	}{
		{"its name and port", allow(t, HostName+":5432"), 5432, Allow},
		{"another port", allow(t, HostName+":5432"), 5433, Deny},
		{"its name", allow(t, HostName), 443, Open},
		{"everything", rules(t, `allow true`), 5432, Deny},
		{"everything on a port", rules(t, `allow network.port == 5432`), 5432, Deny},
		{"its name without a port", rules(t, `allow network.hostname == "host.outcall.internal"`), 5432, Deny},
		{"a suffix", allow(t, ".internal:5432"), 5432, Deny},
		{"its address", allow(t, "10.200.0.254:5432"), 5432, Deny},
		{"its name beside everything", rules(t, `allow network.port == 5432 || network.hostname == "host.outcall.internal"`), 5432, Deny},
	} {
		fl := c.s.Flow(flowFacts("10.200.0.254", c.port, TCP), svc, pins, h)
		if fl.Word != c.want || fl.Structural != (c.want == Deny) {
			t.Errorf("%s: got %s (%s), want %s", c.name, fl.Word, fl.Reason, c.want)
		}
		if c.want != Deny && len(c.s.Cells(who, HostName, svc, nil, h)) == 0 {
			t.Errorf("%s: no cell", c.name)
		}
	}
}

// A literal in one alternative of a rule must not open its address to the
// names of another.
func TestLiteralDoesNotOpenToNames(t *testing.T) {
	s := rules(t, `allow dns.query == "db.test" || http.host == "db.test" || (network.ip == "127.0.0.1" && network.port == 5432)`)
	a := netip.MustParseAddr("127.0.0.1")
	pins := cand("db.test")
	for _, fl := range []Flow{
		s.Flow(flowFacts("127.0.0.1", 80, TCP), a, pins, nil),
		s.Content(requestFacts("127.0.0.1", 80, HTTP{Host: "db.test", Method: "GET"}), a, pins, nil),
		s.Content(connectFacts("db.test", 80, "127.0.0.1"), a, pins, nil),
		s.Content(helloFacts("127.0.0.1", 443, "db.test"), a, pins, nil),
	} {
		if fl.Word == Allow || fl.Word == Deny && !fl.Structural {
			t.Errorf("%s: %s", fl.Word, fl.Reason)
		}
	}
	if fl := s.Flow(flowFacts("127.0.0.1", 5432, TCP), a, pins, nil); fl.Word != Allow || !fl.Unread {
		t.Errorf("the literal and its port: %s (%s)", fl.Word, fl.Reason)
	}
}

func TestStructural(t *testing.T) {
	a := netip.MustParseAddr(pub)
	every := rules(t, `allow true`)
	waits := rules(t, `allow tls.sni == "a.test"`)
	for _, c := range []struct {
		name       string
		fl         Flow
		structural bool
	}{
		{"no rule", rules(t, `block false`).Flow(flowFacts(pub, 80, TCP), a, nil, nil), false},
		{"a block", rules(t, `block true`).Flow(flowFacts(pub, 80, TCP), a, nil, nil), false},
		{"open without a pin", waits.Flow(flowFacts(pub, 443, TCP), a, nil, nil), true},
		{"loopback, no rule", rules(t, `block false`).Flow(flowFacts("127.0.0.1", 80, TCP), netip.MustParseAddr("127.0.0.1"), nil, nil), true},
		{"metadata, every rule", every.Flow(flowFacts("169.254.169.254", 80, TCP), netip.MustParseAddr("169.254.169.254"), cand("m.test"), nil), true},
		{"SNI not pinned", every.Content(helloFacts(pub, 443, "evil.test"), a, cand("a.test"), nil), true},
		{"Host not pinned", every.Content(requestFacts(pub, 80, HTTP{Host: "evil.test"}), a, cand("a.test"), nil), true},
		{"Host is another address", every.Content(requestFacts(pub, 80, HTTP{Host: "1.1.1.1"}), a, nil, nil), true},
		{"no SNI at a pinned name", every.Content(helloFacts(pub, 443, ""), a, cand("a.test"), nil), true},
		{"no policy", (*Snapshot)(nil).Flow(flowFacts(pub, 80, TCP), a, nil, nil), true},
	} {
		if c.fl.Word != Deny || c.fl.Structural != c.structural {
			t.Errorf("%s: %s, structural %v (%s)", c.name, c.fl.Word, c.fl.Structural, c.fl.Reason)
		}
		act, would := Observe(LayerFlow, TCP, c.fl, true)
		if (act == Refuse) != c.structural || would == c.structural {
			t.Errorf("%s in observe: %s, would deny %v", c.name, act, would)
		}
	}
}

func TestCandidates(t *testing.T) {
	a := netip.MustParseAddr(pub)
	s := rules(t, `block network.hostname == "e.test"`, `allow network.hostname == "a.test" && network.port == 22`, `allow http.host == "b.test"`)
	for _, c := range []struct {
		names []string
		port  uint16
		word  Word
		name  string
	}{
		{[]string{"e.test"}, 22, Deny, "e.test"},
		{[]string{"e.test", "a.test"}, 22, Allow, "a.test"},
		{[]string{"b.test", "a.test"}, 22, Allow, "a.test"},
		{[]string{"b.test", "a.test"}, 443, Open, "b.test"},
		{[]string{"a.test", "b.test"}, 443, Open, "a.test"}, // the name resolved last wins a tie
	} {
		fl := s.Flow(flowFacts(pub, c.port, TCP), a, cand(c.names...), nil)
		if fl.Word != c.word || fl.Name != c.name {
			t.Errorf("%v:%d: %s by %s, want %s by %s", c.names, c.port, fl.Word, fl.Name, c.word, c.name)
		}
	}
}

func TestGrants(t *testing.T) {
	a := netip.MustParseAddr(pub)
	s := rules(t,
		`block cidr("1.1.1.0/24").contains(network.ip)`,
		`allow dns.query == "d.test" @ mode: direct_ip`,
		`block tls.sni == "x.test"`,
		`allow dns.query == "late.test" @ mode: direct_ip, ports: [22]`)
	q := dnsFacts("d.test", "A")
	g := s.Grants(q, a)
	if len(g) != 4 || g[0] != (Grant{"r1", TCP, 80}) {
		t.Fatalf("grants: %v", g)
	}
	if g := s.Grants(q, netip.MustParseAddr("1.1.1.1")); g != nil {
		t.Errorf("granted at a blocked address: %v", g)
	}
	if g := s.Grants(dnsFacts("late.test", "A"), a); g != nil {
		t.Errorf("granted behind a block that waits: %v", g)
	}
	pins := []Candidate{{Name: "d.test", Grants: g}}
	for port, want := range map[uint16]Word{443: Allow, 80: Allow, 22: Deny} {
		fl := s.Flow(flowFacts(pub, port, TCP), a, pins, nil)
		if fl.Word != want || fl.Unread != (want == Allow) || fl.Granted != (want == Allow) {
			t.Errorf("port %d: %s, unread %v", port, fl.Word, fl.Unread)
		}
	}
	if fl := s.Flow(flowFacts(pub, 443, TCP), a, cand("d.test"), nil); fl.Word == Allow {
		t.Errorf("allowed without the grant: %s", fl.Reason)
	}
	// Through the proxy the name may be resolved, and then has its grant.
	before := s.Content(connectFacts("d.test", 443, ""), netip.Addr{}, nil, nil)
	if !MayResolve(before.Outcome, s.Step(q)) {
		t.Errorf("not resolved: %s", before.Reason)
	}
	if fl := s.Content(connectFacts("d.test", 443, pub), a, pins, nil); fl.Word != Allow || !fl.Unread {
		t.Errorf("connect: %s (%s)", fl.Word, fl.Reason)
	}
}

func TestMayResolve(t *testing.T) {
	veto := &Rule{ID: "b", Block: true}
	for _, c := range []struct {
		o, dns Outcome
		want   bool
	}{
		{Outcome{Word: Allow}, Outcome{Word: Deny}, true},
		{Outcome{Word: Allow}, Outcome{Word: Deny, Rule: veto}, false},
		{Outcome{Word: Provisional}, Outcome{Word: Open}, true},
		{Outcome{Word: Open}, Outcome{Word: Open}, false},
		{Outcome{Word: Open}, Outcome{Word: Provisional}, true},
		{Outcome{Word: Deny}, Outcome{Word: Allow}, false},
	} {
		if MayResolve(c.o, c.dns) != c.want {
			t.Errorf("%s, dns %s: want %v", c.o.Word, c.dns.Word, c.want)
		}
	}
}

// TestAct is the house's table.
func TestAct(t *testing.T) {
	words := []Word{Allow, Provisional, Open, Deny}
	for _, c := range []struct {
		layer  Layer
		proto  Proto
		pinned bool
		want   [4]Action
	}{
		{LayerDNS, "", true, [4]Action{Answer, Answer, Refuse, Refuse}},
		{LayerFlow, TCP, true, [4]Action{RelayRead, Hold, Hold, Refuse}},
		{LayerFlow, TCP, false, [4]Action{RelayRead, Hold, Refuse, Refuse}},
		{LayerFlow, UDP, true, [4]Action{RelayRead, Hold, Hold, Refuse}},
		{LayerFlow, ICMP, true, [4]Action{Pass, Refuse, Refuse, Refuse}},
		{LayerConnect, TCP, true, [4]Action{RelayRead, Hold, Hold, Refuse}},
		{LayerConnect, TCP, false, [4]Action{RelayRead, Hold, Refuse, Refuse}},
		{LayerRequest, TCP, true, [4]Action{Pass, Refuse, Refuse, Refuse}},
		{LayerHello, TCP, true, [4]Action{Pass, Refuse, Refuse, Refuse}},
		{LayerRaw, UDP, true, [4]Action{Pass, Refuse, Refuse, Refuse}},
		{LayerRun, "", true, [4]Action{Pass, Refuse, Refuse, Refuse}},
		{0, TCP, true, [4]Action{Refuse, Refuse, Refuse, Refuse}},
	} {
		for i, w := range words {
			if a := Act(c.layer, c.proto, Outcome{Word: w}, c.pinned); a != c.want[i] {
				t.Errorf("%s %s %s, pinned %v: %s, want %s", c.layer, c.proto, w, c.pinned, a, c.want[i])
			}
		}
	}
	if a := Act(LayerFlow, TCP, Outcome{Word: Provisional, Granted: true}, true); a != Hold {
		t.Errorf("a provisional grant: %s", a)
	}
	if a := Act(LayerFlow, UDP, Outcome{Word: Allow, Literal: true}, false); a != RelayUnread {
		t.Errorf("a literal: %s", a)
	}
}

func TestClassify(t *testing.T) {
	h := &Host{
		Addrs:     []netip.Addr{netip.MustParseAddr("5.6.7.8"), netip.MustParseAddr("fe80::1%eth0")},
		OnLink:    []netip.Prefix{netip.MustParsePrefix("5.6.7.8/24")},
		Session:   []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24"), netip.MustParsePrefix("fd0c:a11::/64")},
		Synthetic: []netip.Prefix{netip.MustParsePrefix("240.1.0.0/16")},
	}
	for addr, want := range map[string]Class{
		"1.1.1.1": Global, "9.255.255.255": Global, "10.0.0.0": Private, "10.255.255.255": Private, "11.0.0.0": Global,
		"172.15.255.255": Global, "172.16.0.0": Private, "172.31.255.255": Private, "172.32.0.0": Global,
		"100.63.255.255": Global, "100.64.0.0": Private, "100.127.255.255": Private, "100.128.0.0": Global,
		"192.0.0.8": Private, "192.0.0.9": Global, "192.0.0.10": Global, "192.0.0.11": Private, "192.0.0.192": Restricted,
		"192.0.2.1": Private, "198.51.100.1": Private, "203.0.113.1": Private, "198.18.0.1": Private, "198.20.0.0": Global,
		"126.255.255.255": Global, "127.0.0.1": Restricted, "127.255.255.255": Restricted, "128.0.0.0": Global,
		"169.254.169.254": Restricted, "100.100.100.200": Restricted, "168.63.129.16": Restricted, "fd00:ec2::254": Restricted,
		"0.0.0.0": Never, "0.1.2.3": Never, "224.0.0.1": Never, "240.0.0.1": Never, "255.255.255.255": Never, "223.255.255.255": Global,
		"240.1.0.5": Global, "::": Never, "::1": Restricted, "::2": Never, "::ffff:127.0.0.1": Restricted, "::ffff:8.8.8.8": Global,
		"fe80::5": Restricted, "fe80::5%eth0": Restricted, "fec0::1": Private, "fc00::1": Private, "ff02::1": Never,
		"2001:db8::1": Private, "3fff::1": Private, "2001::1": Private, "2606:4700:4700::1111": Global,
		"64:ff9b::7f00:1": Restricted, "64:ff9b::808:808": Global, "64:ff9b::a00:1": Private, "2002:7f00:1::": Restricted,
		"2002:a9fe:a9fe::1": Restricted, "2002:808:808::1": Global, "64:ff9b::506:708": Restricted, "64:ff9b::ac8:1": Private,
		"5.6.7.8": Restricted, "5.6.7.9": Private, "5.6.8.9": Global, "10.200.0.1": Never, "10.200.1.1": Private, "fd0c:a11::2": Never,
	} {
		if addr == "64:ff9b::ac8:1" { // 10.200.0.1 of the session, through NAT64
			want = Never
		}
		if c, why := Classify(netip.MustParseAddr(addr), h); c != want || (why == "") != (c == Global) {
			t.Errorf("%s: class %d (%s), want %d", addr, c, why, want)
		}
	}
	if c, _ := Classify(netip.Addr{}, nil); c != Never {
		t.Error("no address has a class")
	}
}

func TestOpenAddr(t *testing.T) {
	s := rules(t,
		`allow dns.query == "db.test" || network.hostname == "db.test" @ allow_private_ips: true, ports: [5432]`,
		`allow dns.query == "web.test" || http.host == "web.test"`,
		`allow cidr("10.9.0.0/16").contains(network.ip)`)
	for _, c := range []struct {
		name, addr string
		want       bool
	}{
		{"web.test", pub, true},
		{"web.test", "10.0.0.1", false},
		{"web.test", "127.0.0.1", false},
		{"web.test", "10.9.0.1", true},
		{"db.test", "10.0.0.1", true},
		{"db.test", "fd00::1", true},
		{"db.test", "127.0.0.1", false},
		{"db.test", "169.254.169.254", false},
		{"db.test", "::ffff:127.0.0.1", false},
		{"db.test", "0.0.0.0", false},
	} {
		if ok, reason := s.OpenAddr(dnsFacts(c.name, "A"), netip.MustParseAddr(c.addr), nil); ok != c.want || ok == (reason != "") {
			t.Errorf("%s at %s: %v (%s)", c.name, c.addr, ok, reason)
		}
	}
}

// A snapshot and its facts may be used by many at once.
func TestConcurrent(t *testing.T) {
	s := rules(t, `block http.path == "/x" || tls.alpn.exists(p, p == "evil")`, `allow http.path.matches("^/y") || domain(http.host, "a.test")`)
	f := helloFacts(pub, 443, "a.test")
	want := s.Step(f)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if o := s.Step(f); o.Word != want.Word || o.RuleID() != want.RuleID() {
					t.Errorf("got %+v, want %+v", o, want)
					return
				}
			}
		})
	}
	wg.Wait()
}
