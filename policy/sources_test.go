//go:build unix

package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func oneRule(id string) string {
	return "version: \"1\"\nrules:\n  - {id: " + id + ", action: allow, condition: 'true'}\n"
}

// loaded reads and loads, and returns the ids in order.
func loaded(t *testing.T, s *Sources) (ids string, notes []string) {
	t.Helper()
	src, notes, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	snap, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range snap.Rules() {
		out = append(out, r.ID)
	}
	return strings.Join(out, " "), notes
}

func open(t *testing.T, p Places) *Sources {
	t.Helper()
	s, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestSources(t *testing.T) {
	d := t.TempDir()
	p := Places{WorkDir: d + "/work", UserDir: d + "/user", SysDir: d + "/sys", Trust: TrustStore{d + "/trust"}}
	for _, dir := range []string{p.WorkDir, p.UserDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, d+"/sys/rules.d/s.yaml", oneRule("sys"))
	s := open(t, p)
	if ids, notes := loaded(t, s); ids != "sys" || len(notes) > 0 {
		t.Errorf("system only: %s %v", ids, notes)
	}
	write(t, d+"/user/rules.d/b.yml", oneRule("user"))
	write(t, d+"/user/rules.d/ignored.txt", "x")
	if ids, _ := loaded(t, s); ids != "user" {
		t.Errorf("user's own, made later: %s", ids)
	}
	write(t, p.WorkDir+"/.outcall/rules/p.yaml", oneRule("project"))
	if ids, notes := loaded(t, s); ids != "user" || len(notes) != 1 || !strings.Contains(notes[0], "not trusted") {
		t.Errorf("untrusted project: %s %v", ids, notes)
	}
	trust(t, p)
	if ids, notes := loaded(t, s); ids != "user project" && ids != "project user" || len(notes) > 0 {
		t.Errorf("trusted project: %s %v", ids, notes)
	}
	write(t, p.WorkDir+"/.outcall/rules/q.yaml", oneRule("evil"))
	if ids, notes := loaded(t, s); ids != "user" || len(notes) != 1 {
		t.Errorf("a file added to a trusted project: %s %v", ids, notes)
	}
	p.Rules, p.Allow = []string{d + "/sys/rules.d/s.yaml"}, []string{"a.test"}
	if ids, _ := loaded(t, open(t, p)); ids != "sys cli-1" {
		t.Errorf("--rules and --allow: %s", ids)
	}
	p.Rules = []string{d + "/missing"}
	if _, err := p.Open(); err == nil {
		t.Error("a missing --rules path is accepted")
	}
}

func trust(t *testing.T, p Places) {
	t.Helper()
	src, err := ReadProject(p.WorkDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Trust.Trust(p.WorkDir, src); err != nil {
		t.Fatal(err)
	}
}

// TestK19OlderProjectRulesAreNotTrusted: a copy elsewhere, another content, another
// name of a file and an older trust are no trust.
func TestK19OlderProjectRulesAreNotTrusted(t *testing.T) {
	d := t.TempDir()
	p := Places{WorkDir: d + "/work", Trust: TrustStore{d + "/trust"}}
	file := p.WorkDir + "/.outcall/rules/p.yaml"
	write(t, file, oneRule("one"))
	trust(t, p)
	is := func(want string) {
		t.Helper()
		if ids, _ := loaded(t, open(t, p)); ids != want {
			t.Errorf("loaded %q, want %q", ids, want)
		}
	}
	is("one")
	write(t, file, oneRule("two"))
	is("")
	trust(t, p)
	is("two")
	write(t, file, oneRule("one")) // an older one, put back by a checkout
	is("")
	write(t, file, oneRule("two"))
	if err := os.Rename(file, filepath.Dir(file)+"/q.yaml"); err != nil {
		t.Fatal(err)
	}
	is("")
	if err := os.Rename(filepath.Dir(file)+"/q.yaml", file); err != nil {
		t.Fatal(err)
	}
	is("two")
	if err := os.CopyFS(d+"/copy", os.DirFS(p.WorkDir)); err != nil {
		t.Fatal(err)
	}
	elsewhere := p
	elsewhere.WorkDir = d + "/copy"
	if ids, _ := loaded(t, open(t, elsewhere)); ids != "" {
		t.Errorf("a copy is trusted: %s", ids)
	}
	if err := p.Trust.Forget(p.WorkDir); err != nil {
		t.Fatal(err)
	}
	is("")
}

// TestOnlyRegularFiles: links, pipes and directories named like rule files
// are errors where the operator put them, and a note in a project.
func TestOnlyRegularFiles(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/real.yaml", oneRule("real"))
	for name, make := range map[string]func(string) error{
		"link":      func(p string) error { return os.Symlink(d+"/real.yaml", p) },
		"near link": func(p string) error { return os.Symlink("b.yaml", p) },
		"pipe":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		dir := filepath.Join(d, name, ".outcall/rules")
		write(t, dir+"/b.yaml", oneRule("b"))
		if err := make(dir + "/a.yaml"); err != nil {
			t.Fatal(err)
		}
		if src, err := ReadPaths(Operator, dir); err == nil {
			t.Errorf("%s: read %d files", name, len(src))
		}
		if name != "directory" {
			if _, err := ReadPaths(Operator, dir+"/a.yaml"); err == nil {
				t.Errorf("%s named itself is read", name)
			}
		}
		if ids, notes := loaded(t, open(t, Places{WorkDir: filepath.Join(d, name)})); ids != "" || len(notes) != 1 {
			t.Errorf("%s in a project: %q %v", name, ids, notes)
		}
	}
	if err := os.Symlink("/etc", d+"/out"); err != nil {
		t.Fatal(err)
	}
	work := d + "/escape"
	if err := os.MkdirAll(work, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(d+"/link/.outcall", work+"/.outcall"); err != nil {
		t.Fatal(err)
	}
	if ids, notes := loaded(t, open(t, Places{WorkDir: work})); ids != "" || len(notes) != 1 {
		t.Errorf("a project directory that is a link out: %q %v", ids, notes)
	}
}

// TestReadsTheDirectoryThatWasOpened: what is put in its place does not count.
func TestReadsTheDirectoryThatWasOpened(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/rules/a.yaml", oneRule("good"))
	s := open(t, Places{Rules: []string{d + "/rules"}})
	if err := os.Rename(d+"/rules", d+"/away"); err != nil {
		t.Fatal(err)
	}
	write(t, d+"/rules/a.yaml", oneRule("evil"))
	if ids, _ := loaded(t, s); ids != "good" {
		t.Errorf("loaded %s", ids)
	}
}

func TestReadLimits(t *testing.T) {
	d := t.TempDir()
	write(t, d+"/big.yaml", strings.Repeat("x", MaxFileSize+1))
	if _, err := ReadPaths(Operator, d); err == nil {
		t.Error("a file beyond the limit is read")
	}
	for i := range MaxFiles + 1 {
		write(t, fmt.Sprintf("%s/many/%d.yaml", d, i), "")
	}
	if _, err := ReadPaths(Operator, d+"/many"); err == nil {
		t.Error("more files than the limit are read")
	}
	if err := os.Remove(d + "/many/0.yaml"); err != nil {
		t.Fatal(err)
	}
	if src, err := ReadPaths(Operator, d+"/many"); err != nil || len(src) != MaxFiles {
		t.Errorf("at the limit: %d files, %v", len(src), err)
	}
}
