package integration

import (
	"fmt"
	"io"
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

// slowName gives a name addresses that the resolver tells only after release;
// asked is closed by the first question.
func slowName(b *harness.Bed, name string) (addrs []netip.Addr, asked chan struct{}, release func()) {
	addrs = []netip.Addr{b.Addr4(), b.Addr6()}
	asked, hold := make(chan struct{}), make(chan struct{})
	var once, done sync.Once
	b.DNS.Set(name, world.Records{Func: func(_ int, q dns.Question) []dns.RR {
		once.Do(func() { close(asked) })
		<-hold
		hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
		switch q.Qtype {
		case dns.TypeA:
			return []dns.RR{&dns.A{Hdr: hdr, A: addrs[0].AsSlice()}}
		case dns.TypeAAAA:
			return []dns.RR{&dns.AAAA{Hdr: hdr, AAAA: addrs[1].AsSlice()}}
		}
		return nil
	}})
	return addrs, asked, func() { done.Do(func() { close(hold) }) }
}

// A denials counts denied attempts and those whose process is not told: a busy
// machine may be too slow to find it while a packet waits, but not each time.
type denials struct{ all, nameless int }

// one demands one denial; its process, where it is told, must be exe.
func (d *denials) one(t *testing.T, b *harness.Bed, session, exe string, match func(harness.Event) bool) harness.Event {
	t.Helper()
	e := b.OneDenial(t, session, "", match)
	d.all++
	if e.Process == nil {
		d.nameless++
	} else if !strings.HasSuffix(e.Process.Exe, exe) {
		t.Errorf("audit: the denial names another than %s: %s", exe, e)
	}
	return e
}

// mostNamed demands the process of two denials in three.
func (d *denials) mostNamed(t *testing.T) {
	t.Helper()
	if d.nameless*3 > d.all {
		t.Errorf("audit: %d of %d denials name no process", d.nameless, d.all)
	}
}

// spoken makes a word the line of a protocol that is neither TLS nor HTTP: so
// that, if it were allowed, it would leave at once.
func spoken(word string) string { return "EHLO " + word + "\r\n" }

// blockRule blocks what is known of a name at every layer.
func blockRule(name string) string {
	return fmt.Sprintf("  - id: not-that\n    priority: 1\n    condition: 'dns.query == %[1]q || network.hostname == %[1]q'\n    action: block\n", name)
}

// K15: rules are replaced while the resolver thinks. What the old ones judged
// is judged again before anything of it leaves.
func TestK15ReloadWhileANameIsResolved(t *testing.T) {
	b := harness.New(t)
	n := 0
	var d denials
	defer func() { d.mostNamed(t) }()
	for after, rules := range map[string]func(string) string{
		"the allow is gone": func(string) string { return allowRule("api.allowed.test") },
		"a block came":      func(name string) string { return blockRule(name) + allowRule(name) },
	} {
		for way, args := range map[string][]string{
			"transparent": {"--noproxy", "*", "-4", "http://NAME/WORD"}, "transparent v6": {"--noproxy", "*", "-6", "http://NAME/WORD"},
			"absolute form": {"http://NAME/WORD"}, "tunnel": {"-p", "http://NAME/WORD"}, "tunnel of TLS": {"https://NAME/WORD"},
		} {
			n++
			name := fmt.Sprintf("slow%d.allowed.test", n)
			t.Run(after+", "+way, func(t *testing.T) {
				k := b.Canary(t)
				addrs, asked, release := slowName(b, name)
				defer release()
				file := b.Rules("k15.yaml", allowRule(name))
				p := b.StartSandbox([]string{"-q", "--rules", file},
					curl(strings.Split(strings.NewReplacer("NAME", name, "WORD", k.Word).Replace(strings.Join(args, "\n")), "\n")...)...)
				select {
				case <-asked:
				case <-p.Done():
					t.Fatalf("no question: %+v", p.Wait())
				case <-time.After(harness.Patience):
					t.Fatal("no question")
				}
				m := b.Mark()
				b.Rules("k15.yaml", rules(name))
				b.Outcall("--session", p.Name, "rules", "reload").Must(t, 0)
				release()
				r := p.Wait()
				if strings.Contains(r.Stdout, "origin ") {
					t.Errorf("answered: %s", r.Stdout)
				}
				k.MustNotArrive(t)
				b.MustBeQuiet(t, m, func(f world.Frame) bool { return !slices.Contains(addrs, f.Dst.Addr()) })
				e := d.one(t, b, r.Name, "/curl", func(e harness.Event) bool { return e.RecordType != "AAAA" })
				if e.Host != name && e.Query != name {
					t.Errorf("denied was %s", e)
				}
			})
		}
	}
}

// K15: rules are replaced between an answer and the connection to it. The pin
// is gone, and an allow that comes back finds it again.
func TestK15ReloadBetweenAnswerAndSYN(t *testing.T) {
	b := harness.New(t)
	const name = "api.allowed.test"
	k := b.Canary(t)
	file := b.Rules("k15.yaml", allowRule(name))
	targets := at(b.V4(t, name), b.Ports.Echo) + " " + at(b.V6(t, name), b.Ports.Echo)
	script := fmt.Sprintf("%[1]s dns udp 10.200.0.1:53 A %[2]s; %[1]s dns udp 10.200.0.1:53 AAAA %[2]s; read x; %[1]s tcp '%[3]s' %[4]s; echo tried; read x; %[1]s tcp '%[5]s' %[4]s",
		harness.Probe, name, spoken(k.Word), targets, spoken("again"))
	cmd, session := b.SandboxCommand([]string{"-q", "--no-proxy", "--rules", file}, "sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	p.Name = session
	p.WaitFor(b.V6(t, name).String())
	m := b.Mark()
	b.Rules("k15.yaml", blockRule(name)+allowRule(name))
	b.Outcall("--session", session, "rules", "reload").Must(t, 0)
	io.WriteString(in, "go\n")
	p.WaitFor("tried")
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
	var d denials
	for _, a := range b.AddrsOf(name) {
		d.one(t, b, session, "/probe", func(e harness.Event) bool { return e.IP == a.String() && e.Layer == "flow" })
	}
	b.Rules("k15.yaml", allowRule(name))
	b.Outcall("--session", session, "rules", "reload").Must(t, 0)
	io.WriteString(in, "go\n")
	in.Close()
	lines := p.Wait().Lines(t)
	for _, l := range lines[len(lines)-2:] {
		if !l.OK || l.Data != spoken("again") {
			t.Errorf("allowed again: %+v", l)
		}
	}
}
