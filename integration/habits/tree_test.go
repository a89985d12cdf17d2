package habits

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"outcall/integration/harness"
)

// A source is one Go file of the tree.
type source struct {
	path string // below the module root, with slashes
	text []byte
	ast  *ast.File
	fset *token.FileSet
}

func (s source) test() bool  { return strings.HasSuffix(s.path, "_test.go") }
func (s source) dir() string { return filepath.ToSlash(filepath.Dir(s.path)) }
func (s source) lines(n ast.Node) int {
	return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := harness.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// sources are the tracked files: what lies about in someone's tree is theirs.
func sources(t *testing.T) []source {
	t.Helper()
	top := root(t)
	// The tests may run as another user than the one who owns the clone.
	list := exec.Command("git", "-c", "safe.directory=*", "-C", top, "ls-files", "-z", "--", "*.go")
	names, err := list.Output()
	if err != nil || len(names) == 0 {
		t.Fatalf("git ls-files in %s: %v, %d octets (these tests need a git checkout)", top, err, len(names))
	}
	var out []source
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(top, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, source{name, text, f, fset})
	}
	return out
}

func TestEachPackageSaysWhatItIs(t *testing.T) {
	docs := map[string]int{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		docs[s.dir()] += 0
		if s.ast.Doc == nil {
			continue
		}
		docs[s.dir()]++
		want := "Package " + s.ast.Name.Name + " "
		if s.ast.Name.Name == "main" {
			want = "Command " + filepath.Base(s.dir()) + " "
		}
		if !strings.HasPrefix(s.ast.Doc.Text(), want) {
			t.Errorf("%s: its doc does not begin with %q", s.path, want)
		}
	}
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("%s: %d package comments, not one", dir, n)
		}
	}
}

// arrows says which rooms each room may import. They go down only.
var arrows = map[string][]string{
	"policy":      {"policy"},
	"netstack":    {"netstack", "policy"},
	"sandbox":     {"sandbox", "netstack", "policy", "shim"},
	"shim":        {"shim", "policy"},
	"cmd":         {"cmd", "sandbox", "netstack", "policy", "shim"},
	"integration": {"integration"},
}

func TestImportsGoDown(t *testing.T) {
	for _, s := range sources(t) {
		room := strings.Split(s.path, "/")[0]
		allowed, known := arrows[room]
		if !known {
			t.Errorf("%s: no such room: the top level is fixed", s.path)
			continue
		}
		for _, imp := range s.ast.Imports {
			path, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if path == "C" {
				t.Errorf("%s: cgo", s.path)
			}
			to, ours := strings.CutPrefix(path, "outcall/")
			if !ours {
				continue
			}
			to = strings.Split(to, "/")[0]
			if s.test() && to == "integration" {
				continue // the small internet serves every room's tests
			}
			if !contains(allowed, to) {
				t.Errorf("%s imports %s: arrows go down only", s.path, path)
			}
			if s.dir() == "integration/world" && !s.test() {
				t.Errorf("%s imports %s: the world knows nothing of the program", s.path, path)
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func TestPolicyBuildsEverywhere(t *testing.T) {
	for _, system := range []string{"windows", "darwin"} {
		cmd := exec.Command("go", "build", "./policy/...")
		cmd.Dir = root(t)
		cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("GOOS=%s: %v\n%s", system, err, out)
		}
	}
}

// Sizes of what one can hold in the head.
const (
	fileLines     = 450
	functionLines = 45 // mostly
	functionMost  = 110
	mostly        = 0.95
	lineLength    = 180
)

func TestSizes(t *testing.T) {
	var functions, short int
	for _, s := range sources(t) {
		if n := bytes.Count(s.text, []byte("\n")); n > fileLines && !s.test() {
			t.Errorf("%s has %d lines: one subject a file", s.path, n)
		}
		for i, l := range strings.Split(string(s.text), "\n") {
			if utf8.RuneCountInString(l) > lineLength && !strings.Contains(l, "//go:") && !s.test() {
				t.Errorf("%s:%d: %d characters", s.path, i+1, len(l))
			}
		}
		if s.test() {
			continue
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			functions++
			n := s.lines(f)
			if n <= functionLines {
				short++
			}
			if n > functionMost {
				t.Errorf("%s: %s has %d lines", s.path, f.Name.Name, n)
			}
		}
	}
	if float64(short) < mostly*float64(functions) {
		t.Errorf("only %d of %d functions have at most %d lines", short, functions, functionLines)
	}
}

// Words that promise what is not there. They are spelt in halves so that this
// file does not hold them.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b|not implemen` + `ted|panic\("(load|step|read)`)

// lookups are the rooms in which no program may be found by PATH: an agent
// could have put it there.
var lookup = regexp.MustCompile(`exec\.LookPath\(|exec\.Command(Context)?\((ctx, )?"[^/"]+"`)

func TestNothingIsUnfinishedOrFoundByPath(t *testing.T) {
	for _, s := range sources(t) {
		for i, l := range strings.Split(string(s.text), "\n") {
			at := s.path + ":" + strconv.Itoa(i+1)
			if unfinished.MatchString(l) {
				t.Errorf("%s: unfinished: %s", at, strings.TrimSpace(l))
			}
			if !s.test() && !strings.HasPrefix(s.path, "integration/") && lookup.MatchString(l) {
				t.Errorf("%s: a program found by PATH: %s", at, strings.TrimSpace(l))
			}
		}
	}
}
