package schemafile

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"outcall/policy"
)

var update = flag.Bool("update", false, "write docs/rules.schema.json")

const published = "../../docs/rules.schema.json"

func TestPublished(t *testing.T) {
	if *update {
		if err := os.WriteFile(published, JSON(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(published); err != nil || !bytes.Equal(got, JSON()) {
		t.Errorf("docs/rules.schema.json is not the schema (%v): run `go test ./policy/schemafile -update`", err)
	}
}

func newValidator(t *testing.T) *validator {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(JSON(), &root); err != nil {
		t.Fatal(err)
	}
	return &validator{t, root}
}

// TestAgreesWithTheLoader: over generated files, most of them wrong in a
// thing or two, the schema accepts what the loader accepts and refuses what
// it refuses.
func TestAgreesWithTheLoader(t *testing.T) {
	v := newValidator(t)
	g := &generator{rand.New(rand.NewPCG(1, 2))}
	count := map[bool]int{}
	for i := range 20000 {
		doc := g.file()
		text, err := yaml.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		schema, findings := v.valid(v.root, doc), syntax(text)
		count[schema]++
		if schema != (len(findings) == 0) {
			t.Fatalf("file %d: the schema says %v, the loader %v:\n%s", i, schema, findings, text)
		}
	}
	if count[true] < 2000 || count[false] < 2000 {
		t.Errorf("%d accepted, %d refused: that shows little", count[true], count[false])
	}
}

// syntax returns the loader's findings, less those that a schema cannot have:
// about conditions, definitions in them, and ids of other rules.
func syntax(text []byte) []string {
	_, err := policy.Load([]policy.Source{{Path: "x", Data: text}})
	if err == nil {
		return nil
	}
	var list policy.ErrorList
	if !errors.As(err, &list) {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range list {
		if !beyond(e.Msg) {
			out = append(out, e.Error())
		}
	}
	return out
}

func beyond(msg string) bool {
	for _, p := range []string{"CEL parse error", "duplicate rule id", "undefined definition", "circular definition"} {
		if strings.HasPrefix(msg, p) {
			return true
		}
	}
	return false
}

// A generator makes rule files as data.
type generator struct{ *rand.Rand }

func (g *generator) pick(values ...any) any { return values[g.IntN(len(values))] }

// odd are values that may stand anywhere by mistake.
func (g *generator) odd() any {
	return g.pick(nil, true, false, "", "x", "1", "true", "null", "12", "2001-01-01", "<<", "0x10", 0, 1, -1, 80, 443, 65535, 65536, 3000000000,
		-2147483648, -2147483649, 2.5, []any{}, []any{1, "x"}, map[string]any{}, map[string]any{"mode": "proxy"},
		"allow", "block", "deny", "proxy", "intercept", "reload", strings.Repeat("a", 128), strings.Repeat("a", 129), "ä b", "a b", "\n")
}

// maybe is mostly a good value, sometimes an odd one.
func (g *generator) maybe(good any) any {
	if g.IntN(14) == 0 {
		return g.odd()
	}
	return good
}

// with sets a key most of the time, and at times one that nobody knows.
func (g *generator) with(m map[string]any, key string, often int, good any) {
	if g.IntN(10) < often {
		m[key] = g.maybe(good)
	}
	if g.IntN(150) == 0 {
		m[g.pick("enrich", "conditions", "x", "Version", "").(string)] = g.odd()
	}
}

func (g *generator) file() any {
	if g.IntN(60) == 0 {
		return g.odd()
	}
	m := map[string]any{"version": "1"}
	if g.IntN(20) == 0 {
		delete(m, "version")
	}
	g.with(m, "version", 1, "1")
	defs := map[string]any{}
	for range g.IntN(3) {
		defs[g.pick("a", "a_1", "ä", "1", "a-b", "", "é2", "a b").(string)] = g.maybe("true")
	}
	g.with(m, "definitions", 3, defs)
	var rules []any
	for i := range g.IntN(3) {
		rules = append(rules, g.maybe(g.rule(i)))
	}
	if rules != nil {
		g.with(m, "rules", 9, rules)
	}
	return m
}

func (g *generator) rule(i int) map[string]any {
	m := map[string]any{}
	often := 10
	if g.IntN(10) == 0 {
		often = 8
	}
	g.with(m, "id", often, fmt.Sprintf("r-%d._", i))
	g.with(m, "condition", often, "true")
	g.with(m, "action", often, g.pick("allow", "allow", "block"))
	g.with(m, "description", 3, "why")
	g.with(m, "priority", 3, g.IntN(1000)-500)
	g.with(m, "log", 3, g.pick(true, false))
	g.with(m, "egress", 3, g.egress())
	return m
}

func (g *generator) egress() any {
	m := map[string]any{}
	g.with(m, "mode", 6, g.pick("proxy", "direct_ip"))
	var ports []any
	for range g.IntN(4) {
		ports = append(ports, g.maybe(1+g.IntN(65535)))
	}
	if g.IntN(40) == 0 {
		ports = make([]any, policy.MaxPorts+g.IntN(2))
		for i := range ports {
			ports[i] = 1 + i
		}
	}
	if ports != nil {
		g.with(m, "ports", 6, ports)
	}
	g.with(m, "allow_private_ips", 3, g.pick(true, false))
	return g.pick(m, m, m, m, nil)
}

// TestFiles: the schema accepts the rule files of the tree.
func TestFiles(t *testing.T) {
	v := newValidator(t)
	var files []string
	for _, pattern := range []string{"../testdata/compat/*/*.yaml", "../preset/*/*.yaml", "../preset/*.yaml"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	seen := 0
	for _, f := range files {
		if filepath.Base(filepath.Dir(f)) == "tests" {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := yaml.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		if seen++; !v.valid(v.root, doc) {
			t.Errorf("%s: the schema refuses it", f)
		}
	}
	if seen < 11 {
		t.Errorf("only %d files", seen)
	}
}
