package view

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds the symlinks in one lookup; it is the kernel's own bound.
const maxLinks = 40

// walk follows a path as the kernel would. steps are all names that the lookup
// used, each with a parent free of symlinks: directories, symlinks and the
// file itself. real is the last of them, also if it does not exist.
func walk(path string) (real string, steps []string, err error) {
	todo := strings.Split(filepath.Clean(path), "/")
	at, links := "/", 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		steps = append(steps, next)
		fi, err := os.Lstat(next)
		if err != nil {
			return filepath.Join(append([]string{next}, todo...)...), steps, err
		}
		if fi.Mode().Type() != os.ModeSymlink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return next, steps, &fs.PathError{Op: "lookup", Path: path, Err: unix.ELOOP}
		}
		to, err := os.Readlink(next)
		if err != nil {
			return next, steps, err
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	return at, steps, nil
}

// resolveMissing resolves the symlinks of a path of which the end may not
// exist yet.
func resolveMissing(path string) (string, error) {
	real, _, err := walk(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return real, nil
}

// An owner says whose rights over files the agent has.
type owner struct {
	uid, gid int
	groups   []int
	many     bool // it has subordinate ids too: any owner but root may be it
	root     bool // kernel uid 0
	self     bool // the planning process has the same rights
}

// canChange reports whether the agent could make, rename or remove names in a
// directory, or give itself the right to. In doubt it says yes. The group bits
// of a file with an access list are the mask over the whole list (acl(5)), so
// they need no look of their own.
func (o owner) canChange(dir string) bool {
	var st unix.Stat_t
	if o.root || unix.Stat(dir, &st) != nil {
		return true
	}
	if int(st.Uid) == o.uid || o.many && st.Uid != 0 || st.Mode&0o022 != 0 {
		return true
	}
	return o.self && unix.Access(dir, unix.W_OK) == nil
}

// canEnter reports whether the agent can reach and use a directory as its
// working directory.
func (o owner) canEnter(dir string) bool {
	if o.root || o.self {
		return unix.Access(dir, unix.X_OK) == nil
	}
	for d := dir; ; d = filepath.Dir(d) {
		var st unix.Stat_t
		if unix.Stat(d, &st) != nil || !o.has(&st, 0o1) {
			return false
		}
		if d == "/" {
			return true
		}
	}
}

// canWrite reports whether the agent can make files in a directory. It is asked
// for another uid than the caller's only: who starts outcall in a directory of
// others knows it.
func (o owner) canWrite(dir string) bool {
	var st unix.Stat_t
	return o.root || o.self || unix.Stat(dir, &st) != nil || o.has(&st, 0o3)
}

func (o owner) has(st *unix.Stat_t, bit uint32) bool {
	switch {
	case int(st.Uid) == o.uid:
		bit <<= 6
	case int(st.Gid) == o.gid || slices.Contains(o.groups, int(st.Gid)):
		bit <<= 3
	}
	return st.Mode&bit == bit
}
