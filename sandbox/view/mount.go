package view

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// own is how every tmpfs of ours is mounted.
const own = unix.MS_NOSUID | unix.MS_NODEV

// openPath opens a path without following a symlink at its end and without
// needing any permission on the file itself.
func openPath(path string) (int, error) {
	return unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
}

// fdPath names an open descriptor. Mounting from and onto this name reaches
// exactly what was opened, whatever has happened to the path since.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// A mountError is the kernel's answer to a mount call, which a security module
// or an outer filter may have given; all other errors are about paths.
type mountError struct{ errno error }

func (e *mountError) Error() string { return e.errno.Error() }
func (e *mountError) Unwrap() error { return e.errno }

func refused(err error) error {
	if err == nil {
		return nil
	}
	return &mountError{err}
}

// mountCall is the one place where this package calls mount(2).
func mountCall(src, dst, fstype string, flags uintptr, options string) error {
	return refused(unix.Mount(src, dst, fstype, flags, options))
}

// bind mounts src, with everything mounted below it, on dst.
func bind(src, dst string) error {
	return mountCall(src, dst, "", unix.MS_BIND|unix.MS_REC, "")
}

func tmpfs(dst, options string) error {
	return mountCall("tmpfs", dst, "tmpfs", own, options)
}

// bindSelf makes a path a mount point of itself, so that it can be neither
// renamed nor removed inside.
func bindSelf(path string) error {
	fd, err := openPath(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return bind(fdPath(fd), fdPath(fd))
}

// readOnly makes the mount at path, and with rec all mounts below it,
// read-only.
func readOnly(path string, rec bool) error {
	flags := uint(unix.AT_SYMLINK_NOFOLLOW)
	if rec {
		flags |= unix.AT_RECURSIVE
	}
	err := refused(unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
	if err == nil || !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return remountReadOnly(path, rec) // Linux before 5.12, or an outer filter that does not know the call
}

// remountReadOnly is readOnly one mount at a time. In a mount namespace of
// another user namespace a remount must repeat the flags that the mount has
// (mount_namespaces(7)).
func remountReadOnly(path string, rec bool) error {
	points := []string{path}
	if rec {
		table, err := readMounts("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for _, m := range table {
			if m.point != path && below(m.point, path) {
				points = append(points, m.point)
			}
		}
	}
	for _, p := range points {
		var st unix.Statfs_t
		if err := unix.Statfs(p, &st); err != nil {
			return err
		}
		flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY)
		for _, f := range [...][2]uintptr{
			{unix.ST_NOSUID, unix.MS_NOSUID}, {unix.ST_NODEV, unix.MS_NODEV}, {unix.ST_NOEXEC, unix.MS_NOEXEC},
			{unix.ST_NOATIME, unix.MS_NOATIME}, {unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
		} {
			if uintptr(st.Flags)&f[0] != 0 {
				flags |= f[1]
			}
		}
		if err := mountCall("", p, "", flags, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountPoint makes a place to mount on inside a directory of ours: a
// directory for a directory, an empty file for anything else.
func mountPoint(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func isDir(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// below reports whether path is dir or lies below it; both are clean.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// gone reports whether a path that does not open with this error can not be
// reached inside either: Apply has at least the agent's rights over files.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EACCES)
}
