package integration

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// question packs a question for an address, changed by edit.
func question(t *testing.T, name string, edit func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	if edit != nil {
		edit(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// named packs a question for a name given as labels, which may have any octets.
func named(labels ...string) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, l := range labels {
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0, 0, 1, 0, 1)
}

// K12, D12: whatever a question carries beside an allowed name stays here.
func TestK12NothingOfAQuestionIsForwarded(t *testing.T) {
	b := harness.New(t)
	k, mark := b.Canary(t), b.Mark()
	const name = "api.allowed.test"
	opt := func(o ...dns.EDNS0) func(*dns.Msg) {
		return func(m *dns.Msg) { m.SetEdns0(1232, true); m.IsEdns0().Option = o }
	}
	cases := []struct {
		what string
		msg  []byte
		want string // the answer's rcode
	}{
		{"client subnet", question(t, name, opt(&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: []byte{1, 2, 3, 4}})), "NOERROR"},
		{"local option", question(t, name, opt(&dns.EDNS0_LOCAL{Code: 65001, Data: []byte(k.Word)})), "NOERROR"},
		{"cookie", question(t, name, opt(&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex.EncodeToString([]byte(k.Word[:8]))})), "NOERROR"},
		{"padding", question(t, name, opt(&dns.EDNS0_PADDING{Padding: []byte(k.Word)})), "NOERROR"},
		{"checking disabled", question(t, name, func(m *dns.Msg) { m.CheckingDisabled, m.Zero, m.AuthenticatedData = true, true, true }), "NOERROR"},
		{"letter case", question(t, "aPi.AlLoWeD.tEsT", nil), "NOERROR"},
		{"TSIG", question(t, name, func(m *dns.Msg) {
			m.Extra = []dns.RR{&dns.TSIG{Hdr: dns.RR_Header{Name: k.Word + ".", Rrtype: dns.TypeTSIG, Class: dns.ClassANY}, Algorithm: dns.HmacSHA256}}
		}), "FORMERR"},
		{"record beside it", question(t, name, func(m *dns.Msg) {
			m.Extra = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: name + ".", Rrtype: dns.TypeTXT, Class: 1}, Txt: []string{k.Word}}}
		}), "FORMERR"},
		{"two questions", question(t, name, func(m *dns.Msg) {
			m.Question = append(m.Question, dns.Question{Name: k.Word + ".evil.test.", Qtype: 1, Qclass: 1})
		}), "FORMERR"},
		{"trailing octets", append(question(t, name, nil), k.Word...), "FORMERR"},
		{"class CH", question(t, name, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), "REFUSED"},
		{"update", question(t, name, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
		{"notify", question(t, name, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), "NOTIMP"},
		{"NUL in a label", named("api", "allowed", "test\x00", "evil", "test"), "FORMERR"},
		{"dot in a label", named("api.allowed", "test"), "FORMERR"},
		{"escaped dot", named(`api\.allowed`, "test"), "FORMERR"},
		{"suffix", question(t, "api.allowed.test."+k.Word+".evil.test", nil), "NXDOMAIN"},
		{"prefix", question(t, k.Word+"api.allowed.test", nil), "NXDOMAIN"},
		{"pointer", append([]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'a', 'p', 'i'}, 0xc0, 12, 0, 1, 0, 1), "FORMERR"},
	}
	for _, server := range []string{"10.200.0.1:53", "8.8.8.8:53", "[2606:4700:4700::1111]:53"} {
		args := []string{"dnsraw", server}
		for _, c := range cases {
			args = append(args, hex.EncodeToString(c.msg))
		}
		_, lines := b.Attempts(append(harness.Allow(name), "--no-proxy"), args...)
		for i, c := range cases {
			if !lines[i].OK || !strings.HasPrefix(lines[i].Data, c.want) {
				t.Errorf("%s by %s: %q %s, want %s", c.what, server, lines[i].Data, lines[i].Err, c.want)
			}
		}
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, mark, onlyQuestions(b.World))
	same := true
	for _, q := range b.DNS.Log() {
		m := q.Msg
		if q.Name != name || m.Opcode != dns.OpcodeQuery || m.CheckingDisabled || m.Zero || m.AuthenticatedData ||
			m.Question[0].Qclass != dns.ClassINET || len(m.Answer)+len(m.Ns) != 0 {
			t.Errorf("upstream got %v", m)
		}
		if o := m.IsEdns0(); o != nil && (len(o.Option) != 0 || o.Do()) || len(m.Extra) > 1 {
			t.Errorf("options went upstream: %v", m.Extra)
		}
		same = same && m.Question[0].Name == "aPi.AlLoWeD.tEsT."
	}
	if same {
		t.Error("the letter case of the question went upstream, or no question did")
	}
}

// Many questions in one TCP segment: each is judged, each has its answer and
// its line.
func TestDNSPipelined(t *testing.T) {
	b := harness.New(t)
	var all []byte
	const denied = 20
	for i := range denied {
		for _, n := range []string{fmt.Sprintf("p%d.evil.test", i), "api.allowed.test"} {
			q := question(t, n, nil)
			all = append(binary.BigEndian.AppendUint16(all, uint16(len(q))), q...)
		}
	}
	r, lines := b.Attempts(append(harness.Allow("api.allowed.test"), "--no-proxy"), "dnspipe", "8.8.8.8:53", fmt.Sprint(2*denied), hex.EncodeToString(all))
	if !lines[0].OK {
		t.Fatalf("%+v", lines[0])
	}
	if n := len(b.Denials(t, r.Name, func(e harness.Event) bool { return e.Layer == "dns" })); n != denied {
		t.Errorf("%d lines for %d denied questions", n, denied)
	}
	if b.DNS.Asked("evil.test") {
		t.Error("a denied question left")
	}
}

// D10, D11, K14: what an answer leads to. A link that a rule blocks stops the
// answer; an address that is not public leaves it.
func TestAnswersThatLeadElsewhere(t *testing.T) {
	b := harness.New(t)
	inward := []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "100.64.0.1", "::1", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "10.200.0.1", "10.77.0.2"}
	var addrs []netip.Addr
	for _, a := range inward {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	b.DNS.Set("rebind.allowed.test", world.Records{Addrs: addrs})
	b.DNS.Set("alias.allowed.test", world.Records{CNAME: "evil.test"})
	rules := b.Rules("cname.yaml", "  - id: no-evil\n    priority: 1\n    condition: 'domain(dns.query, \"evil.test\")'\n    action: block\n"+
		allowRule("alias.allowed.test")+allowRule("rebind.allowed.test"))
	m := b.Mark()
	script := fmt.Sprintf("for t in A AAAA; do %[1]s dns udp 10.200.0.1:53 $t alias.allowed.test rebind.allowed.test; done; %[1]s tcp x %[2]s",
		harness.Probe, strings.Join(func() (out []string) {
			for _, a := range addrs {
				out = append(out, at(a, 80))
			}
			return out
		}(), " "))
	r := b.Sandbox([]string{"-q", "--no-proxy", "--rules", rules}, "sh", "-c", script).Must(t, 0)
	for _, l := range r.Lines(t) {
		if l.Op == "tcp" && l.OK || l.Op == "dns" && (strings.Contains(l.Data, "A=") || strings.Contains(l.Data, "AAAA=")) {
			t.Errorf("%+v", l)
		}
	}
	b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Rule == "no-evil" && e.Query == "alias.allowed.test" })
	b.MustBeQuiet(t, m, onlyQuestions(b.World))
}

// K17: every question of a flood is in the audit's sums.
func TestK17SumsAreWhatWasAsked(t *testing.T) {
	b := harness.New(t)
	const asked = 4000
	r, lines := b.Attempts(append(harness.Allow("api.allowed.test"), "--no-proxy"), "sweep", "10.200.0.1:53", fmt.Sprint(asked), "sum.evil.test")
	var sent, answered, counted int
	if _, err := fmt.Sscanf(lines[0].Data, "sent %d answered %d", &sent, &answered); err != nil {
		t.Fatal(err)
	}
	for _, e := range b.Events(t, r.Name) {
		if e.Layer == "dns" && (e.Denied() || e.Event == "limit" || e.Event == "overflow") {
			counted += max(e.Count, 1)
		}
	}
	// What the kernel's own queues drop before anyone sees it has no answer.
	if counted < answered || counted > asked || answered == 0 {
		t.Errorf("asked %d, answered %d, the audit counts %d", asked, answered, counted)
	}
	if b.DNS.Asked("sum.evil.test") {
		t.Error("a denied question left")
	}
}
