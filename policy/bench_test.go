package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
)

// A mix is a kind of rules, and a step that its last one allows.
type mix struct {
	name string
	cond func(i int) string
	step func(n int) *Facts // judged for n rules
	word Word
}

func knownHello(sni string) *Facts {
	f := helloFacts(pub, 443, sni)
	f.SetProcess(&Process{Exe: "/usr/bin/curl", Args: []string{"curl"}})
	return f
}

func knownRequest(path string) *Facts {
	f := requestFacts(pub, 80, HTTP{Host: "h.test", Method: "GET", Path: path, Headers: map[string]string{}})
	f.SetProcess(&Process{Exe: "/usr/bin/curl", Args: []string{"curl"}})
	return f
}

// benchAddr is an address of the i-th network of 256, none of them special.
func benchAddr(i int) string { return fmt.Sprintf("%d.%d.%d.7", 20+i/60000, i/250%240, i%250) }

var mixes = []mix{
	{"exact", func(i int) string { return fmt.Sprintf(`dns.query == "h%d.test" || http.host == "h%d.test"`, i, i) },
		func(n int) *Facts { return knownHello(fmt.Sprintf("h%d.test", n-1)) }, Allow},
	{"suffix", func(i int) string {
		return fmt.Sprintf(`domain(dns.query, "h%d.test") || http.host.endsWith(".h%d.test")`, i, i)
	}, func(n int) *Facts { return knownHello(fmt.Sprintf("x.h%d.test", n-1)) }, Allow},
	{"cidr", func(i int) string {
		return fmt.Sprintf(`cidr("%s0/24").contains(network.ip)`, strings.TrimSuffix(benchAddr(i), "7"))
	}, func(n int) *Facts {
		f := knownHello("a.test")
		f.SetAddr(netip.MustParseAddr(benchAddr(n-1)), 443, TCP)
		return f
	}, Allow},
	{"unindexable", func(i int) string { return fmt.Sprintf(`http.path.startsWith("/p%d/")`, i) },
		func(n int) *Facts { return knownRequest(fmt.Sprintf("/p%d/x", n-1)) }, Allow},
	{"pattern", func(i int) string { return fmt.Sprintf(`http.path.matches("^/p%d/")`, i) },
		func(n int) *Facts { return knownRequest(fmt.Sprintf("/p%d/x", n-1)) }, Allow},
	{"paths", func(i int) string { return fmt.Sprintf(`http.host == "h.test" && http.path.startsWith("/p%d/")`, i) },
		func(n int) *Facts { return knownHello("other.test") }, Deny},
}

// mixSources writes n rules of a mix, spread over files.
func mixSources(m mix, n int, egress string) []Source {
	var out []Source
	const perFile = 2500
	for start := 0; start < n; start += perFile {
		var b strings.Builder
		b.WriteString("version: \"1\"\nrules:\n")
		for i := start; i < min(n, start+perFile); i++ {
			fmt.Fprintf(&b, "  - id: r%d\n    action: allow\n    condition: '%s'\n    egress: {%s}\n", i, m.cond(i), egress)
		}
		out = append(out, Source{Path: fmt.Sprintf("%02d.yaml", start/perFile), Data: []byte(b.String())})
	}
	return out
}

func loadMix(t testing.TB, m mix, n int) *Snapshot {
	t.Helper()
	s, err := Load(mixSources(m, n, "ports: [443, 80]"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var benchSizes = []int{10, 100, 1000, 10000}

// each runs a benchmark for every mix and size.
func each(b *testing.B, f func(b *testing.B, m mix, n int)) {
	for _, m := range mixes {
		for _, n := range benchSizes {
			b.Run(fmt.Sprintf("%s/%d", m.name, n), func(b *testing.B) { f(b, m, n) })
		}
	}
}

// BenchmarkStep is one verdict with every field known.
func BenchmarkStep(b *testing.B) {
	each(b, func(b *testing.B, m mix, n int) {
		s, f := loadMix(b, m, n), m.step(n)
		if o := s.Step(f); o.Word != m.word {
			b.Fatalf("%s: %s", o.Word, o.Reason)
		}
		b.ReportAllocs()
		for b.Loop() {
			s.Step(f)
		}
	})
}

// BenchmarkFlow is a first packet to a pinned name: every rule waits.
func BenchmarkFlow(b *testing.B) {
	each(b, func(b *testing.B, m mix, n int) {
		s := loadMix(b, m, n)
		f, a, c := flowFacts(pub, 443, TCP), netip.MustParseAddr(pub), cand("h9.test")
		b.ReportAllocs()
		for b.Loop() {
			s.Flow(f, a, c, nil)
		}
	})
}

// BenchmarkCells is the kernel's share of one pin.
func BenchmarkCells(b *testing.B) {
	each(b, func(b *testing.B, m mix, n int) {
		s, a := loadMix(b, m, n), netip.MustParseAddr(pub)
		b.ReportAllocs()
		for b.Loop() {
			s.Cells(who, "h9.test", a, nil, nil)
		}
	})
}

// BenchmarkNetCells is the kernel's share of all addresses, once per load.
func BenchmarkNetCells(b *testing.B) {
	each(b, func(b *testing.B, m mix, n int) {
		s := loadMix(b, m, n)
		b.ReportAllocs()
		for b.Loop() {
			s.NetCells(who, nil)
		}
	})
}

// BenchmarkLoad loads n rules, and tells the processor time and the memory
// that the loaded rules keep.
func BenchmarkLoad(b *testing.B) {
	each(b, func(b *testing.B, m mix, n int) {
		src := mixSources(m, n, "ports: [443, 80]")
		before, start := heap(), busy()
		var s *Snapshot
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if s, err = Load(src); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "kept-MB")
		b.ReportMetric(float64((busy()-start).Milliseconds())/float64(b.N), "cpu-ms/op")
		runtime.KeepAlive(s)
	})
}

// heap returns what is in use after a collection.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// busy returns the processor time that the program has used until the last
// collection.
func busy() time.Duration {
	m := []metrics.Sample{{Name: "/cpu/classes/user:cpu-seconds"}, {Name: "/cpu/classes/gc/total:cpu-seconds"}}
	metrics.Read(m)
	return time.Duration((m[0].Value.Float64() + m[1].Value.Float64()) * float64(time.Second))
}

// BenchmarkPlan makes the plan of one situation: once per situation and load.
func BenchmarkPlan(b *testing.B) {
	for _, m := range mixes {
		b.Run(m.name, func(b *testing.B) {
			s := loadMix(b, m, 10000)
			at := s.ix.situation(m.step(1), openDoor, false)
			b.ReportAllocs()
			for b.Loop() {
				newPlan(s.ix, at)
			}
		})
	}
}

// BenchmarkExplain explains a name that no rule allows, with the smallest rule
// that would.
func BenchmarkExplain(b *testing.B) {
	each(b, func(b *testing.B, m mix, n int) {
		s := loadMix(b, m, n)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Explain(ExplainQuery{Target: "https://other.test/", Who: who}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
