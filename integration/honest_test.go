package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// Two allowed names on one address, and one beside them that is not: each
// allowed one works on every way and under its own name, whichever was asked
// for last; of the other nothing arrives.
func TestSeveralNamesOnOneAddress(t *testing.T) {
	b := harness.New(t)
	const one, two, other = "one.shared.test", "two.shared.test", "evil.shared.test"
	shared := world.Records{Addrs: []netip.Addr{b.Addr4(), b.Addr6()}, TTL: 60}
	for _, n := range []string{one, two, other} {
		b.DNS.Set(n, shared)
	}
	echo := port(b.Ports.Echo)
	flags := harness.Allow(one, two, one+":"+echo)
	var specs []string
	for _, n := range []string{one, two, one} { // one of them is asked for again behind the other
		for _, s := range keptSpecs(b, n) {
			if n == one || !strings.HasSuffix(s, ","+echo) {
				specs = append(specs, s)
			}
		}
	}
	k := keep(t, b, flags, specs)
	k.mustLive(b, 1, func(string) bool { return true })
	k.end()
	// A browser uses one connection for both names; under HTTP that shows, and is judged.
	_, lines := b.Attempts(append(flags, "--no-proxy"), "bytes", one+":80",
		fmt.Sprintf("%x", "GET /first HTTP/1.1\r\nHost: "+one+"\r\n\r\nGET /second HTTP/1.1\r\nHost: "+two+"\r\nConnection: close\r\n\r\n"))
	if !lines[0].OK {
		t.Errorf("two names on one connection: %+v", lines[0])
	}
	r := b.Sandbox(append(flags, "--no-proxy"), harness.Probe, "h3", "usual", "0", "https://"+one+"/", "https://"+two+"/", "https://"+one+"/").Must(t, 0)
	for _, l := range r.Lines(t) {
		if !l.OK {
			t.Errorf("HTTP/3: %+v", l)
		}
	}

	m, word := b.Mark(), b.Canary(t)
	script := resolved(one, two)
	for _, a := range shared.Addrs {
		script += fmt.Sprintf("%[1]s tls %[2]s %[3]s; %[1]s quic %[3]s %[4]s %[2]s %[6]s denied; curl -sS -m 5 --resolve %[2]s:80:%[5]s http://%[2]s/%[6]s\n",
			harness.Probe, other, at(a, 443), one, strings.TrimSuffix(at(a, 1), ":1"), word)
	}
	script += fmt.Sprintf("curl -sS -m 5 -x http://10.200.0.1:8080 http://%[1]s/%[2]s; curl -sS -m 5 -px http://10.200.0.1:8080 https://%[1]s/%[2]s; true", other, word)
	r = b.Sandbox(append(flags, "-e", "NO_PROXY=*"), "sh", "-c", script).Must(t, 0)
	for _, l := range r.Lines(t)[4:] {
		if l.OK {
			t.Errorf("the name that is not allowed: %+v", l)
		}
	}
	for _, layer := range []string{"hello", "request", "connect"} {
		b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Layer == layer && (e.Host == other || e.SNI == other) })
	}
	word.MustNotArrive(t)
	for _, f := range b.Since(t, m) {
		if strings.Contains(string(f.Payload), other) {
			t.Errorf("of the name that is not allowed: %s", f)
		}
	}
	for _, h := range b.Origins.Hellos() {
		if h.SNI == other {
			t.Errorf("a ClientHello of it: %+v", h)
		}
	}
}

// A rotation gives each question about a name addresses that nobody had before,
// as a CDN does.
type rotation struct {
	mu     sync.Mutex
	v4, v6 []netip.Addr // given so far
}

// first are the addresses that were given first, one of each family.
func (r *rotation) first() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return []netip.Addr{r.v4[0], r.v6[0]}
}

// rotate sets the rotation of a name: its own, or that of names it leads to.
func rotate(b *harness.Bed, name, edge string, ttl uint32) *rotation {
	r := &rotation{}
	b.DNS.Set(name, world.Records{Func: func(n int, q dns.Question) (out []dns.RR) {
		r.mu.Lock()
		defer r.mu.Unlock()
		owner := q.Name
		hdr := func(t uint16) dns.RR_Header {
			return dns.RR_Header{Name: owner, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
		}
		if edge != "" {
			out = append(out, &dns.CNAME{Hdr: hdr(dns.TypeCNAME), Target: fmt.Sprintf("e%d.%s.", n, edge)})
			owner = fmt.Sprintf("e%d.%s.", n, edge)
		}
		switch q.Qtype {
		case dns.TypeA:
			r.v4 = append(r.v4, b.Addr4())
			out = append(out, &dns.A{Hdr: hdr(dns.TypeA), A: r.v4[len(r.v4)-1].AsSlice()})
		case dns.TypeAAAA:
			r.v6 = append(r.v6, b.Addr6())
			out = append(out, &dns.AAAA{Hdr: hdr(dns.TypeAAAA), AAAA: r.v6[len(r.v6)-1].AsSlice()})
		}
		return out
	}})
	return r
}

// A name whose addresses change with every question, by itself and through a
// CNAME of the day: new connections work on every way, those that are open go
// on, and an address of an hour ago (in questions) is still the name's.
func TestRotatingAddresses(t *testing.T) {
	b := harness.New(t)
	const name, alias, rounds = "cdn.allowed.test", "www.allowed.test", 12
	own, led := rotate(b, name, "", 0), rotate(b, alias, "edge.cdn.test", 1)
	echo := port(b.Ports.Echo)
	flags := harness.Allow(name, name+":"+echo, alias, alias+":"+echo)
	specs := append(keptSpecs(b, name), keptSpecs(b, alias)...)
	k := keep(t, b, flags, specs)
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); for n in %s %s; do curl -sS -m 20 https://$n/$i; curl -sS -m 20 --noproxy '*' -4 https://$n/$i; curl -sS -m 20 --noproxy '*' -6 http://$n/$i; done; done", rounds, name, alias)
	r := b.Outcall("exec", k.Name, "--", "sh", "-c", script).Must(t, 0)
	if n := strings.Count(r.Stdout, "origin "); n != 6*rounds || r.Stderr != "" {
		t.Errorf("%d of %d requests were answered: %s", n, 6*rounds, r.Stderr)
	}
	used := map[netip.Addr]bool{}
	for _, q := range b.Origins.Requests() {
		if q.Host == name {
			used[q.Addr.Addr()] = true
		}
	}
	if len(used) < 3*rounds {
		t.Errorf("%d addresses of a name that has a new one for each question", len(used))
	}
	k.mustLive(b, 1, func(string) bool { return true })
	for n, rot := range map[string]*rotation{name: own, alias: led} {
		for _, a := range rot.first() {
			r := b.Outcall("exec", k.Name, "--", harness.Probe, "tls", n, at(a, 443))
			if l := r.Lines(t); len(l) != 1 || !l[0].OK {
				t.Errorf("%s at its first address %s: %v %s", n, a, l, r.Stderr)
			}
		}
	}
	if d := b.Denials(t, k.Name, nil); len(d) != 0 {
		t.Errorf("denials: %v", d)
	}
	k.end()
}

// patient is how long a client may take that has found an address not to
// answer: curl and Go turn to the other family after 300 ms, Node after 250.
const patient = 10 * time.Second

// Happy eyeballs: where one family of a name's addresses is refused, is not
// reachable or does not answer, the usual clients come by the other, with the
// proxy and without.
func TestHappyEyeballs(t *testing.T) {
	b := harness.New(t)
	const only4, only6 = 2460, 2466
	b.StandHTTP(t, "tcp4", only4)
	b.StandHTTP(t, "tcp6", only6)
	for i, c := range []struct {
		what   string
		port   uint16
		lose   func(a netip.Addr) bool // which of the name's addresses are lost
		told   bool
		silent bool
	}{
		{"IPv6 is refused", only4, nil, false, false},
		{"IPv4 is refused", only6, nil, false, false},
		{"IPv6 is unreachable", 80, netip.Addr.Is6, true, false},
		{"IPv4 is unreachable", 80, netip.Addr.Is4, true, false},
		{"IPv6 does not answer", 80, netip.Addr.Is6, false, true},
		{"IPv4 does not answer", 80, netip.Addr.Is4, false, true},
	} {
		name := fmt.Sprintf("eyes%d.allowed.test", i)
		addrs := []netip.Addr{b.Addr4(), b.Addr6()}
		b.DNS.Set(name, world.Records{Addrs: addrs, TTL: 60})
		for _, a := range addrs {
			if c.lose != nil && c.lose(a) {
				b.Vanish(t, c.told, a)
			}
		}
		for client := range eyeClients {
			if client != "python" || !c.silent { // it waits for as long as its kernel does, here as anywhere
				comeBy(t, b, c.what, client, name, c.port)
			}
		}
	}
}

// eyeClients ask $AT for a path that tells who they are.
var eyeClients = map[string]string{
	"curl":   `curl -sS -m 20 http://$AT/curl`,
	"node":   `node -e 'fetch("http://" + process.env.AT + "/node").then(r => r.text()).then(t => process.stdout.write(t))'`,
	"go":     harness.Probe + " get http://$AT/go",
	"python": `/usr/bin/python3 -c 'import os, urllib.request; print(urllib.request.urlopen("http://" + os.environ["AT"] + "/python").read().decode())'`,
}

// comeBy demands that a client is answered soon, with the proxy and without.
func comeBy(t *testing.T, b *harness.Bed, what, client, name string, p uint16) {
	t.Helper()
	to := name + ":" + port(p)
	for _, more := range []string{"--no-proxy", "-q"} {
		r := b.Sandbox(append(harness.Allow(name, to), more, "-e", "AT="+to), "sh", "-c", eyeClients[client])
		if r.Code != 0 || !strings.Contains(r.Stdout, "origin "+name) || !strings.Contains(r.Stdout, "/"+client) || r.Took > patient {
			t.Errorf("%s, %s %s: %d after %v\n%s%s", what, client, more, r.Code, r.Took, r.Stdout, r.Stderr)
		}
		if d := b.Denials(t, r.Name, nil); len(d) != 0 {
			t.Errorf("%s, %s %s: denials: %v", what, client, more, d)
		}
	}
}

// Java, nginx and browsers keep an address for longer than its TTL, and longer
// than its pin lives. The first packet to it is then held while the name is
// judged and resolved again, and the address stays the name's although the
// answers have another one by now, or none. One whose name the rules no longer
// have is not reached, and nobody outside is asked about it.
func TestCachesLongerThanTheTTL(t *testing.T) {
	b := harness.New(t)
	const kept, gone, dropped = "kept.allowed.test", "gone.allowed.test", "dropped.allowed.test"
	rot := map[string]*rotation{kept: rotate(b, kept, "", 0), gone: rotate(b, gone, "", 0), dropped: rotate(b, dropped, "", 0)}
	rules := b.Rules("r.yaml", allowRule(kept)+allowRule(gone)+allowRule(dropped))
	canaries := map[string]*world.Canary{kept: b.Canary(t), gone: b.Canary(t), dropped: b.Canary(t)}
	script := resolved(kept, gone, dropped) + "echo resolved\nread go\n"
	session := b.NewName()
	cmd := b.Program(harness.OutcallShort, "run", "-q", "--no-proxy", "--name", session, "--rules", rules, "--", "sh", "-c", script+"eval \"$go\"")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	p.WaitFor("resolved\n")
	var attempts strings.Builder
	for _, n := range []string{kept, gone, dropped} {
		for _, a := range rot[n].first() {
			word := canaries[n].Word
			fmt.Fprintf(&attempts, "%[1]s udp %[2]s %[3]s; %[1]s bytes %[3]s %[4]x; %[1]s tls %[5]s %[6]s; ", harness.Probe, word, at(a, b.Ports.Echo), word+"\r\n", n, at(a, 443))
		}
	}
	harness.MustEventually(t, harness.Patience, "the pins have run out", func() bool {
		return !strings.Contains(b.Outcall("--session", session, "rules", "active").Must(t, 0).Stdout, "allowed.test")
	})
	b.DNS.Set(gone, world.Records{Func: func(int, dns.Question) []dns.RR { return nil }})
	b.Rules("r.yaml", allowRule(kept)+allowRule(gone))
	b.Outcall("--session", session, "rules", "reload").Must(t, 0)
	m, asked := b.Mark(), len(b.DNS.Log())
	fmt.Fprintln(in, attempts.String())
	lines := p.Wait().Must(t, 0).Lines(t)[6:]
	if len(lines) != 18 {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	for i, l := range lines {
		if l.OK != (i < 12) || l.MS > 2500 {
			t.Errorf("%+v", l)
		}
	}
	for _, q := range b.DNS.Log()[asked:] {
		if q.Name != kept && q.Name != gone {
			t.Errorf("%s was asked for, which no rule allows any more", q.Name)
		}
	}
	canaries[kept].MustArrive(t)
	canaries[gone].MustArrive(t)
	canaries[dropped].MustNotArrive(t)
	b.MustBeQuiet(t, m, func(f world.Frame) bool { return !slices.Contains(rot[dropped].first(), f.Dst.Addr()) })
	for n, r := range rot {
		for _, a := range r.first() {
			if d := b.Denials(t, session, func(e harness.Event) bool { return e.IP == a.String() }); (len(d) == 0) != (n != dropped) {
				t.Errorf("%s at %s: denials %v", n, a, d)
			}
		}
	}
}
