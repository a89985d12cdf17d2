package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// termFacts are facts of which every field can be taken away.
func termFacts() []*Facts {
	hello := helloFacts(pub, 443, "a.test")
	request := requestFacts("10.0.0.1", 80, HTTP{Host: "b.test", Method: "GET", Path: "/x", BodySize: 0, Headers: map[string]string{"k": "v"}})
	hello.set(HTTPHeaders, map[string]string{})
	for _, f := range []*Facts{hello, request} {
		f.SetProcess(&Process{Exe: "/x", Args: []string{"x", "-k"}})
		f.SetQuestion("x.a.test", "A")
	}
	return []*Facts{hello, request}
}

// unplanned is CEL's own answer, with none of our planning and none of its
// own optimisations.
func unplanned(t testing.TB, prg cel.Program, f *Facts, block bool) (truth, FieldSet) {
	t.Helper()
	var view cel.Activation = (*allowView)(f)
	if block {
		view = (*blockView)(f)
	}
	v, _, err := prg.Eval(view)
	if err != nil {
		return failed, 0
	}
	switch v := v.(type) {
	case types.Bool:
		if v {
			return yes, 0
		}
		return no, 0
	case *types.Unknown:
		var set FieldSet
		for _, id := range v.IDs() {
			set = set.With(Field(id))
		}
		return hidden, set
	}
	return failed, 0
}

// subsets calls f with every subset of the fields, or with many where there
// are too many.
func subsets(r *rand.Rand, all FieldSet, f func(FieldSet)) {
	fields := all.Fields()
	if len(fields) > 6 {
		for range 64 {
			f(all & FieldSet(r.Uint64()))
		}
		return
	}
	for n := range 1 << len(fields) {
		var s FieldSet
		for i, x := range fields {
			if n&(1<<i) != 0 {
				s = s.With(x)
			}
		}
		f(s)
	}
}

// What is planned answers what CEL answers unplanned: over random conditions,
// with every subset of their fields unknown, as an allow and as a block.
func TestPropertyPlannedIsUnplanned(t *testing.T) {
	env, err := newEnv()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(20261124, 3))
	n := 6000
	if testing.Short() {
		n = 600
	}
	ts := newTemplates(env)
	for range n {
		text := propCondition(r, r.IntN(4))
		c, bad := ts.compile(text, false)
		if bad != nil {
			t.Fatalf("%s: %v", text, bad)
		}
		checked, _ := check(env, text)
		prg, err := env.Program(checked)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range termFacts() {
			subsets(r, c.fields, func(s FieldSet) {
				g := f.Clone()
				g.states(pick(r, []State{Later, Hidden, Absent}), s.Fields()...)
				for _, block := range []bool{false, true} {
					v, set := c.parts[0].eval(g, block)
					w, ids := unplanned(t, prg, g, block)
					if v != w || ids&^set != 0 || set&^c.fields != 0 {
						t.Fatalf("%s with %s unknown, block %v: %d %s, CEL says %d %s", text, s, block, v, set, w, ids)
					}
				}
			})
		}
	}
}

// sameTerm compares terms, but not the programs of their leaves.
func sameTerm(a, b *term) bool {
	if (a.leaf == nil) != (b.leaf == nil) || len(a.kids) != len(b.kids) {
		return false
	}
	for i := range a.kids {
		if !sameTerm(a.kids[i], b.kids[i]) {
			return false
		}
	}
	if a.leaf != nil && (a.leaf.fields != b.leaf.fields || a.leaf.bounds != b.leaf.bounds) {
		return false
	}
	x, y := *a, *b
	x.leaf, y.leaf, x.kids, y.kids = nil, nil, nil, nil
	return reflect.DeepEqual(x, y)
}

func sameCompiled(a, b *compiled) bool {
	if len(a.parts) != len(b.parts) {
		return false
	}
	for i := range a.parts {
		if !sameTerm(a.parts[i], b.parts[i]) {
			return false
		}
	}
	x, y := *a, *b
	x.parts, y.parts = nil, nil
	return reflect.DeepEqual(x, y)
}

// templateTexts are conditions of one outline, with constants of any kind.
var templateTexts = []string{
	`http.host == "%s" || dns.query in ["%s", 'b.test']`, `cidr("%s").contains(network.ip) && network.port == %d`,
	`http.path.matches("%s")`, `http.headers["%s"] == "%s" && http.body_size - %d > -5`, `has(http.headers.k) && "%s" in process.args`,
	`process.args.exists(p, p == "%s" && size(p) > %d)`, `network.port in [80, %d] ? tls.sni == "%s" : http.host.endsWith("%s")`,
	`!(network.ip in ["%s"]) && !(network.port >= %d)`, `http.path.split("/")[%d] == "%s"`, `has(http.path) && http.path != "%s" + '%s'`,
	`size(tls.alpn) > %d && tls.alpn[0] == "%s"`, `network.port == %du`, `http.hots == "%s"`, `"%s"`, `domain(http.host, "%s") && %d`, `network.port == -%d`,
	`[1, 2, %d].map(x, x * 2).exists(y, y == %d)`, `true && network.port == 0x%d`, `r"%s" == http.path`, `"""%s""" == http.path`, `http.path == "" || http.path == "%s"`,
}

// A condition made of a template is the condition compiled in full, and its
// findings are the same.
func TestPropertyTemplates(t *testing.T) {
	env, err := newEnv()
	if err != nil {
		t.Fatal(err)
	}
	words := []string{"a.test", "10.0.0.0/8", "10.0.0.1/8", "::1", "(", "^/x.*$", "", "k", `\n`, `\"`, "//", "{", "$", "é", "x == 1"}
	filled := 0
	for _, shape := range templateTexts {
		r := rand.New(rand.NewPCG(20261124, 4))
		ts := newTemplates(env)
		for range 60 {
			var args []any
			for _, verb := range strings.Split(shape, "%")[1:] {
				if verb[0] == 'd' {
					args = append(args, pick(r, []int{0, 1, 443, 7, 65536}))
				} else {
					args = append(args, pick(r, words))
				}
			}
			text, block := fmt.Sprintf(shape, args...), r.IntN(2) == 0
			a, badA := ts.compile(text, block)
			b, badB := compileCondition(env, text, block)
			if !reflect.DeepEqual(badA, badB) || badA == nil && !sameCompiled(a, b) {
				t.Fatalf("%s\nby template %+v %v\nin full %+v %v", text, a, badA, b, badB)
			}
		}
		for _, tm := range ts.by {
			if tm != nil {
				filled++
			}
		}
	}
	if filled < 12 {
		t.Errorf("only %d outlines became templates", filled)
	}
}
