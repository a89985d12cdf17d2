package policy

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// FuzzRuleFile: any bytes load or give findings that name the file and a
// line of it.
func FuzzRuleFile(f *testing.F) {
	f.Add(string(mixSources(mixes[0], 2, "ports: [443]")[0].Data))
	f.Add("version: \"1\"\nrules:\n  - {id: a, condition: >-\n    x\n")
	f.Add("a: &a [*a]\n")
	f.Add("version: \"1\"\ndefinitions: {a: $a}\nrules: [{id: a, action: allow, condition: \"\\u0061 $a\"}]")
	f.Fuzz(func(t *testing.T, file string) {
		s, err := Load([]Source{{Path: "x", Data: []byte(file)}})
		if err == nil {
			for _, r := range s.Rules() {
				if r.Line < 1 || r.Line > strings.Count(file, "\n")+1 {
					t.Errorf("rule %s at line %d", r.ID, r.Line)
				}
			}
			return
		}
		list, ok := err.(ErrorList)
		if !ok || len(list) == 0 {
			t.Fatalf("no findings: %v", err)
		}
		for _, e := range list {
			if e.Line < 0 || e.Line > strings.Count(file, "\n")+2 {
				t.Errorf("line %d of %q: %v", e.Line, file, e)
			}
		}
	})
}

// FuzzDefinitions: the expansion ends, within its limit, with a line for
// every byte.
func FuzzDefinitions(f *testing.F) {
	f.Add("$a", "x || $b", `"$c" + r'\$a' // $a`)
	f.Add("$a $b", "$b$b$b", "\"\"\"$a\"\"\" '\\' $b")
	f.Fuzz(func(t *testing.T, text, a, b string) {
		file := &ruleFile{defs: map[string]*definition{}}
		for name, v := range map[string]string{"a": a, "b": b} {
			file.defs[name] = &definition{name: name, scalar: scalar{v, marks{{0, 7}}}}
		}
		s, bad := file.expand(scalar{text, marks{{0, 3}}})
		if bad != nil {
			if bad.off < 0 || bad.off > len(text) {
				t.Errorf("offset %d of %q", bad.off, text)
			}
			return
		}
		for i := range s.text {
			if l := s.marks.line(i); l != 3 && l != 7 {
				t.Errorf("byte %d of %q is in line %d", i, s.text, l)
			}
		}
	})
}

// FuzzAllowTarget: what is accepted loads, and opens nothing restricted.
func FuzzAllowTarget(f *testing.F) {
	for _, s := range []string{"a.test", ".a.test:22", "10.0.0.0/8:1", "[::1]:80", "bücher.test", "0x7f.1", "a\u202e.test", `x"||true||"`, "'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		src, err := AllowTargets([]string{target})
		if err != nil {
			return
		}
		s, err := Load([]Source{src})
		if err != nil {
			t.Fatalf("%q is written as a file that does not load: %v\n%s", target, err, src.Data)
		}
		a := netip.MustParseAddr("169.254.169.254")
		fl := s.Flow(flowFacts("169.254.169.254", 80, TCP), a, cand("metadata.test"), nil)
		if fl.Word != Deny && !strings.Contains(target, "169.254.") && !strings.Contains(target, "a9fe") {
			t.Errorf("%q opens %s", target, a)
		}
		if o := s.Step(dnsFacts("not.the.target.invalid", "A")); o.Word == Allow && !strings.Contains(target, "invalid") {
			t.Errorf("%q answers for another name", target)
		}
	})
}

// FuzzTarget: what explain takes as a target has a canonical host and a port,
// and is explained without a resolver.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"https://a.test/x?y", "a.test:22", "tcp://[::1]:80", "udp://a.test:53", "dns://a.test?type=TXT", "http://a.test./%2e%2e/", "https://127.1/", "dns://bücher.test?type=", "tcp://a%2etest:1"} {
		f.Add(s)
	}
	s := rules(f, `block domain(tls.sni, "e.test")`, `allow dns.query == "a.test" || http.host == "a.test" && http.path.startsWith("/x/")`)
	f.Fuzz(func(t *testing.T, text string) {
		tg, err := parseTarget(text)
		if err != nil {
			return
		}
		if tg.port == 0 || tg.host == "" || tg.addr.IsValid() != (tg.name() == "") {
			t.Errorf("%q: %+v", text, tg)
		}
		if n := tg.name(); n != "" {
			if c, err := canonicalName(n); err != nil || c != n {
				t.Errorf("%q: the name %q is not canonical: %q, %v", text, n, c, err)
			}
		}
		x, err := s.Explain(ExplainQuery{Target: text, Who: who})
		if err != nil || x.Verdict == "" {
			t.Fatalf("%q: %v, %v", text, x, err)
		}
		for line := range strings.Lines(x.String()) {
			if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\r\x1b\u202e") {
				t.Errorf("%q prints %q", text, line)
			}
		}
	})
}

// FuzzCondition: any text compiles or not, and what compiles never panics and
// never allows with nothing known what it denies with all known.
func FuzzCondition(f *testing.F) {
	for _, s := range propAtoms {
		f.Add(strings.ReplaceAll(s, "%s", "a.test"))
	}
	f.Add(`has(http.host) && !has(tls.ech) || has(process.args)`)
	f.Add(`[1,2].map(x, x * 2).exists(y, http.path.split("/").size() > y)`)
	env, err := newEnv()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		for _, block := range []bool{false, true} {
			ts := newTemplates(env)
			c, bad := compileOne(ts, text, block, false)
			d, badD := compileOne(ts, text, block, false) // by the template, if it is one
			if !reflect.DeepEqual(bad, badD) || bad == nil && !sameCompiled(c, d) {
				t.Fatalf("%q: %v and, by the template, %v", text, bad, badD)
			}
			if bad != nil {
				continue
			}
			s := &Snapshot{rules: []*Rule{{ID: "x", Block: block, Mode: ModeProxy, c: c}}}
			known := helloFacts(pub, 443, "a.test")
			known.SetProcess(&Process{Exe: "/x", Args: []string{"x"}})
			less := known.Clone()
			less.states(Hidden, TLSSNI, HTTPHost, NetworkHostname, ProcessExe, ProcessName, ProcessArgs, NetworkPort)
			a, b := s.Step(known), s.Step(less)
			indexed, _ := twins(s.rules, 0)
			if x, y := indexed.Step(known), indexed.Step(less); !sameOutcome(a, x) || !sameOutcome(b, y) {
				t.Errorf("%q: %+v and %+v, with the index %+v and %+v", text, a, b, x, y)
			}
			if a.Word == Deny && b.Word == Allow {
				t.Errorf("%q: denied with all known, allowed with less", text)
			}
			s.NetCells(who, nil)
		}
	})
}

// FuzzIndex: with an index and without, every walk gives the same.
func FuzzIndex(f *testing.F) {
	for i := range uint64(8) {
		f.Add(i, uint8(i))
	}
	pools := indexPools(f, rand.New(rand.NewPCG(20261124, 5)))
	f.Fuzz(func(t *testing.T, seed uint64, common uint8) {
		r := rand.New(rand.NewPCG(seed, 6))
		rules := indexCase(r, pools)
		indexed, linear := twins(rules, int(common%10))
		for range 8 {
			c := randomCase(r)
			if bad := indexDiffers(r, indexed, linear, c, r.IntN(20) == 0); bad != "" {
				t.Fatalf("%s\nrules:\n%s", bad, ruleLines(rules))
			}
		}
	})
}
