package integration

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// N4: a client that waits for the server to speak first, or only begins to
// speak, on a port where the word waits for what it says. The wait is bounded,
// and nothing of the client's leaves; what the server says first comes in.
func TestN4ServerSpeaksFirst(t *testing.T) {
	b := harness.New(t)
	const a = "api.allowed.test"
	rules := b.Rules("n4.yaml", "  - id: n4\n    action: allow\n    condition: 'dns.query == \""+a+"\" || tls.sni == \""+a+"\"'\n")
	k, m := b.Canary(t), b.Mark()
	begun := []string{"", hex.EncodeToString([]byte("\x16\x03\x01\x02\x00\x01" + k.Word)), hex.EncodeToString([]byte("GET /" + k.Word)), hex.EncodeToString([]byte(spoken(k.Word)))}
	script, attempts := "mkdir /tmp/n4; "+harness.Probe+" dns udp 10.200.0.1:53 A "+a+" >/dev/null; "+harness.Probe+" dns udp 10.200.0.1:53 AAAA "+a+" >/dev/null\n", 0
	for _, port := range []uint16{443, 80, 22} { // at 22 the server does speak
		for _, to := range []string{"- " + at(b.V4(t, a), port), "- " + at(b.V6(t, a), port), fmt.Sprintf("10.200.0.1:8080 %s:%d", a, port)} {
			for _, said := range begun {
				script += fmt.Sprintf("%s await %s %s >/tmp/n4/%02d &\n", harness.Probe, to, said, attempts)
				attempts++
			}
		}
	}
	r := b.Sandbox([]string{"-q", "--rules", rules}, "sh", "-c", script+"wait; cat /tmp/n4/*")
	lines := r.Lines(t)
	if len(lines) != attempts {
		t.Fatalf("N4: %d answers to %d attempts: %s %s", len(lines), attempts, r.Stdout, r.Stderr)
	}
	for i, l := range lines {
		if l.MS > 20000 {
			t.Errorf("N4: %s, begun with %q: held for %.0f ms", l.Target, begun[i%len(begun)], l.MS)
		}
	}
	k.MustNotArrive(t)
	for _, f := range b.Since(t, m) {
		if len(f.Payload) > 0 && !onlyQuestions(b.World)(f) {
			t.Errorf("N4: before the verdict this got out: %s", f)
		}
	}
	if n := count(b.Denials(t, r.Name, nil)); n != attempts {
		t.Errorf("N4: %d denials of %d attempts", n, attempts)
	}
}

// spellings are the ways in which C libraries read an address.
func spellings(text string) []string {
	addr := netip.MustParseAddr(text)
	if addr.Is6() {
		return []string{"[" + text + "]", "[" + addr.StringExpanded() + "]"}
	}
	a := addr.As4()
	n := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	return []string{text, text + ".", fmt.Sprint(n), fmt.Sprintf("%#x", n), fmt.Sprintf("%#o", n),
		fmt.Sprintf("%#04o.%#04o.%#04o.%#04o", a[0], a[1], a[2], a[3]), fmt.Sprintf("%#x.%#x.%#x.%#x", a[0], a[1], a[2], a[3]),
		fmt.Sprintf("%d.%d.%d", a[0], a[1], n&0xffff), fmt.Sprintf("%d.%d", a[0], n&0xffffff), fmt.Sprintf("%#x.%d.%#o", a[0], a[1], n&0xffff),
		"[::ffff:" + text + "]", fmt.Sprintf("[64:ff9b::%x:%x]", n>>16, n&0xffff), fmt.Sprintf("[2002:%x:%x::]", n>>16, n&0xffff)}
}

// N12: the clouds' metadata services, in every spelling and by names that lead
// there, straight, through the proxy and by CONNECT: a rule on everything and
// observing open none.
func TestN12MetadataInEverySpelling(t *testing.T) {
	b := harness.New(t)
	services := []string{metadata4, "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"}
	var hosts, names []string
	for i, s := range services {
		name := fmt.Sprintf("m%d.allowed.test", i)
		b.DNS.Set(name, world.Records{Addrs: []netip.Addr{netip.MustParseAddr(s)}, TTL: -1})
		hosts, names = append(hosts, spellings(s)...), append(names, name)
	}
	b.DNS.Set("metadata.google.internal", world.Records{Addrs: []netip.Addr{netip.MustParseAddr(metadata4)}, TTL: -1})
	names = append(names, "metadata.google.internal")
	hosts = append(hosts, names...)
	all := b.Rules("n12.yaml", "  - id: all\n    condition: 'true'\n    action: allow\n    egress: {allow_private_ips: true}\n")
	for mode, flags := range map[string][]string{"observe": {"-q", "--mode", "observe"}, "true": {"-q", "--rules", all}} {
		k, m := b.Canary(t), b.Mark()
		script := ""
		for _, h := range hosts {
			for _, way := range []string{"--noproxy '*'", ""} {
				script += fmt.Sprintf("curl -sf -m 10 -o /dev/null %s 'http://%s/%s' && echo 'through: %s %s'\n", way, h, k.Word, h, way)
			}
			script += fmt.Sprintf("%[1]s connect 10.200.0.1:8080 'CONNECT %[2]s:80 HTTP/1.1' %[3]s\n%[1]s connect 10.200.0.1:8080 'GET http://%[2]s/%[4]s HTTP/1.1'\n",
				harness.Probe, h, hex.EncodeToString([]byte("GET /"+k.Word+" HTTP/1.0\r\n\r\n")), k.Word)
		}
		r := b.Sandbox(flags, "sh", "-c", script+"curl --version")
		mustLack(t, "N12 "+mode, r.Stdout, "through")
		mustContain(t, "N12 "+mode, r.Stdout, "libcurl")
		lines := r.Lines(t)
		if len(lines) != 2*len(hosts) {
			t.Fatalf("N12 %s: %d lines: %s", mode, len(lines), r.Stdout)
		}
		for _, l := range lines {
			if l.OK && strings.HasPrefix(l.Data, "200") {
				t.Errorf("N12 %s: %s got through: %q", mode, l.Target, l.Data)
			}
		}
		k.MustNotArrive(t)
		b.MustBeQuiet(t, m, onlyQuestions(b.World))
		for _, s := range services {
			for _, layer := range []string{"flow", "connect"} {
				b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Structural && e.Layer == layer && e.IP == s && e.Port == 80 })
			}
		}
		for _, n := range names {
			b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Structural && e.Query == n })
		}
	}
}
