package suggest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"outcall/policy"
	"outcall/policy/replay"
)

// A logger writes the lines that the data path would.
type logger struct {
	replay.Log
	id int
}

func (l *logger) verdict(e policy.Event, layer, verdict string) string {
	l.id++
	e.ID, e.Event, e.Layer, e.Verdict = fmt.Sprintf("d-%08x", l.id), "verdict", layer, verdict
	if verdict != replay.Allow && e.Rule == "" {
		e.Rule = policy.DefaultPolicy
	}
	e.Process = &policy.Process{Exe: "/usr/bin/agent"}
	l.Add(e)
	return e.ID
}

func (l *logger) question(name, verdict string) {
	l.verdict(policy.Event{Query: name, RecordType: "A", Protocol: "udp"}, "dns", verdict)
}

// tls is a question, a flow, and its ClientHello.
func (l *logger) tls(name string, port uint16, verdict string) {
	l.question(name, verdict)
	if verdict == replay.Deny {
		return
	}
	e := policy.Event{Host: name, IP: "93.184.216.34", Port: port, Protocol: "tcp"}
	e.ID = l.verdict(e, "flow", verdict)
	if verdict == replay.WouldDeny {
		h := e
		h.Event, h.Layer, h.Verdict, h.SNI, h.Rule = "verdict", "hello", verdict, name, policy.DefaultPolicy
		l.Add(h)
	}
	l.Add(policy.Event{Event: "end", ID: e.ID, Layer: "hello", SNI: name})
}

func (l *logger) raw(name string, port uint16, verdict string) {
	l.question(name, verdict)
	id := l.verdict(policy.Event{Host: name, IP: "93.184.216.34", Port: port, Protocol: "tcp"}, "flow", verdict)
	l.Add(policy.Event{Event: "end", ID: id, Layer: "raw", BytesIn: 9})
}

func (l *logger) from(t *testing.T, opt Options) *Suggestion {
	t.Helper()
	s, err := From(&l.Log, opt)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := policy.Load([]policy.Source{{Path: "suggested.yaml", Data: []byte(s.YAML())}})
	if err != nil {
		t.Fatalf("what is printed does not load: %v\n%s", err, s.YAML())
	}
	if len(snap.Rules()) != len(s.Rules) {
		t.Errorf("%d rules load of %d\n%s", len(snap.Rules()), len(s.Rules), s.YAML())
	}
	return s
}

func ids(s *Suggestion) []string {
	var out []string
	for _, r := range s.Rules {
		out = append(out, r.ID)
	}
	return out
}

func wantIDs(t *testing.T, s *Suggestion, want ...string) {
	t.Helper()
	if got := ids(s); !slices.Equal(got, want) {
		t.Errorf("rules %q, want %q\n%s", got, want, s.YAML())
	}
}

// One rule for each host and kind of use, the narrowest first, and nothing
// changes.
func TestExact(t *testing.T) {
	var l logger
	l.tls("api.test", 443, replay.Allow)
	l.tls("api.test", 8443, replay.Allow)
	l.raw("git.test", 22, replay.Allow)
	l.question("only.test", replay.Allow)
	l.verdict(policy.Event{Query: "mail.test", RecordType: "MX"}, "dns", replay.Allow)
	l.verdict(policy.Event{IP: "93.184.216.99", Port: 9000, Protocol: "tcp"}, "flow", replay.Allow)
	l.verdict(policy.Event{Host: "web.test", IP: "93.184.216.3", Port: 80, Protocol: "tcp", Method: "GET", Path: "/x"}, "request", replay.Allow)
	l.verdict(policy.Event{Host: "con.test", IP: "93.184.216.4", Port: 443, Protocol: "tcp", Method: "CONNECT"}, "connect", replay.Allow)
	l.verdict(policy.Event{Host: "db.test", IP: "10.1.2.3", Port: 5432, Protocol: "tcp"}, "flow", replay.Allow)
	l.tls("evil.test", 443, replay.Deny)
	s := l.from(t, Options{})
	wantIDs(t, s, "name-only.test", "type-mail.test-mx", "web-con.test", "web-web.test", "web-api.test", "tcp-db.test-private",
		"tcp-git.test", "addr-93.184.216.99-tcp")
	if s.Proof() != "0 of 13 attempts change verdict" {
		t.Error(s.Proof())
	}
	if text := s.YAML(); !strings.Contains(text, "#   dns evil.test A by /usr/bin/agent") {
		t.Errorf("the denial is not told:\n%s", text)
	}
}

// A connection that was opened and closed, as clients do that try two
// addresses at once, is no reason for more than the other one needs.
func TestConnectionWithoutBytes(t *testing.T) {
	var l logger
	l.tls("api.test", 443, replay.Allow)
	id := l.verdict(policy.Event{Host: "api.test", IP: "2606:2800:220:1::7", Port: 443, Protocol: "tcp"}, "flow", replay.Allow)
	l.Add(policy.Event{Event: "end", ID: id, Layer: "raw"})
	wantIDs(t, l.from(t, Options{}), "web-api.test")
}

// The host's services, names that only an upstream proxy resolves, and literal
// restricted addresses keep what they had.
func TestSpecialAddresses(t *testing.T) {
	var l logger
	l.verdict(policy.Event{Host: policy.HostName, IP: "10.200.0.254", Port: 5432, Protocol: "tcp"}, "flow", replay.Allow)
	l.verdict(policy.Event{Host: "far.test", IP: "240.0.0.7", Port: 443, Protocol: "tcp"}, "flow", replay.Allow)
	l.verdict(policy.Event{IP: "169.254.169.254", Port: 80, Protocol: "tcp"}, "flow", replay.Allow)
	l.verdict(policy.Event{IP: "192.168.1.1", Port: 80, Protocol: "tcp", Structural: true, Rule: policy.DefaultPolicy}, "flow", replay.Deny)
	s := l.from(t, Options{})
	wantIDs(t, s, "web-far.test", "tcp-host.outcall.internal", "addr-169.254.169.254-tcp")
	if s.Proof() != "0 of 4 attempts change verdict" {
		t.Error(s.Proof())
	}
	if text := s.YAML(); strings.Contains(text, "allow_private_ips") {
		t.Errorf("private addresses are opened:\n%s", text)
	}
}

// What observe let pass is told apart, and becomes rules only where asked for;
// what a block denies never does.
func TestC12WouldDenyStandsApart(t *testing.T) {
	var l logger
	l.tls("api.test", 443, replay.Allow)
	l.tls("new.test", 443, replay.WouldDeny)
	l.verdict(policy.Event{Query: "ads.test", RecordType: "A", Rule: "no-ads"}, "dns", replay.WouldDeny)
	s := l.from(t, Options{})
	wantIDs(t, s, "web-api.test")
	text := s.YAML()
	for _, want := range []string{"0 of 5 attempts change verdict", "#   dns new.test A", `#     dns.query == "new.test" || http.host == "new.test"`, "#   dns ads.test A by /usr/bin/agent (rule no-ads)"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	s = l.from(t, Options{WouldDeny: true})
	wantIDs(t, s, "web-api.test", "web-new.test-observed")
	if want := "0 of 5 attempts change verdict, and 2 that enforce would have denied are allowed"; s.Proof() != want {
		t.Errorf("%q, want %q", s.Proof(), want)
	}
	if text := s.YAML(); !strings.Contains(text, "# From here on: enforce would have denied it.") || !strings.Contains(text, "ads.test") {
		t.Errorf("what was taken in does not stand apart:\n%s", text)
	}
}

// Three names that were allowed make a group, two do not; nor do names that
// only share a public suffix, also a private one; nor one that observe alone
// let pass.
func TestGroup(t *testing.T) {
	for _, c := range []struct {
		name         string
		allow, would []string
		want         []string
	}{
		{"three", []string{"a.x.test", "b.x.test", "c.x.test"}, nil, []string{"below-x.test-web-443"}},
		{"the longest parent", []string{"a.y.x.test", "b.y.x.test", "c.y.x.test"}, nil, []string{"below-y.x.test-web-443"}},
		{"the parent itself", []string{"a.x.test", "b.x.test", "c.x.test", "x.test"}, nil, []string{"below-x.test-web-443"}},
		{"two", []string{"a.x.test", "b.x.test"}, nil, []string{"web-a.x.test", "web-b.x.test"}},
		{"two and the parent", []string{"a.x.test", "b.x.test", "x.test"}, nil, []string{"web-a.x.test", "web-b.x.test", "web-x.test"}},
		{"two children of three names", []string{"a.x.test", "b.a.x.test", "c.d.x.test"}, nil, []string{"web-a.x.test", "web-b.a.x.test", "web-c.d.x.test"}},
		{"a public suffix", []string{"a.co.uk", "b.co.uk", "c.co.uk"}, nil, []string{"web-a.co.uk", "web-b.co.uk", "web-c.co.uk"}},
		{"a private suffix", []string{"a.github.io", "b.github.io", "c.github.io"}, nil, []string{"web-a.github.io", "web-b.github.io", "web-c.github.io"}},
		{"top level", []string{"a.test", "b.test", "c.test"}, nil, []string{"web-a.test", "web-b.test", "web-c.test"}},
		{"observed is no sibling", []string{"a.x.test", "b.x.test"}, []string{"c.x.test"}, []string{"web-a.x.test", "web-b.x.test", "web-c.x.test-observed"}},
	} {
		var l logger
		for _, n := range c.allow {
			l.tls(n, 443, replay.Allow)
		}
		for _, n := range c.would {
			l.tls(n, 443, replay.WouldDeny)
		}
		s := l.from(t, Options{Group: true, WouldDeny: true})
		if got := ids(s); !slices.Equal(got, c.want) {
			t.Errorf("%s: rules %q, want %q", c.name, got, c.want)
		}
		if len(s.Changed) > 0 {
			t.Errorf("%s: %s", c.name, s.Proof())
		}
	}
}

// A group that would let through what was denied, or what was only observed,
// is taken apart.
func TestGroupNeverWidensOverADenial(t *testing.T) {
	for _, verdict := range []string{replay.Deny, replay.WouldDeny} {
		var l logger
		for _, n := range []string{"a.x.test", "b.x.test", "c.x.test"} {
			l.tls(n, 443, replay.Allow)
		}
		l.question("d.x.test", verdict)
		s := l.from(t, Options{Group: true})
		wantIDs(t, s, "web-a.x.test", "web-b.x.test", "web-c.x.test")
		if s.Proof() != "0 of 7 attempts change verdict" {
			t.Error(s.Proof())
		}
	}
}

// Where no rule can tell what was allowed from what was denied, the denial
// holds, and what it costs is told.
func TestConflictIsToldAndDenied(t *testing.T) {
	var l logger
	l.tls("api.test", 443, replay.Allow)
	l.verdict(policy.Event{Query: "api.test", RecordType: "A"}, "dns", replay.Deny) // another program's
	s := l.from(t, Options{})
	wantIDs(t, s)
	if s.Proof() != "2 of 3 attempts change verdict" || len(s.Changed) != 2 {
		t.Errorf("%s, %v", s.Proof(), s.Changed)
	}
}

// Names in a log were chosen by the command: none of them gets out of its
// place in the file.
func TestC12HostileNames(t *testing.T) {
	evil := []string{
		"a\"b.test", "x' || true || 'x.test", "a\n  - id: evil\n    action: allow\n    condition: 'true'.test", "*.test", "a..test", ".test", "A.test",
		"a.test.", strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 130) + "test", "\u202e.test", "a\\.test", "$x.test", "a b.test",
	}
	for _, name := range evil {
		var l logger
		l.tls(name, 443, replay.Allow)
		l.verdict(policy.Event{Query: "ok.test", RecordType: name}, "dns", replay.Allow)
		l.verdict(policy.Event{IP: name, Port: 443, Protocol: "tcp"}, "flow", replay.Allow)
		l.verdict(policy.Event{Host: "ok.test", IP: "93.184.216.34", Port: 9, Protocol: name, SNI: name}, "flow", replay.Allow)
		for i := range l.Attempts {
			l.Attempts[i].Event.Process = &policy.Process{Exe: "/bin/" + name}
		}
		s := l.from(t, Options{Group: true, WouldDeny: true})
		for _, r := range s.Rules {
			if !strings.Contains(r.ID, "ok.test") {
				t.Errorf("%q became rule %q", name, r.ID)
			}
		}
		for line := range strings.Lines(s.YAML()) {
			if l := strings.TrimSpace(line); strings.HasPrefix(l, "- id: ") && !strings.Contains(l, "ok.test") {
				t.Errorf("%q wrote a line %q", name, l)
			}
		}
	}
}

// A log of nothing gives no rules.
func TestEmpty(t *testing.T) {
	var l logger
	s := l.from(t, Options{})
	wantIDs(t, s)
	if s.Proof() != "0 of 0 attempts change verdict" {
		t.Error(s.Proof())
	}
	l.Add(policy.Event{Event: "overflow", Layer: "dns", Count: 7})
	l.verdict(policy.Event{}, "run", replay.Allow)
	if text := l.from(t, Options{}).YAML(); !strings.Contains(text, "7 more were too many") || !strings.Contains(text, "1 action of the agent API") {
		t.Error(text)
	}
}

// A run of many names is no matter of minutes.
func TestManyNames(t *testing.T) {
	var l logger
	const names = 3000
	for i := range names {
		l.tls(fmt.Sprintf("n%d.x.test", i), 443, replay.Allow)
	}
	s := l.from(t, Options{Group: true})
	wantIDs(t, s, "below-x.test-web-443")
	if s := l.from(t, Options{}); len(s.Rules) != names || len(s.Changed) > 0 {
		t.Errorf("%d rules, %s", len(s.Rules), s.Proof())
	}
}

// Whatever stands in a log, the rules load, say nothing of what is no name,
// and let nothing through that was denied.
func FuzzLog(f *testing.F) {
	f.Add("a.test", "A", "93.184.216.34", "tcp", "GET", "/x", uint16(443), uint8(2), uint8(0), uint8(3))
	f.Add("a' || true || 'b", "TXT", "::1", "udp", "", "", uint16(0), uint8(1), uint8(1), uint8(5))
	f.Add("host.outcall.internal", "", "10.200.0.254", "icmp", "CONNECT", "", uint16(5432), uint8(4), uint8(2), uint8(6))
	verdicts := []string{replay.Allow, replay.WouldDeny, replay.Deny, ""}
	f.Fuzz(func(t *testing.T, name, typ, ip, proto, method, path string, port uint16, layer, verdict, content uint8) {
		var l logger
		e := policy.Event{Query: name, Host: name, RecordType: typ, IP: ip, Protocol: proto, Method: method, Path: path, Port: port, SNI: name}
		id := l.verdict(e, policy.Layer(layer).String(), verdicts[verdict%4])
		l.Add(policy.Event{Event: "end", ID: id, Layer: policy.Layer(content).String(), SNI: name, BytesOut: 1})
		l.tls("sure.test", 443, replay.Allow)
		for _, opt := range []Options{{}, {WouldDeny: true, Group: true}} {
			s := l.from(t, opt)
			b := newBuilder(&l.Log, opt)
			snap, err := load(s.Rules)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range l.Attempts {
				if v, ok := a.Judge(snap); ok && v.Allow && !b.wanted(a) {
					t.Errorf("%s %s was %q and is allowed by %s", a.Layer, target(a), a.Verdict, v.Rule)
				}
			}
			for _, r := range s.Rules {
				if r.want.kind != kindAddr && !isHost(r.want.host) {
					t.Errorf("%q is in a rule", r.want.host)
				}
			}
		}
	})
}
