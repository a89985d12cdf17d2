package view

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// MakeScratch makes an empty directory for a session's /tmp in the first of
// parents that is on disk, closed to other users and owned by the agent, and
// returns its path. Parents in memory are passed over. The caller removes it
// with RemoveScratch. "" means that none can be had, and the session's /tmp is
// a tmpfs.
func MakeScratch(uid, gid int, parents ...string) string {
	for _, p := range parents {
		var st unix.Statfs_t
		if unix.Statfs(p, &st) != nil || st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
			continue
		}
		dir, err := os.MkdirTemp(p, "outcall-tmp-") // 0700: nobody else's business
		if err != nil {
			continue
		}
		if os.Geteuid() != uid {
			err = os.Chown(dir, uid, gid)
		}
		if err == nil {
			return dir
		}
		_ = os.Remove(dir) // empty, and of no use
	}
	return ""
}

// RemoveScratch removes a directory with all that the agent has left in it,
// however deep, and whatever modes it has given it. It follows no symlink and
// needs a bounded number of descriptors. The agent must be dead. Files of
// subordinate ids can be removed only by a process in U1.
func RemoveScratch(dir string) error {
	err := removeAll(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the session's /tmp %s: %w", dir, err)
	}
	return nil
}

// removeAll flattens the tree: a directory's subdirectories are moved to the
// top before it is removed, so that depth costs neither descriptors nor stack.
func removeAll(dir string) error {
	top, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(top), dir)
	defer f.Close()
	moved := 0
	for {
		names, err := f.Readdirnames(1024)
		if len(names) == 0 {
			if _, serr := f.Seek(0, 0); serr != nil {
				return errors.Join(err, serr)
			}
			if names, _ = f.Readdirnames(1); len(names) == 0 {
				return unix.Rmdir(dir)
			}
		}
		for _, n := range names {
			if err := flatten(top, n, &moved); err != nil {
				return &os.PathError{Op: "remove", Path: n, Err: err}
			}
		}
	}
}

// flatten removes one entry of top; what it holds becomes entries of top.
func flatten(top int, name string, moved *int) error {
	err := unix.Unlinkat(top, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := unix.Unlinkat(top, name, unix.AT_REMOVEDIR); err == nil {
		return nil
	}
	fd, err := openDir(top, name)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	for {
		names, _ := d.Readdirnames(1024)
		if len(names) == 0 {
			break
		}
		for _, n := range names {
			if err := lift(top, fd, n, moved); err != nil {
				return err
			}
		}
		if _, err := d.Seek(0, 0); err != nil {
			return err
		}
	}
	return unix.Unlinkat(top, name, unix.AT_REMOVEDIR)
}

// lift unlinks a file or moves a directory to the top.
func lift(top, fd int, name string, moved *int) error {
	err := unix.Unlinkat(fd, name, 0)
	if err == nil || !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	sub, err := openDir(fd, name) // moving a directory needs the right to write it
	if err != nil {
		return err
	}
	unix.Close(sub)
	for {
		*moved++
		err = unix.Renameat2(fd, name, top, ".outcall-"+strconv.Itoa(*moved), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

// openDir opens a directory, never through a symlink, after giving its owner
// every right.
func openDir(at int, name string) (int, error) {
	p, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(p)
	if err := unix.Chmod(fdPath(p), 0o700); err != nil && !errors.Is(err, unix.EPERM) {
		return -1, err
	}
	return unix.Openat(p, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
