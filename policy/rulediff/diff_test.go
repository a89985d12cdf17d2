package rulediff

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"outcall/policy"
	"outcall/policy/replay"
)

func load(t *testing.T, rules ...string) *policy.Snapshot {
	t.Helper()
	text := "version: \"1\"\nrules:\n"
	for i, r := range rules {
		action, cond, _ := strings.Cut(r, " ")
		text += fmt.Sprintf("  - id: r%d\n    action: %s\n    condition: '%s'\n", i, action, cond)
	}
	s, err := policy.Load([]policy.Source{{Path: "x.yaml", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func text(r *Report) string {
	var b bytes.Buffer
	r.WriteText(&b)
	return b.String()
}

// TestDerived: each way to change a rule set shows.
func TestDerived(t *testing.T) {
	site := `allow dns.query == "a.test" || http.host == "a.test" && network.port == 443`
	for _, c := range []struct {
		name string
		a, b []string
		want []string // parts of lines; none means that nothing changes
	}{
		{"nothing", []string{site}, []string{site}, nil},
		{"another way to say it", []string{site}, []string{strings.Replace(site, "443", "443 && true", 1)}, nil},
		{"a rule less", []string{site}, nil, []string{"allow → deny: dns dns.query=a.test dns.record_type=A ", "allow → deny: hello network.port=443"}},
		{"a port more", []string{site}, []string{strings.Replace(site, "== 443", "in [443, 8443]", 1)}, []string{"deny → allow: connect network.port=8443 http.host=a.test"}},
		{"a neighbour by mistake", []string{`allow domain(dns.query, "a.test")`}, []string{`allow dns.query.endsWith("a.test")`}, []string{"deny → allow: dns dns.query=xa.test"}},
		{"a block in front", []string{`allow domain(dns.query, "test")`, `allow run.tool == "x"`}, []string{`block dns.query == "x.test"`, `allow domain(dns.query, "test")`}, []string{"allow → deny: dns dns.query=x.test", "allow → deny: run process.exe"}},
		{"a network", []string{`allow cidr("192.0.2.0/24").contains(network.ip) && network.port == 1`}, []string{`allow cidr("192.0.2.0/25").contains(network.ip) && network.port == 1`}, []string{"allow → deny: flow network.ip=192.0.2.255 network.port=1"}},
		{"an agent", []string{`allow agent.name == "a" && dns.query == "a.test"`}, []string{`allow dns.query == "a.test"`}, []string{"deny → allow: dns dns.query=a.test dns.record_type=A process.exe=/outcall-other agent=outcall-other"}},
		{"a program", []string{`allow process.name == "git" && dns.query == "a.test"`}, []string{`allow dns.query == "a.test"`}, []string{"process.exe=/outcall-other"}},
		{"a method", []string{`allow http.host == "a.test"`}, []string{`block http.method == "POST"`, `allow http.host == "a.test"`}, []string{"allow → deny: request network.port=443 http.host=a.test http.method=POST"}},
		{"a method of an agent's", []string{`allow agent.name == "a" && http.host == "a.test"`}, []string{`block http.method == "POST"`, `allow agent.name == "a" && http.host == "a.test"`}, []string{"http.host=a.test http.method=POST http.path=/ process.exe=/outcall-other agent=a"}},
		{"everything", nil, []string{`allow true`}, []string{"deny → allow: dns dns.query=outcall-other.test"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Derived(load(t, c.a...), load(t, c.b...))
			if err != nil {
				t.Fatal(err)
			}
			if got := text(r); c.want == nil && (r.Changed != 0 || strings.Count(got, "\n") != 1) {
				t.Errorf("changes:\n%s", got)
			} else {
				for _, w := range c.want {
					if !strings.Contains(got, w) {
						t.Errorf("no %q in\n%s", w, got)
					}
				}
			}
		})
	}
}

// TestBound: what is not tried is told.
func TestBound(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf(`"n%d.test"`, i))
	}
	s := load(t, `allow dns.query in [`+strings.Join(names, ", ")+`] && network.port in [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]`)
	events, left := Events(s, s)
	if len(events) != maxPerRule || left != 1 {
		t.Errorf("%d events, %d rules left", len(events), left)
	}
	r, err := Derived(s, s)
	if err != nil || !strings.Contains(text(r), "1 rules have more events than are tried") {
		t.Errorf("%v: %s", err, text(r))
	}
}

func TestReplayed(t *testing.T) {
	var log replay.Log
	for i, e := range []policy.Event{
		{Layer: "dns", Verdict: "allow", Query: "a.test", RecordType: "A", Count: 3},
		{Layer: "dns", Verdict: "deny", Query: "b.test", RecordType: "A"},
		{Layer: "request", Verdict: "allow", Host: "a.test", Port: 80, Protocol: "tcp", Method: "GET", Path: "/x"},
		{Layer: "run", Verdict: "deny"},
	} {
		e.Event, e.ID = "verdict", fmt.Sprint(i)
		log.Add(e)
	}
	log.Add(policy.Event{Event: "overflow", Count: 7})
	a := load(t, `allow dns.query == "a.test" || http.host == "a.test"`)
	b := load(t, `allow dns.query == "b.test" || http.host == "a.test"`)
	want := `allow → deny: dns a.test A (r0 → default policy, 3 times)
deny → allow: dns b.test A (default policy → r0)
4 of 5 events change verdict, 0 keep it by another rule
1 attempts cannot be judged from the log
7 attempts are only counted in the log
`
	if got := text(Replayed(a, b, &log)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
