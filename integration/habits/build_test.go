package habits

import (
	"crypto/sha256"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"outcall/integration/harness"
)

func TestTwoBuildsAreIdentical(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the second build has an empty cache and takes minutes")
	}
	var sums [2]map[string][32]byte
	for i := range sums {
		dir := t.TempDir()
		cache := ""
		if i == 1 {
			cache = t.TempDir()
		}
		sums[i] = map[string][32]byte{}
		for _, name := range []string{"outcall", "outcall-agent"} {
			file := filepath.Join(dir, name)
			build(t, file, "./cmd/"+name, cache)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sums[i][name] = sha256.Sum256(b)
			static(t, file)
		}
	}
	for name := range sums[0] {
		if sums[0][name] != sums[1][name] {
			t.Errorf("two builds of %s differ", name)
		}
	}
}

func build(t *testing.T, out, pkg, cache string) {
	t.Helper()
	cmd := exec.Command("go", append(append([]string{"build"}, harness.BuildFlags...), "-o", out, pkg)...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if cache != "" {
		cmd.Env = append(cmd.Env, "GOCACHE="+cache)
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, text)
	}
}

// static demands that a program needs no interpreter and no library.
func static(t *testing.T, file string) {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static", filepath.Base(file))
		}
	}
}
