package view

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// protect makes the ancestors of protected paths mount points, outermost
// first, and then the paths read-only. A path that is not there, or that
// cannot be reached with the agent's own rights over files, needs nothing.
func (a *applier) protect() error {
	for _, p := range a.s.Pinned {
		a.at = p
		if err := bindSelf(p); err != nil && !gone(err) {
			return err
		}
	}
	for _, g := range a.s.ReadOnly {
		a.at = g.Path
		if err := a.lock(g.Path); err != nil {
			return err
		}
		var st unix.Stat_t
		err := unix.Lstat(g.Path, &st)
		if err == nil && (st.Dev != g.Dev || st.Ino != g.Ino) && !a.ours(g.Path) {
			return errors.New("was replaced while the sandbox started")
		}
		if err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// hide puts an empty directory in the place of each hidden one.
func (a *applier) hide() error { return a.cover(a.s.Hidden, RunDir+"/void", unix.S_IFDIR) }

// sockets puts an empty file in the place of each socket: connect() asks for
// no write permission of the mount, so nothing less keeps it from them.
func (a *applier) sockets() error { return a.cover(a.s.Sockets, RunDir+"/empty", unix.S_IFSOCK) }

func (a *applier) cover(paths []string, with string, typ uint32) error {
	for _, p := range paths {
		a.at = p
		fd, err := openPath(p)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == typ {
			err = mountCall(with, fdPath(fd), "", unix.MS_BIND, "")
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// names covers /etc/resolv.conf and /etc/hosts.
func (a *applier) names() error {
	missing := map[string]string{}
	for _, n := range []string{"resolv.conf", "hosts"} {
		a.at = "/etc/" + n
		ok, err := a.coverName("/etc/"+n, filepath.Join(RunDir, n))
		if err != nil {
			return err
		}
		if !ok {
			missing[n] = filepath.Join(RunDir, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	a.at = "/etc"
	return rebuild("/etc", missing)
}

// coverName binds src over the file that a name leads to, following symlinks
// through the new view. Where the last link leads into a directory of ours the
// file is made there. False means that there is nothing to mount on.
func (a *applier) coverName(name, src string) (bool, error) {
	for range maxLinks {
		dir, err := resolveMissing(filepath.Dir(name))
		if err != nil {
			return false, nil
		}
		if a.ours(dir) {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return false, err
			}
		}
		name = filepath.Join(dir, filepath.Base(name))
		fi, err := os.Lstat(name)
		switch {
		case errors.Is(err, os.ErrNotExist) && a.ours(name):
			if err := mountPoint(name, false); err != nil {
				return false, err
			}
		case err != nil:
			return false, nil
		case fi.Mode().Type() == os.ModeSymlink:
			to, err := os.Readlink(name)
			if err != nil {
				return false, err
			}
			if !filepath.IsAbs(to) {
				to = dir + "/" + to
			}
			name = to
			continue
		case !fi.Mode().IsRegular():
			return false, nil
		}
		return true, mountCall(src, name, "", unix.MS_BIND, "")
	}
	return false, nil
}

// ours reports whether a path lies in a directory that this view made.
func (a *applier) ours(path string) bool {
	for _, d := range a.s.RunDirs {
		if below(path, d) {
			return true
		}
	}
	return a.s.TmpDir != "" && below(path, a.s.TmpDir)
}

// rebuild puts a read-only copy of a directory in its place, made of binds of
// its entries, with some files added or replaced: a mount point must exist,
// and none is created in the user's tree. Entries that the host adds later are
// not seen.
func rebuild(dir string, files map[string]string) error {
	old, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer old.Close()
	entries, err := old.ReadDir(-1)
	if err != nil {
		return err
	}
	if err := tmpfs(dir, "mode=0755"); err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := files[e.Name()]; ok {
			continue
		}
		from, to := fdPath(int(old.Fd()))+"/"+e.Name(), filepath.Join(dir, e.Name())
		if err := rebind(e, from, to); err != nil {
			return err
		}
	}
	for name, src := range files {
		to := filepath.Join(dir, name)
		if err := mountPoint(to, false); err != nil {
			return err
		}
		if err := mountCall(src, to, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return readOnly(dir, false)
}

func rebind(e os.DirEntry, from, to string) error {
	if e.Type() == os.ModeSymlink {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if err := mountPoint(to, e.IsDir()); err != nil {
		return err
	}
	return bind(from, to)
}
