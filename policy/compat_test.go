package policy_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outcall/policy"
	"outcall/policy/ruletest"
)

var update = flag.Bool("update", false, "write docs/compat.md")

// TestCompat: rule files in the patterns that were written for the original
// load, and give the verdicts that they gave there.
func TestCompat(t *testing.T) {
	files, err := filepath.Glob("testdata/compat/tests/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	r, err := ruletest.RunFiles(nil, files...)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK {
		var b bytes.Buffer
		r.WriteText(&b)
		t.Error(b.String())
	}
}

// TestCompatTable: what docs/compat.md says of each construct is so, and the
// page is what the table says.
func TestCompatTable(t *testing.T) {
	for _, row := range compatTable {
		t.Run(row.construct, func(t *testing.T) { row.check(t) })
	}
	want := compatPage()
	if *update {
		if err := os.WriteFile("../docs/compat.md", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile("../docs/compat.md"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("docs/compat.md is not what the table says (%v): run `go test ./policy -run TestCompatTable -update`", err)
	}
}

// How a construct fares.
const (
	same    = "same"    // it loads and means the same
	refused = "refused" // it does not load, and the message says what to write
	differs = "differs" // it loads and means what the note says
)

// A compatRow is one documented construct of the original.
type compatRow struct {
	construct string
	fate      string
	note      string
	file      string // the file, or "rule: " and the keys of its only rule
	message   string // a part of the refusal, or of a warning
	cases     string // lines of a test file that hold for it
}

func (row compatRow) text() string {
	if keys, ok := strings.CutPrefix(row.file, "rule: "); ok {
		return "version: \"1\"\nrules:\n  - {id: x, " + keys + "}\n"
	}
	return row.file
}

func (row compatRow) check(t *testing.T) {
	snap, err := policy.Load([]policy.Source{{Path: "x.yaml", Data: []byte(row.text())}})
	if row.fate == refused {
		if err == nil || row.message == "" || !strings.Contains(err.Error(), row.message) {
			t.Fatalf("got %v, want a refusal with %q", err, row.message)
		}
		return
	}
	if err != nil {
		t.Fatalf("does not load: %v", err)
	}
	if row.message != "" && !strings.Contains(strings.Join(snap.Warnings(), "\n"), row.message) {
		t.Errorf("no warning with %q: %q", row.message, snap.Warnings())
	}
	if row.cases == "" {
		t.Fatal("nothing shows what it means")
	}
	f, err := ruletest.Parse(row.construct, []byte("version: \"1\"\ncases:\n"+row.cases))
	if err != nil {
		t.Fatal(err)
	}
	results, err := f.Run(snap)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !r.OK {
			t.Errorf("%s: %s by %s (%s), want %v", r.Event, r.Got.Verdict, r.Got.Rule, r.Got.Reason, r.Want)
		}
	}
}

const compatHead = `# Rule files written for the original

Written from the table in policy/compat_test.go, where every row is tried:
` + "`go test ./policy -run TestCompatTable -update`" + ` writes this page.

Rule files of the original load here and give the same verdicts wherever its
verdict did not rest on an empty field: there, a field that a layer did not have
was empty, and a condition that compared it could match by that. Here such a
field is unknown in an allow rule, which then does not match.

- **same**: it loads and means the same.
- **refused**: it does not load; the message names the line and what to write.
- **differs**: it loads and means what the last column says.

| construct | fares | |
|---|---|---|
`

func compatPage() []byte {
	var b bytes.Buffer
	b.WriteString(compatHead)
	for _, row := range compatTable {
		note := row.note
		if row.fate == refused {
			note = strings.TrimSpace(note + " `" + row.message + "`")
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(row.construct), row.fate, cell(note))
	}
	return b.Bytes()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
