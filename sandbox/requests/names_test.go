package requests

import (
	"os"
	"path/filepath"
	"testing"
)

// A directory's name need not be text: what is kept for it is read again, and
// for no other.
func TestProjectOfAnyName(t *testing.T) {
	base := t.TempDir()
	for i, name := range []string{"a\xff", "a\xfe", "a?"} {
		dir := filepath.Join(base, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s := at(t, filepath.Join(base, "requests~"), dir)
		add(t, s, i, "text")
		list, err := at(t, s.dir, dir).List(t.Context())
		if err != nil || len(list) != 1 || list[0].ID != id(i) {
			t.Errorf("%q: %v, %v", name, list, err)
		}
	}
}
