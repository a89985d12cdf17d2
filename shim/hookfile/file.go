package hookfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

const maxFile = 1 << 20

// A Change is one settings file before and after.
type Change struct {
	Path     string // below the project's directory
	Old, New []byte
	mode     fs.FileMode
}

// Install plans outcall's entries in the settings of an agent. Files that need
// no change are not among the changes.
func Install(dir, agent string) ([]Change, error) {
	return plan(dir, agent, place.install)
}

// Remove plans to take them out.
func Remove(dir, agent string) ([]Change, error) {
	return plan(dir, agent, place.uninstall)
}

func plan(dir, agent string, edit func(place, []byte) ([]byte, error)) ([]Change, error) {
	list, err := places(agent)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var out []Change
	for _, p := range list {
		c := Change{Path: p.path}
		if c.Old, c.mode, err = read(root, p.path); err != nil {
			return nil, err
		}
		if c.New, err = edit(p, c.Old); err != nil {
			return nil, fmt.Errorf("%s: %w; it was left as it is", p.path, err)
		}
		if !bytes.Equal(c.Old, c.New) {
			out = append(out, c)
		}
	}
	return out, nil
}

// plainParent refuses a directory that is none, and says whether it is there.
func plainParent(root *os.Root, name string) (bool, error) {
	parent := path.Dir(name)
	st, err := root.Lstat(parent)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !st.IsDir():
		return false, fmt.Errorf("%s: not a directory (symbolic links are not followed)", parent)
	}
	return true, nil
}

func read(root *os.Root, name string) ([]byte, fs.FileMode, error) {
	if there, err := plainParent(root, name); err != nil || !there {
		return nil, 0o644, err
	}
	st, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0o644, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a regular file (symbolic links are not followed)", name)
	}
	f, err := root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(st, now) {
		return nil, 0, fmt.Errorf("%s: it was replaced while it was read", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", name, maxFile)
	}
	return text, st.Mode().Perm(), err
}

// Write makes the changes, each at once and as a whole. A file that is another
// than when the change was planned is left alone.
func Write(dir string, changes []Change) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, c := range changes {
		if err := write(root, c); err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}

func write(root *os.Root, c Change) error {
	there, err := plainParent(root, c.Path)
	if err != nil {
		return err
	}
	if !there {
		if err := root.Mkdir(path.Dir(c.Path), 0o755); err != nil {
			return err
		}
	}
	now, _, err := read(root, c.Path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, c.Old) {
		return errors.New("it was changed meanwhile; try again")
	}
	tmp := c.Path + ".outcall-new"
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, c.mode)
	if err != nil {
		return err
	}
	_, err = f.Write(c.New)
	err = errors.Join(err, f.Chmod(c.mode), f.Sync(), f.Close())
	if err == nil {
		err = root.Rename(tmp, c.Path)
	}
	if err != nil {
		err = errors.Join(err, root.Remove(tmp))
	}
	return err
}

// Diff shows a change: the lines that go and come, and three around them.
func (c Change) Diff() string {
	const around = 3
	old, now := lines(c.Old), lines(c.New)
	head := 0
	for head < len(old) && head < len(now) && old[head] == now[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(now)-head && old[len(old)-1-tail] == now[len(now)-1-tail] {
		tail++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n@@ line %d @@\n", c.Path, c.Path, head+1)
	show := func(mark string, list []string) {
		for _, l := range list {
			b.WriteString(mark + l + "\n")
		}
	}
	show(" ", old[max(0, head-around):head])
	show("-", old[head:len(old)-tail])
	show("+", now[head:len(now)-tail])
	show(" ", old[len(old)-tail:min(len(old), len(old)-tail+around)])
	return b.String()
}

func lines(text []byte) []string {
	s := strings.TrimSuffix(string(text), "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
