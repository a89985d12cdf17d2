package view

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// maxGuarded bounds the files and directories that are looked through below
// the protected paths; the house allows 1,024 rule files.
const maxGuarded = 8192

// guards finds everything that must be read-only or hidden, the names on the
// way there that must not be renamed, and the same files under other mounts.
func (p *planner) guards() error {
	for _, list := range [][]string{p.o.Config, p.o.State} {
		for _, d := range list {
			p.at = d
			if err := p.make(d); err != nil {
				return err
			}
		}
	}
	exe, err := p.executable()
	if err != nil {
		return err
	}
	for _, path := range slices.Concat(p.o.Config, p.o.ReadOnly, []string{exe}) {
		if err := p.guard(path); err != nil {
			return err
		}
	}
	for _, path := range p.o.State {
		p.at = path
		real, err := p.pin(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if below(p.s.Dir, real) {
			return errors.New("the working directory lies in outcall's own state directory")
		}
		p.s.Hidden = append(p.s.Hidden, p.aliases(real)...)
	}
	return nil
}

// make creates a directory of outcall's own. Where it cannot be made it is
// enough that the agent cannot make it either.
func (p *planner) make(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		return nil
	}
	_, steps, werr := walk(dir)
	if !errors.Is(werr, os.ErrNotExist) || p.who.canChange(filepath.Dir(steps[len(steps)-1])) && !readOnlyFS(filepath.Dir(steps[len(steps)-1])) {
		return err
	}
	return nil
}

func readOnlyFS(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// pin follows a path and notes every name on the way that the agent could
// rename or replace. The last is left to what is mounted there.
func (p *planner) pin(path string) (string, error) {
	real, steps, err := walk(path)
	if err != nil {
		return real, err
	}
	for _, s := range steps {
		if s != real && p.seen(s) && p.who.canChange(filepath.Dir(s)) && !slices.Contains(p.s.Pinned, s) {
			p.s.Pinned = append(p.s.Pinned, s)
		}
	}
	return real, nil
}

// guard makes one path, and what symlinks inside it lead to, read-only.
func (p *planner) guard(path string) error {
	p.at = path
	real, err := p.pin(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EACCES) && p.who.self {
		return nil
	}
	if err != nil {
		return err
	}
	if below(p.s.Dir, real) {
		return errors.New("the working directory lies in a protected directory; start from another one")
	}
	if slices.ContainsFunc(p.s.ReadOnly, func(g Guarded) bool { return g.Path == real }) {
		return nil
	}
	for _, q := range p.aliases(real) {
		var st unix.Stat_t
		if err := unix.Lstat(q, &st); err != nil {
			return err
		}
		p.s.ReadOnly = append(p.s.ReadOnly, Guarded{Path: q, Dev: st.Dev, Ino: st.Ino})
	}
	return p.inside(real)
}

// inside looks for what makes a read-only mount too little: a file with a
// second name elsewhere, and symlinks that lead out.
func (p *planner) inside(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
				return nil // neither outcall nor the agent reads it
			}
			return err
		}
		p.at = path
		if p.looked++; p.looked > maxGuarded {
			return fmt.Errorf("more than %d files in protected directories", maxGuarded)
		}
		if d.Type() == os.ModeSymlink {
			return p.guard(path)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if d.Type().IsRegular() && st.Nlink > 1 && p.couldWrite(&st) && !p.unwritable(path) {
			return &Error{Stage: "protect", Detail: fmt.Sprintf("%s has %d names (hard links), and the command could write it by another", path, st.Nlink),
				Hint: "replace it by a copy of its own: cp FILE FILE.new && mv FILE.new FILE"}
		}
		return nil
	})
}

// couldWrite reports whether the agent may write a file, or give itself the
// right to.
func (p *planner) couldWrite(st *unix.Stat_t) bool {
	return p.who.root || int(st.Uid) == p.who.uid || p.who.many && st.Uid != 0 || st.Mode&0o022 != 0
}

// unwritable reports whether a file lies where nothing at all can be written,
// as the program does inside a session.
func (p *planner) unwritable(path string) bool {
	where, ok := locate(p.table, path)
	return ok && !p.who.root && where.readOnly(p.table)
}

// aliases lists the paths under which a file can be seen in the mount table,
// the given one first: a bind mount or a second mount of the file system shows
// the same file without the flags of the first.
func (p *planner) aliases(real string) []string {
	out := []string{real}
	where, ok := locate(p.table, real)
	if !ok {
		return out
	}
	var st, other unix.Stat_t
	if unix.Lstat(real, &st) != nil {
		return out
	}
	for _, q := range where.paths(p.table) {
		if q != real && !slices.Contains(out, q) && unix.Lstat(q, &other) == nil && other.Dev == st.Dev && other.Ino == st.Ino {
			out = append(out, q)
		}
	}
	return out
}

// Lost lists the protected files that are no longer the ones that were
// protected: the host has put another file in their place, which the kernel
// lets it do, and then the mount that kept the agent out is gone too. What
// they say must not be taken for the operator's word.
func (s Spec) Lost() []string {
	var out []string
	for _, g := range s.ReadOnly {
		var st unix.Stat_t
		if err := unix.Lstat(g.Path, &st); err != nil || st.Dev != g.Dev || st.Ino != g.Ino {
			out = append(out, g.Path)
		}
	}
	return out
}
