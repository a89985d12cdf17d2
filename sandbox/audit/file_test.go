package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "s")
	path := filepath.Join(dir, "audit.jsonl")
	o := Options{Path: path, Private: true}
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	w.Record(allow("one.test"))
	if _, err := Open(o); !errors.Is(err, ErrInUse) {
		t.Errorf("a live session's: %v, want ErrInUse", err)
	}
	for p, mode := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, path: 0o600} {
		if st, err := os.Stat(p); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v %v, want %v", p, st.Mode(), err, mode)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for range KeepOld + 2 {
		w, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		w.Record(allow("again.test"))
		w.Close()
	}
	names, _ := filepath.Glob(path + "*")
	if len(names) != KeepOld+1 {
		t.Errorf("files: %v, want %d", names, KeepOld+1)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if bad, verr := Verify(bytes.NewReader(b), ""); err != nil || bad != 0 || strings.Contains(string(b), "one.test") {
			t.Errorf("%s: %v, line %d: %v", n, err, bad, verr)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	target := filepath.Join(dir, "target")
	must(os.WriteFile(target, []byte("keep"), 0o600))
	must(os.Symlink(target, filepath.Join(dir, "link")))
	must(os.Mkdir(filepath.Join(dir, "wide"), 0o755))
	must(os.Mkdir(filepath.Join(dir, "open"), 0o777))
	must(os.Chmod(filepath.Join(dir, "open"), 0o777))
	must(os.Symlink(t.TempDir(), filepath.Join(dir, "dirlink")))
	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	foreign := "/usr/bin" // root's
	if os.Geteuid() == 0 {
		foreign = filepath.Join(dir, "foreign")
		must(os.Mkdir(foreign, 0o700))
		must(os.Chown(foreign, 1, 1))
	}
	for name, o := range map[string]Options{
		"symlink":              {Path: filepath.Join(dir, "link")},
		"fifo":                 {Path: filepath.Join(dir, "fifo")},
		"directory":            {Path: dir + "/"},
		"a directory as file":  {Path: filepath.Join(dir, "wide")},
		"missing directory":    {Path: filepath.Join(dir, "no", "audit")},
		"others may enter":     {Path: filepath.Join(dir, "wide", "audit"), Private: true},
		"directory's symlink":  {Path: filepath.Join(dir, "dirlink", "audit"), Private: true},
		"everyone may rename":  {Path: filepath.Join(dir, "open", "audit")},
		"somebody else's":      {Path: filepath.Join(foreign, "audit"), Private: true},
		"a device":             {Path: "/dev/null"},
		"empty":                {},
		"parent":               {Path: filepath.Join(dir, "x") + "/.."},
		"directory is no such": {Path: filepath.Join(target, "audit")},
	} {
		if w, err := Open(o); err == nil {
			t.Errorf("%s: taken", name)
			w.Close()
		}
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "keep" {
		t.Errorf("the link's target: %q, %v", b, err)
	}
}
