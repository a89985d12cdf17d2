package rulefmt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outcall/policy"
)

// TestFormat has one file per case, as it is written and as it should be,
// separated by ----.
func TestFormat(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			in, want, ok := strings.Cut(string(data), "----\n")
			if !ok {
				t.Fatal("no ---- line")
			}
			got, err := Source([]byte(in))
			if err != nil || string(got) != want {
				t.Fatalf("%v, got\n%s\nwant\n%s", err, got, want)
			}
			again, err := Source(got)
			if err != nil || string(again) != want {
				t.Errorf("formatted again (%v):\n%s", err, again)
			}
		})
	}
}

// TestCRLF: line breaks become one kind.
func TestCRLF(t *testing.T) {
	got, err := Source([]byte("\ufeffversion: \"1\" # a\r\nrules: []\r\n"))
	if want := "version: \"1\" # a\n\nrules: []\n"; err != nil || string(got) != want {
		t.Errorf("%v: %q", err, got)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "empty"},
		{"- a\n", "a rule file is a map"},
		{"a: [\n", "YAML parse error"},
		{"a: 1\n---\nb: 2\n", "one document"},
		{"a: 1\na: 2\n", "written twice"},
		{"? [a]\n: 1\n", "no word"},
		{"a: \"x\u2028y\"\n", "line breaks"},
		{"a: \xff\n", "UTF-8"},
		{strings.Repeat("[", maxDepth+2), "parse error"},
		{"a: " + strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2), "nested more than"},
		{strings.Repeat("#", policy.MaxFileSize+1), "larger than"},
	} {
		if _, err := Source([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: got %v, want %q", c.in, err, c.want)
		}
	}
}

// TestSameVerdicts: what loads still loads after formatting, with the same
// conditions in the same order.
func TestSameVerdicts(t *testing.T) {
	files, err := filepath.Glob("../testdata/compat/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out, err := Source(data)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		before, err1 := policy.Load([]policy.Source{{Path: f, Data: data}})
		after, err2 := policy.Load([]policy.Source{{Path: f, Data: out}})
		if err1 != nil {
			continue // a test file: it is YAML, and that is enough
		}
		if err2 != nil || len(before.Rules()) != len(after.Rules()) {
			t.Errorf("%s: %v", f, err2)
			continue
		}
		for i, r := range before.Rules() {
			if a := after.Rules()[i]; a.ID != r.ID || strings.TrimSpace(a.Condition) != strings.TrimSpace(r.Condition) || a.Block != r.Block || a.Mode != r.Mode {
				t.Errorf("%s: rule %s became %+v", f, r.ID, a)
			}
		}
	}
}

// FuzzSource: what is formatted is formatted: once more changes nothing.
func FuzzSource(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		in, _, _ := strings.Cut(string(data), "----\n")
		f.Add(in)
	}
	f.Add("a: |2\n   x\n  y # z\n b: >-\n")
	f.Add("&a b: *a\nc: !!str 1 # x\n")
	f.Fuzz(func(t *testing.T, text string) {
		out, err := Source([]byte(text))
		if err != nil {
			if strings.Contains(err.Error(), "formatted file") {
				t.Logf("%q: %v", text, err) // refused, and nothing is lost
			}
			return
		}
		again, err := Source(out)
		if err != nil || string(again) != string(out) {
			t.Errorf("%q becomes\n%s\nand then (%v)\n%s", text, out, err, again)
		}
	})
}

// TestFiles: only what differs is written, and a file that cannot be
// formatted does not keep others from it.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		return p
	}
	bad, good := write("a.yaml", "- x\n"), write("b.yaml", "version: \"1\"\n")
	odd := write("c.yml", "version:   \"1\"\n")
	changed, err := Files(true, dir)
	if len(changed) != 1 || changed[0] != odd || err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("check: %v, %v", changed, err)
	}
	if data, _ := os.ReadFile(odd); string(data) != "version:   \"1\"\n" {
		t.Errorf("check wrote %q", data)
	}
	if changed, _ = Files(false, dir); len(changed) != 1 {
		t.Errorf("changed %v", changed)
	}
	st, err := os.Stat(odd)
	data, _ := os.ReadFile(odd)
	if err != nil || string(data) != "version: \"1\"\n" || st.Mode().Perm() != 0o640 {
		t.Errorf("%q, %v, %v", data, st.Mode(), err)
	}
	if changed, err = Files(false, good, odd); len(changed) != 0 || err != nil {
		t.Errorf("again: %v, %v", changed, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".outcall*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
