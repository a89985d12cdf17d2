package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// refusedAt is at most how long a datagram waits for its refusal: a client that
// hears of it falls back at once. It is far above what it takes.
const refusedAt = 1500

// resolved asks for names as any client does, in the two families.
func resolved(names ...string) string {
	var s strings.Builder
	for _, n := range names {
		fmt.Fprintf(&s, "%[1]s dns udp 10.200.0.1:53 A %[2]s; %[1]s dns udp 10.200.0.1:53 AAAA %[2]s\n", harness.Probe, n)
	}
	return s.String()
}

// N5: HTTP/3 by an allowed name works without a word, with a body that the
// client's kernel is asked to cut up; by another name it is refused at once.
func TestN5HTTP3ByName(t *testing.T) {
	b := harness.New(t)
	flags := append(harness.Allow("api.allowed.test"), "--no-proxy")
	r := b.Sandbox(flags, "sh", "-c", fmt.Sprintf("%[1]s h3 usual 500000 https://api.allowed.test/up; %[1]s h3 connected 0 https://api.allowed.test/down", harness.Probe))
	for _, l := range r.Lines(t) {
		if !l.OK || !strings.HasPrefix(l.Data, "origin api.allowed.test /") {
			t.Errorf("%+v", l)
		}
	}
	if !strings.Contains(r.Stdout, "/up 500000") {
		t.Errorf("the body did not arrive: %s", r.Stdout)
	}
	n := 0
	for _, q := range b.Origins.Requests() {
		if q.Proto == "HTTP/3.0" && q.SNI == "api.allowed.test" {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d requests over HTTP/3 arrived", n)
	}
	flows, ends := 0, 0
	for _, e := range b.Events(t, r.Name) {
		if e.Protocol == "udp" && e.Event == "verdict" && e.Verdict == "allow" && e.Port == 443 && e.Host == "api.allowed.test" {
			flows++
		}
		if e.Protocol == "udp" && e.Event == "end" && e.BytesOut > 0 && e.BytesIn > 0 {
			ends++
		}
	}
	if flows != 2 || ends != 2 {
		t.Errorf("%d verdicts and %d ends of UDP flows in the audit", flows, ends)
	}

	m := b.Mark()
	r, lines := b.Attempts(append(harness.Allow("shared.allowed.test"), "--no-proxy"), "h3", "connected", "0", "https://evil.test/")
	harness.Refused(t, lines, 20000)
	_ = r
	// The denied name at an address that an allowed one has: only QUIC tells.
	script := resolved("shared.allowed.test")
	for _, a := range b.AddrsOf("shared.evil.test") {
		script += fmt.Sprintf("%s quic %s shared.allowed.test shared.evil.test x denied\n", harness.Probe, at(a, 443))
	}
	r = b.Sandbox(append(harness.Allow("shared.allowed.test"), "--no-proxy"), "sh", "-c", script)
	harness.Refused(t, r.Lines(t)[2:], refusedAt)
	b.SomeDenial(t, r.Name, func(e harness.Event) bool {
		return e.Layer == "hello" && e.SNI == "shared.evil.test" && e.Protocol == "udp"
	})
	b.MustBeQuiet(t, m, onlyQuestions(b.World))
}

// N5, K18: what a hostile client says over QUIC to an address that an allowed
// name has.
func TestN5K18HostileQUIC(t *testing.T) {
	b := harness.New(t)
	const a, e = "shared.allowed.test", "shared.evil.test"
	kinds := strings.Fields("denied halves second-half-first version-2 coalesced in-one-packet wrong-key no-name version-0 version-unknown retry early-data short-header behind-an-allowed-one")
	k := b.Canary(t)
	m := b.Mark()
	script := resolved(a)
	for _, addr := range b.AddrsOf(a) {
		script += fmt.Sprintf("%s quic %s %s %s %s %s\n", harness.Probe, at(addr, 443), a, e, k.Word, strings.Join(kinds, " "))
	}
	r := b.Sandbox(append(harness.Allow(a), "--no-proxy"), "sh", "-c", script)
	lines := r.Lines(t)[2:]
	if len(lines) != 2*len(kinds) {
		t.Fatalf("%d answers to %d attempts", len(lines), 2*len(kinds))
	}
	harness.Refused(t, lines, refusedAt)
	for _, addr := range b.AddrsOf(a) {
		denied := b.Denials(t, r.Name, func(e harness.Event) bool {
			return e.Protocol == "udp" && e.IP == addr.String() && (e.Layer == "hello" || e.Layer == "raw")
		})
		n := 0
		for _, d := range denied {
			n += max(d.Count, 1)
		}
		if n < len(kinds) {
			t.Errorf("%s: %d denials of %d attempts: %v", addr, n, len(kinds), denied)
		}
	}
	k.MustNotArrive(t)
	// Of the one kind whose first datagram is allowed, that one leaves.
	out := map[netip.AddrPort]int{}
	b.MustBeQuiet(t, m, func(f world.Frame) bool {
		out[f.Dst]++
		return onlyQuestions(b.World)(f) || f.Proto == "udp" && f.Dst.Port() == 443 && out[f.Dst] == 1
	})
}

// K23: UDP under blocks that only later fields decide, and by their rules alone.
func TestK23UDPUnderBlocks(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	allow := `  - {id: a, action: allow, condition: 'dns.query == "` + a + `" || network.hostname == "` + a + `" && network.protocol == "udp"'}`
	for block, wantRaw := range map[string]bool{
		`tls.sni == "evil.test"`:                              true,
		`http.path == "/x"`:                                   true, // no field of raw datagrams
		`process.exe == "/nowhere" || tls.sni == "` + a + `"`: true,
		`tls.sni == "` + a + `" || network.protocol == "udp"`: false,
	} {
		rules := b.Rules("k23.yaml", "  - {id: b, action: block, condition: '"+block+"'}\n"+allow+"\n")
		k := b.Canary(t)
		m := b.Mark()
		script := resolved(a)
		for _, addr := range b.AddrsOf(a) {
			script += fmt.Sprintf("%[1]s udp %[2]s %[3]s\n%[1]s quic %[4]s %[5]s %[5]s %[2]s denied\n", harness.Probe, k.Word, at(addr, b.Ports.Echo), at(addr, 443), a)
		}
		r := b.Sandbox([]string{"--rules", rules, "--no-proxy"}, "sh", "-c", script)
		quic := block == `tls.sni == "evil.test"`
		lines := r.Lines(t)
		if len(lines) < 2 {
			t.Fatalf("%s: %d lines, code %d: %s", block, len(lines), r.Code, r.Stderr)
		}
		for _, l := range lines[2:] {
			switch {
			case l.Op == "udp" && l.OK != wantRaw:
				t.Errorf("%s: %+v", block, l)
			case l.Op != "udp" && !quic && (l.OK || l.Errno == 0):
				t.Errorf("%s: %+v", block, l)
			}
		}
		if !quic {
			b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Rule == "b" && e.Protocol == "udp" })
			b.MustBeQuiet(t, m, func(f world.Frame) bool {
				return onlyQuestions(b.World)(f) || wantRaw && f.Proto == "udp" && f.Dst.Port() == b.Ports.Echo
			})
		}
		if !wantRaw {
			k.MustNotArrive(t)
		}
	}
}

// UDP by name on any port, by a grant, and in observe; D5, N2: ports that no rule
// names.
func TestUDPByName(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	echo := b.Ports.Echo
	byName := b.Rules("name.yaml", `  - {id: a, action: allow, condition: 'dns.query == "`+a+`" || network.hostname == "`+a+`" && network.protocol == "udp"', egress: {ports: [`+port(echo)+`]}}`)
	granted := b.Rules("grant.yaml", `  - {id: a, action: allow, condition: 'dns.query == "`+a+`"', egress: {mode: direct_ip, ports: [`+port(echo)+`]}}`)
	for _, flags := range [][]string{{"--rules", byName}, {"--rules", granted}, {"--allow", a, "--mode", "observe"}} {
		k := b.Canary(t)
		script := resolved(a)
		for _, addr := range b.AddrsOf(a) {
			script += fmt.Sprintf("%s udp %s %s\n", harness.Probe, k.Word, at(addr, echo))
		}
		r := b.Sandbox(append(flags, "--no-proxy"), "sh", "-c", script)
		for _, l := range r.Lines(t)[2:] {
			if !l.OK || l.Data != k.Word {
				t.Errorf("%v: %+v", flags, l)
			}
		}
		k.MustArrive(t)
	}
	// What the client's kernel is asked to cut up arrives in its pieces.
	_, lines := b.Attempts([]string{"--rules", byName, "--no-proxy"}, "segments", a+":"+port(echo))
	if len(lines) != 1 || lines[0].Data != "10 of 1200" {
		t.Errorf("segments: %+v", lines)
	}
	k := b.Canary(t)
	m := b.Mark()
	script := resolved(a)
	for _, addr := range b.AddrsOf(a) {
		script += fmt.Sprintf("%s udp %s %s %s %s %s %s\n", harness.Probe, k.Word, at(addr, 443), at(addr, 784), at(addr, 853), at(addr, 5353), at(addr, 123))
	}
	r := b.Sandbox([]string{"--rules", byName, "--no-proxy"}, "sh", "-c", script)
	harness.Refused(t, r.Lines(t)[2:], refusedAt)
	for _, p := range []uint16{443, 784, 853, 5353, 123} {
		b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Protocol == "udp" && e.Port == p && e.Layer == "flow" })
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, onlyQuestions(b.World))
}

// N7: echo by rule goes out by the host's ping sockets and nothing else, and
// where there are none nothing does.
func TestN7Echo(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	rules := b.Rules("ping.yaml", `  - {id: a, action: allow, condition: 'dns.query == "`+a+`" || network.hostname == "`+a+`" && network.protocol == "icmp"'}`)
	flags := []string{"--rules", rules, "--no-proxy"}
	k := b.Canary(t)
	to := func(names ...string) (out []string) {
		for _, n := range names {
			for _, addr := range b.AddrsOf(n) {
				out = append(out, addr.String())
			}
		}
		return out
	}
	// all demands a line for each ping, in the order of what was pinged.
	all := func(lines []harness.Line, n int) []harness.Line {
		t.Helper()
		if len(lines) != n {
			t.Fatalf("%d answers to %d pings: %v", len(lines), n, lines)
		}
		return lines
	}
	script := resolved(a) + harness.Probe + " icmp " + k.Word + " " + strings.Join(append(to(a, "evil.test"), "10.200.0.1", "fd0c:a11::1"), " ")
	m := b.Mark()
	r := b.Sandbox(flags, "sh", "-c", script)
	harness.Refused(t, all(r.Lines(t)[2:], 6), refusedAt)
	b.SomeDenial(t, r.Name, func(e harness.Event) bool {
		return e.Protocol == "icmp" && e.Structural && strings.Contains(e.Reason, "ping_group_range")
	})
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, onlyQuestions(b.World))
	explained := func() string {
		return b.Outcall("explain", "--rules", rules, "--ip", b.V4(t, a).String(), "icmp://"+a).Must(t, 0).Stdout
	}
	mustContain(t, "explain without ping sockets", explained(), "icmp://"+a+": deny", "ping_group_range")

	b.PingSockets(t)
	k = b.Canary(t)
	r = b.Sandbox(flags, "sh", "-c", resolved(a)+harness.Probe+" icmp "+k.Word+" "+strings.Join(to(a), " "))
	for _, l := range all(r.Lines(t)[2:], 2) {
		if !l.OK || l.Data != k.Word {
			t.Errorf("%+v", l)
		}
	}
	k.MustArrive(t)
	k = b.Canary(t)
	m = b.Mark()
	r, lines := b.Attempts(flags, append([]string{"icmp", k.Word}, append(to("evil.test"), "10.200.0.1", "fd0c:a11::1", "10.200.0.254", "169.254.169.254")...)...)
	harness.Refused(t, all(lines, 6), refusedAt)
	for _, l := range lines {
		b.OneDenial(t, r.Name, "", func(e harness.Event) bool { return e.Protocol == "icmp" && e.IP == l.Target })
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, onlyQuestions(b.World))
	mustContain(t, "explain with ping sockets", explained(), "icmp://"+a+": allow")
	b.Setenv("HTTPS_PROXY=http://192.0.2.9:3128")
	mustContain(t, "explain behind a proxy", explained(), "icmp://"+a+": deny", "carries TCP only")
}

// What the far side does, the near side sees: a closed port, and a path that is
// narrower than the datagram.
func TestUDPErrorsOfTheOutside(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	rules := b.Rules("any.yaml", `  - {id: a, action: allow, condition: 'dns.query == "`+a+`" || network.hostname == "`+a+`" && network.protocol == "udp"'}`)
	script := resolved(a)
	for _, addr := range b.AddrsOf(a) {
		b.PathMTU(t, addr, 1300)
		script += fmt.Sprintf("%[1]s udp x %[2]s\n%[1]s udp %[3]s %[4]s\n", harness.Probe, at(addr, 9), strings.Repeat("y", 1400), at(addr, b.Ports.Echo))
	}
	r := b.Sandbox([]string{"--rules", rules, "--no-proxy"}, "sh", "-c", script)
	lines := r.Lines(t)[2:]
	for i := 0; i < len(lines); i += 2 {
		if lines[i].OK || !strings.Contains(lines[i].Err, "refused") {
			t.Errorf("a closed port: %+v", lines[i])
		}
		if !lines[i+1].OK || len(lines[i+1].Data) != 1400 {
			t.Errorf("a narrow path: %v %s, %d octets", lines[i+1].OK, lines[i+1].Err, len(lines[i+1].Data))
		}
	}
}
