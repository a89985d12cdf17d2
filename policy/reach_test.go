package policy

import (
	"fmt"
	"strings"
	"testing"
)

func reached(list []Reach) string {
	var out []string
	for _, r := range list {
		out = append(out, r.To+": "+strings.Join(r.Allow, ", "))
	}
	return strings.Join(out, "\n")
}

func TestReach(t *testing.T) {
	src, err := AllowTargets([]string{"a.test", ".b.test", "git.test:22", "192.0.2.0/24:25"})
	if err != nil {
		t.Fatal(err)
	}
	rules := Source{Path: "r.yaml", Data: []byte(`version: "1"
rules:
  - {id: no, action: block, priority: 1, condition: 'dns.query == "c.test" || network.hostname == "c.test"'}
  - {id: c, action: allow, condition: 'dns.query == "c.test" || network.hostname == "c.test"'}
  - {id: p, action: allow, condition: 'dns.query == "p.test" || http.host == "p.test" && http.path == "/x"'}
`)}
	snap, err := Load([]Source{src, rules})
	if err != nil {
		t.Fatal(err)
	}
	list, more := snap.Reach(Who{Agent: "a", Session: "s"}, nil)
	got := reached(list)
	want := "a.test: https, http\n.b.test: https, http\ngit.test: tcp/22\n192.0.2.0/24: tcp/25, udp/25"
	if more || !strings.HasPrefix(got, want) || strings.Contains(got, "c.test") {
		t.Errorf("%s\nmore %v, want\n%s", got, more, want)
	}
}

func TestReachIsBounded(t *testing.T) {
	var targets []string
	for i := range MaxReach + 1 {
		targets = append(targets, fmt.Sprintf("h%d.test", i))
	}
	src, _ := AllowTargets(targets)
	snap, err := Load([]Source{src})
	if err != nil {
		t.Fatal(err)
	}
	if list, more := snap.Reach(Who{}, nil); len(list) != MaxReach || !more {
		t.Errorf("%d, %v", len(list), more)
	}
	var b strings.Builder
	b.WriteString("version: \"1\"\nrules:\n")
	for i := range maxReachTries {
		fmt.Fprintf(&b, "  - {id: r%d, action: allow, condition: 'network.hostname == \"one.test\" && network.port == %d'}\n", i, i+1)
	}
	if snap, err = Load([]Source{{Path: "r.yaml", Data: []byte(b.String())}}); err != nil {
		t.Fatal(err)
	}
	if _, more := snap.Reach(Who{}, nil); !more {
		t.Error("as many ports as there are were all tried")
	}
}
