package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// hostRules writes n rules for n hosts, from the first on.
func hostRules(first, n int) string {
	var b strings.Builder
	b.WriteString("version: \"1\"\nrules:\n")
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&b, "  - id: r%d\n    action: allow\n    condition: 'dns.query == \"h%d.test\" || http.host == \"h%d.test\"'\n    egress: {ports: [443, 80]}\n", i, i, i)
	}
	return b.String()
}

// hostSources spreads them over files.
func hostSources(n int) []Source {
	var out []Source
	for i := 0; i < n; i += 1000 {
		out = append(out, Source{Path: fmt.Sprintf("%02d.yaml", i/1000), Data: []byte(hostRules(i, min(1000, n-i)))})
	}
	return out
}

func loadHosts(b *testing.B, n int) *Snapshot {
	b.Helper()
	s, err := Load(hostSources(n))
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// benchStep judges a hello that the last rule allows.
func benchStep(b *testing.B, n int) {
	s := loadHosts(b, n)
	f := helloFacts(pub, 443, fmt.Sprintf("h%d.test", n-1))
	f.SetProcess(&Process{Exe: "/usr/bin/curl", Args: []string{"curl"}})
	b.ReportAllocs()
	for b.Loop() {
		if s.Step(f).Word != Allow {
			b.Fatal("not allowed")
		}
	}
}

func BenchmarkStep10(b *testing.B)    { benchStep(b, 10) }
func BenchmarkStep100(b *testing.B)   { benchStep(b, 100) }
func BenchmarkStep1000(b *testing.B)  { benchStep(b, 1000) }
func BenchmarkStep10000(b *testing.B) { benchStep(b, 10000) }

func BenchmarkFlow100(b *testing.B) {
	s := loadHosts(b, 100)
	f, a, c := flowFacts(pub, 443, TCP), netip.MustParseAddr(pub), cand("h99.test")
	b.ReportAllocs()
	for b.Loop() {
		if s.Flow(f, a, c, nil).Word != Open {
			b.Fatal("not open")
		}
	}
}

func BenchmarkLoad10000(b *testing.B) {
	src := hostSources(10000)
	for b.Loop() {
		if _, err := Load(src); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCells1000(b *testing.B) {
	s := loadHosts(b, 1000)
	a := netip.MustParseAddr(pub)
	for b.Loop() {
		if len(s.Cells(who, "h99.test", a, nil, nil)) == 0 {
			b.Fatal("no cells")
		}
	}
}
