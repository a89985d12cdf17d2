package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestLoadErrors has one file per case; the wanted findings stand behind the
// lines that they are about, as "# !text" (parts of the message, by " | ").
func TestLoadErrors(t *testing.T) {
	for _, c := range []struct{ name, file string }{
		{"the page's own example", `version: "1"
rules:
  - id: a
    action: allow
    condition: http_host == "a.test"   # !CEL parse error: undefined identifier 'http_host' (did you mean http.host?)
`},
		{"literal block", `version: "1"
rules:
  - id: a
    condition: |
      dns.query == "a.test" ||

      http.hots == "a.test" # !undefined identifier 'http.hots' (did you mean http.host?)
    action: allow
`},
		{"folded block with an indicator and a comment", `version: "1"
rules:
  - id: a
    condition: >-  # why
      dns.query == "a.test"
      || dns_type == "A"   # !undefined identifier 'dns_type'
      || http.path == 3    # !found no matching overload for '_==_' applied to '(string, int)'
    action: allow
`},
		{"plain scalar over lines", `version: "1"
rules:
  - id: a
    condition: dns.query == "a.test" ||
      tls.snl == "b.test"  # !undefined identifier 'tls.snl' (did you mean tls.sni?)
    action: allow
`},
		{"double-quoted scalar over lines", `version: "1"
rules:
  - id: a
    condition: "dns.query == \"\u0061.test\" ||
      \x74ls.snl == 'b.test'"  # !undefined identifier 'tls.snl'
    action: allow
`},
		{"definition, once", `version: "1"
definitions:
  ok: dns.query == "a"
  bad: 'net.dst_ip == "1.2.3.4"' # !undefined identifier 'net.dst_ip' (did you mean network.ip?)
rules:
  - id: a
    condition: $bad || $ok
    action: allow
  - id: b
    condition: $bad
    action: allow
`},
		{"definition in a block scalar", `version: "1"
definitions:
  bad: |
    dns.query == "a" ||
    process.ex == "b" # !undefined identifier 'process.ex' (did you mean process.exe?)
rules: []
`},
		{"undefined and circular definitions", `version: "1"
definitions:
  a: $b   # !circular definition: $b → $a → $b
  b: $a   # !circular definition: $a → $b → $a
  gh: 'dns.query == "x"'
rules:
  - id: a
    condition: $ghx  # !undefined definition '$ghx' (did you mean gh?)
    action: allow
`},
		{"actions and modes", `version: "1"
rules:
  - id: a
    condition: 'true'
    action: deny   # !write action: block
  - id: b
    condition: 'true'
    action: enrich   # !write action: allow or action: block
  - id: c
    condition: 'true'
    action: allow
    egress:
      mode: intercept   # !write mode: proxy
  - id: d
    condition: 'true'
    action: block
    egress: {mode: proxy}  # !egress belongs to allow rules only
`},
		{"a rule that is wrong in two ways", `version: "1"
rules:
  - id: a b # !may hold only letters
    action: deny # !write action: block
    condition: http.hots == $x # !undefined definition '$x'
  - id: b
    action: deny # !write action: block
    condition: >-
      true
      && http.hots == "a.test" # !undefined identifier 'http.hots'
`},
		{"a test file", `version: "1"
cases: []  # !cases stand in test files
`},
		{"keys and types", `version: "1"
rulez: []   # !unknown key 'rulez' in the file (did you mean rules?)
rules:
  - id: a
    condition: true   # !condition must be a string
    action: allow
  - id: "b c"   # !may hold only letters
    condition: 'true'
    action: Allow  # !action must be allow or block
  - id: reload   # !is reserved
    condition: 'true'
    action: allow
    log: yes please   # !log must be true or false
  - id: d
    conditions: 'true'  # !unknown key 'conditions' in a rule (did you mean condition?)
    condition: 'true'
    action: allow
    priority: 3000000000  # !priority must be a number
    id: e  # !written twice
  - condition: 'true'  # !the rule has no id
    action: allow
  - id: f   # !the rule has no condition | the rule has no action
  - id: g
    condition: 'true'
    action: allow
    egress:
      ports: [0]  # !a port must be a number from 1 to 65535
  - nothing  # !a rule must be a map
  - id: h
    condition: 'true'
    action: allow
    priority: 010  # !in plain decimal
    egress:
      ports: [0x1bb]  # !in plain decimal
`},
		{"version", `version: 1  # !version must be the string "1", in quotes
rules: []
`},
		{"other version", `version: "2"  # !unsupported version "2" (only "1" is supported)
`},
		{"no version", `rules: []  # !version is missing
`},
		{"not bool", `version: "1"
rules:
  - id: a
    condition: network.port   # !the condition is of type int, not bool
    action: allow
`},
		{"syntax", `version: "1"
rules:
  - id: a
    condition: dns.query ==   # !CEL parse error:
    action: allow
`},
		{"constants", `version: "1"
rules:
  - id: a
    condition: cidr("10.0.0.1/8").contains(network.ip)   # !'10.0.0.1/8' has host bits set (did you mean 10.0.0.0/8?)
    action: allow
  - id: b
    condition: cidr("10.0.0").contains(network.ip)   # !'10.0.0' is no network address
    action: allow
  - id: c
    condition: http.path.matches("(")   # !error parsing regexp
    action: allow
  - id: d
    condition: domian(dns.query, "x") && dns.typo == "A"   # !undefined identifier 'domian' (did you mean domain?) | undefined identifier 'dns.typo'
    action: allow
`},
		{"duplicate id", `version: "1"
rules:
  - {id: a, condition: 'true', action: allow}
  - {id: a, condition: 'true', action: allow}  # !duplicate rule id 'a' (first seen in x.yaml:3)
`},
		{"broken YAML", `version: "1"
rules: # !YAML parse error
  - id: a
   condition: x
`},
		{"two documents", `version: "1"
--- # !one document
version: "1"
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load([]Source{{Path: "x.yaml", Data: wanted.ReplaceAll([]byte(c.file), nil)}})
			wantFindings(t, c.file, err)
		})
	}
}

// wanted is what the cases say of a line; it is not in the file that is loaded.
var wanted = regexp.MustCompile(` *# !.*`)

// wantFindings compares the findings with the comments of the file.
func wantFindings(t *testing.T, file string, err error) {
	t.Helper()
	var list ErrorList
	if !errors.As(err, &list) {
		t.Fatalf("no list of findings: %v", err)
	}
	seen := map[int]bool{}
	for i, line := range strings.Split(file, "\n") {
		_, want, ok := strings.Cut(line, "# !")
		if !ok {
			continue
		}
		for _, w := range strings.Split(want, " | ") {
			found := false
			for k, e := range list {
				if e.Line == i+1 && strings.Contains(e.Error(), w) && strings.HasPrefix(e.Error(), fmt.Sprintf("x.yaml:%d: ", i+1)) {
					found, seen[k] = true, true
				}
			}
			if !found {
				t.Errorf("line %d: no %q", i+1, w)
			}
		}
	}
	for k, e := range list {
		if !seen[k] {
			t.Errorf("not wanted: %v", e)
		}
	}
}

// TestFindingsOfAllFiles: nothing is loaded, and every file's findings are
// told in the order of the files.
func TestFindingsOfAllFiles(t *testing.T) {
	good := ruleYAML("allow true")
	s, err := Load([]Source{
		{Path: "c.yaml", Data: []byte(`version: "3"`)},
		{Path: "a.yaml", Data: []byte(strings.ReplaceAll(good, "true", "x"))},
		{Path: "b.yaml", Data: []byte(good)},
	})
	if s != nil || err == nil {
		t.Fatal("a set with errors is loaded")
	}
	want := "a.yaml:5: CEL parse error: undefined identifier 'x'\n" +
		"b.yaml:3: duplicate rule id 'r0' (first seen in a.yaml:3)\n" +
		`c.yaml:1: unsupported version "3" (only "1" is supported)`
	if err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestDefinitionsAreNotExpandedInStrings(t *testing.T) {
	s := mustLoad(t, `version: "1"
definitions:
  x: '"a" // a comment'
rules:
  - id: a
    action: allow
    condition: >-
      dns.query == "$x" || dns.query == r'\$x' || dns.query == """$x"$x""" || dns.query == '\'$x' || dns.query == $x
`)
	for _, q := range []string{"$x", `\$x`, `$x"$x`, "'$x", "a"} {
		if o := s.Step(dnsFacts(q, "A")); o.Word != Allow {
			t.Errorf("%s: %s", q, o.Reason)
		}
	}
}

func TestDefinitionLimits(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: \"1\"\ndefinitions:\n  d0: 'true'\n")
	for i := 1; i <= maxDepth; i++ {
		fmt.Fprintf(&b, "  d%d: $d%d\n", i, i-1)
	}
	load := func(cond string) error {
		_, err := Load([]Source{{Path: "x", Data: []byte(b.String() + "rules:\n  - {id: a, action: allow, condition: " + cond + "}\n")}})
		return err
	}
	if err := load(fmt.Sprintf("$d%d", maxDepth-1)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := load(fmt.Sprintf("$d%d", maxDepth)); err == nil || !strings.Contains(err.Error(), "nested more than 64 deep") {
		t.Errorf("beyond the limit: %v", err)
	}
	b.Reset()
	b.WriteString("version: \"1\"\ndefinitions:\n  d0: 'true || true || true || true || true || true || true || true'\n")
	for i := 1; i <= 20; i++ { // each four times the one before
		fmt.Fprintf(&b, "  d%d: $d%d || $d%d || $d%d || $d%d\n", i, i-1, i-1, i-1, i-1)
	}
	if err := load("$d20"); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a bomb of definitions: %v", err)
	}
}

func TestLimits(t *testing.T) {
	file := func(n int) Source {
		return Source{Path: fmt.Sprintf("%05d.yaml", n), Data: []byte(fmt.Sprintf(
			"version: \"1\"\nrules:\n  - {id: r%d, action: allow, condition: 'true'}\n", n))}
	}
	var many []Source
	for i := range MaxFiles + 1 {
		many = append(many, file(i))
	}
	var rules strings.Builder
	rules.WriteString("version: \"1\"\nrules:\n")
	for i := range MaxRules {
		fmt.Fprintf(&rules, "  - {id: r%d, action: allow, condition: 'true'}\n", i)
	}
	full := rules.String()
	one := func(s string) []Source { return []Source{{Path: "x", Data: []byte(s)}} }
	id := strings.Repeat("a", MaxID)
	ports := strings.Repeat("1,", MaxPorts)
	rule := "version: \"1\"\nrules:\n  - {id: %s, action: allow, condition: 'true', egress: {ports: [%s]}}\n"
	for _, c := range []struct {
		name string
		src  []Source
		ok   bool
	}{
		{"files", many[:MaxFiles], true},
		{"files", many, false},
		{"rules", one(full), true},
		{"rules", one(full + "  - {id: x, action: allow, condition: 'true'}\n"), false},
		{"id", one(fmt.Sprintf(rule, id, "1")), true},
		{"id", one(fmt.Sprintf(rule, id+"a", "1")), false},
		{"ports", one(fmt.Sprintf(rule, "a", ports)), true},
		{"ports", one(fmt.Sprintf(rule, "a", ports+"1")), false},
		{"size", one("version: \"1\"\n#" + strings.Repeat("x", MaxFileSize-14)), true},
		{"size", one("version: \"1\"\n#" + strings.Repeat("x", MaxFileSize-13)), false},
		{"condition", one(fmt.Sprintf(`{version: "1", rules: [{id: a, action: allow, condition: 'dns.query == "%s"'}]}`, strings.Repeat("x", maxConditionSize))), false},
		{"nesting", one(fmt.Sprintf(`{version: "1", rules: [{id: a, action: allow, condition: '%strue%s'}]}`, strings.Repeat("(", 2*maxConditionDepth), strings.Repeat(")", 2*maxConditionDepth))), false},
	} {
		if _, err := Load(c.src); (err == nil) != c.ok {
			t.Errorf("%s: %.200v", c.name, err)
		}
	}
	var big []Source
	for i := range MaxTotalSize/MaxFileSize + 1 {
		big = append(big, Source{Path: fmt.Sprint(i), Data: make([]byte, MaxFileSize)})
	}
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "in all") {
		t.Errorf("total size: %.200v", err)
	}
}

func TestOrder(t *testing.T) {
	file := func(path string, o Origin, lines ...string) Source {
		y := ruleYAML(lines...)
		return Source{Path: path, Origin: o, Data: []byte(strings.ReplaceAll(y, "- id: r", "- id: "+path+"-"))}
	}
	prio := func(s Source, p int) Source {
		s.Data = []byte(strings.ReplaceAll(string(s.Data), "action:", fmt.Sprintf("priority: %d\n    action:", p)))
		return s
	}
	s, err := Load([]Source{
		prio(file("p", Project, "allow true"), -5),
		file("b", Operator, "allow true", "block false"),
		file("a", Operator, "allow true"),
		prio(file("z", Operator, "allow true"), 1),
		prio(file("y", Operator, "allow true"), 200),
		prio(file("--allow", CLI, "allow true"), 0),
		prio(file("q", Request, "allow true"), -2147483648),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range s.Rules() {
		got = append(got, r.ID)
	}
	if want := "z-0 a-0 b-0 b-1 q-0 p-0 --allow-0 y-0"; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, " "), want)
	}
}
