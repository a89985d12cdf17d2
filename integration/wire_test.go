package integration

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// A path that is narrower than QUIC's datagrams: the client's kernel hears of it
// as it would without us, with its width, and HTTP/3 carries a body through it.
func TestQUICTooBig(t *testing.T) {
	b := harness.New(t)
	const name, width = "api.allowed.test", 1400
	script := resolved(name)
	for _, a := range b.AddrsOf(name) {
		b.PathMTU(t, a, width)
		script += fmt.Sprintf("%s toobig %s %s 1420\n", harness.Probe, at(a, 443), name)
	}
	script += fmt.Sprintf("%[1]s h3 usual 300000 https://%[2]s/usual; %[1]s h3 connected 300000 https://%[2]s/connected\n", harness.Probe, name)
	r := b.Sandbox(append(harness.Allow(name), "--no-proxy"), "sh", "-c", script)
	lines := r.Lines(t)[2:]
	if len(lines) != 4 {
		t.Fatalf("%d lines: %s%s", len(lines), r.Stdout, r.Stderr)
	}
	for i, want := range []string{fmt.Sprint(width), fmt.Sprint(width), "/usual 300000", "/connected 300000"} {
		if !lines[i].OK || !strings.Contains(lines[i].Data, want) {
			t.Errorf("%+v, want %s", lines[i], want)
		}
	}
	if d := b.Denials(t, r.Name, nil); len(d) != 0 {
		t.Errorf("denials: %v", d)
	}
}

// Urgent data of TCP is data at its place, both ways: what was judged is what
// the server reads, whether it takes urgent data out of the stream or not, and
// what the server calls urgent is not lost.
func TestUrgentData(t *testing.T) {
	b := harness.New(t)
	const name, p = "api.allowed.test", 2470
	b.Stand(t, p, func(c *net.TCPConn) {
		buf := make([]byte, 64)
		n, err := io.ReadAtLeast(c, buf, 7)
		if err != nil {
			return
		}
		io.WriteString(c, "got "+string(buf[:n])+" ")
		raw, err := c.SyscallConn()
		if err != nil {
			return
		}
		raw.Control(func(fd uintptr) { unix.Sendto(int(fd), []byte("U"), unix.MSG_OOB, nil) })
		io.WriteString(c, " end")
		io.Copy(io.Discard, c) // until the client has gone
	})
	rules := b.Rules("u.yaml", "  - {id: no-secret, priority: 1, action: block, condition: 'http.path.startsWith(\"/secret\")'}\n"+allowRule(name))
	k := b.Canary(t)
	head := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: " + name + "\r\nConnection: close\r\n\r\n"
	}
	for _, addr := range b.AddrsOf(name) {
		cut := func(s string, n int) string { return fmt.Sprintf("%x !%x %x", s[:n], s[n:n+1], s[n+1:]) }
		script := resolved(name) + fmt.Sprintf("P='%s urgent'; $P %s %s; $P %s %s; $P %s %s\n", harness.Probe,
			at(addr, p), cut("*1U34\r\n", 2), // raw
			at(addr, 80), cut(head("/seXcret/open"), 7), // no secret with the urgent octet at its place
			at(addr, 80), cut(head("/secret/"+k.Word), 7)) // and none without it
		r := b.Sandbox([]string{"-q", "--no-proxy", "--rules", rules}, "sh", "-c", script)
		lines := r.Lines(t)[2:]
		if len(lines) != 3 {
			t.Fatalf("%d lines: %s%s", len(lines), r.Stdout, r.Stderr)
		}
		if l := lines[0]; !l.OK || l.Data != "got *1U34\r\n U end" {
			t.Errorf("raw: %+v", l)
		}
		if l := lines[1]; !l.OK || !strings.Contains(l.Data, "origin "+name+" /seXcret/open") {
			t.Errorf("an urgent octet in a path: %+v", l)
		}
		if l := lines[2]; !strings.Contains(l.Data, "403") {
			t.Errorf("an urgent octet in a blocked path: %+v", l)
		}
		b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Rule == "no-secret" && strings.HasPrefix(e.Path, "/secret/") })
	}
	k.MustNotArrive(t)
	for _, q := range b.Origins.Requests() {
		if q.URI != "/seXcret/open" {
			t.Errorf("arrived: %+v", q)
		}
	}
}

// A rule on the question alone opens no flow without the grant of direct_ip, and
// with it only the ports that it names: TCP, UDP and echo.
func TestDeniedWithoutTheGrant(t *testing.T) {
	b := harness.New(t)
	const name = "api.allowed.test"
	b.PingSockets(t)
	echo := port(b.Ports.Echo)
	rule := "  - {id: a, action: allow, condition: 'dns.query == \"" + name + "\"'%s}\n"
	for _, c := range []struct {
		what, egress string
		granted      bool
	}{
		{"by name", "", false},
		{"by name, with the port", ", egress: {ports: [" + echo + "]}", false},
		{"granted, another port", ", egress: {mode: direct_ip, ports: [9999]}", false},
		{"granted", ", egress: {mode: direct_ip, ports: [" + echo + "]}", true},
	} {
		rules := b.Rules("g.yaml", fmt.Sprintf(rule, c.egress))
		k, m := b.Canary(t), b.Mark()
		script, n := resolved(name), 0
		for _, a := range b.AddrsOf(name) {
			n += 2
			script += fmt.Sprintf("%[1]s bytes %[2]s %[3]x; %[1]s udp %[4]s %[2]s; %[1]s icmp %[4]s %[5]s\n",
				harness.Probe, at(a, b.Ports.Echo), k.Word+"\r\n", k.Word, a)
		}
		r := b.Sandbox([]string{"-q", "--no-proxy", "--rules", rules}, "sh", "-c", script)
		for _, l := range r.Lines(t)[2:] {
			if l.OK != (c.granted && l.Op != "icmp") || !l.OK && l.MS > refusedAt {
				t.Errorf("%s: %+v", c.what, l)
			}
		}
		for _, proto := range []string{"tcp", "udp", "icmp"} {
			d := b.Denials(t, r.Name, func(e harness.Event) bool {
				return e.Layer == "flow" && e.Protocol == proto && e.ID != "" && e.Rule != ""
			})
			if denied := len(d) == 2; denied == (c.granted && proto != "icmp") {
				t.Errorf("%s: denials of %s: %v\n%v", c.what, proto, d, r.Stderr)
			}
		}
		if c.granted {
			k.MustArrive(t)
			continue
		}
		k.MustNotArrive(t)
		b.MustBeQuiet(t, m, func(f world.Frame) bool {
			return onlyQuestions(b.World)(f) && !slices.Contains(b.AddrsOf(name), f.Dst.Addr())
		})
	}
}

// K11: the kernel's socket tables do not tell whose a ping is, so its process is
// hidden: an allow that asks for one grants nothing, and a block that does holds.
func TestK11ProcessOfAPing(t *testing.T) {
	b := harness.New(t)
	const name = "api.allowed.test"
	b.PingSockets(t)
	ping := `dns.query == "` + name + `" || network.hostname == "` + name + `" && network.protocol == "icmp"`
	for what, items := range map[string]string{
		"default policy": "  - {id: mine, action: allow, condition: '" + strings.ReplaceAll(ping, `"icmp"`, `"icmp" && process.name == "probe"`) + "'}\n",
		"others": "  - {id: others, priority: 1, action: block, condition: 'network.protocol == \"icmp\" && process.name != \"probe\"'}\n" +
			"  - {id: a, action: allow, condition: '" + ping + "'}\n",
	} {
		k, m := b.Canary(t), b.Mark()
		script := resolved(name)
		for _, a := range b.AddrsOf(name) {
			script += fmt.Sprintf("%s icmp %s %s\n", harness.Probe, k.Word, a)
		}
		r := b.Sandbox([]string{"-q", "--no-proxy", "--rules", b.Rules("p.yaml", items)}, "sh", "-c", script)
		lines := r.Lines(t)
		if len(lines) != 4 {
			t.Fatalf("%s: %d lines: %s%s", what, len(lines), r.Stdout, r.Stderr)
		}
		harness.Refused(t, lines[2:], refusedAt)
		for _, a := range b.AddrsOf(name) {
			e := b.OneDenial(t, r.Name, "", func(e harness.Event) bool { return e.Protocol == "icmp" && e.IP == a.String() })
			if e.Process != nil || e.Rule != what {
				t.Errorf("%s: %s", what, e)
			}
		}
		k.MustNotArrive(t)
		b.MustBeQuiet(t, m, onlyQuestions(b.World))
	}
}
