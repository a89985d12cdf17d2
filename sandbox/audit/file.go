package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// KeepOld is how many older sessions' files stay beside the present one.
const KeepOld = 9

// ErrInUse says that another session writes to the file.
var ErrInUse = errors.New("another session writes to it")

// openFile makes an empty file at path, mode 0600, and rotates what is there.
// A private directory is made where it is missing, and must be the user's own
// with mode 0700. The lock on the file lasts as long as it is open.
func openFile(path string, private bool) (*os.File, error) {
	dir, base := filepath.Split(path)
	if base == "" || base == "." || base == ".." {
		return nil, fmt.Errorf("audit: %s names no file", path)
	}
	if dir == "" {
		dir = "."
	}
	if private {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("audit: make directory: %w", err)
		}
	}
	d, err := openDir(filepath.Clean(dir), private)
	if err != nil {
		return nil, err
	}
	defer unix.Close(d)
	if err := rotate(d, base); err != nil {
		return nil, fmt.Errorf("audit: %s: %w", path, err)
	}
	fd, err := unix.Openat(d, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: create %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	err = unix.Fchmod(fd, 0o600) // whatever the umask is
	if err == nil {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("audit: lock %s: %w", path, err)
	}
	return f, nil
}

func openDir(dir string, private bool) (int, error) {
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if private {
		flags |= unix.O_NOFOLLOW
	}
	d, err := unix.Open(dir, flags, 0)
	if err != nil {
		return -1, fmt.Errorf("audit: open directory %s: %w", dir, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(d, &st)
	switch {
	case err != nil:
	case private && int(st.Uid) != os.Geteuid():
		err = fmt.Errorf("it belongs to uid %d", st.Uid)
	case private && st.Mode&0o077 != 0:
		err = fmt.Errorf("its mode is %#o, want 0700", st.Mode&0o7777)
	case st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0:
		err = errors.New("everyone can rename files in it")
	}
	if err != nil {
		unix.Close(d)
		return -1, fmt.Errorf("audit: directory %s: %w", dir, err)
	}
	return d, nil
}

// rotate moves base to base.1, base.1 to base.2, and so on; the oldest goes.
func rotate(d int, base string) error {
	old, err := unix.Openat(d, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the older session's: %w", err)
	}
	defer unix.Close(old)
	var st unix.Stat_t
	if err := unix.Fstat(old, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("it is no regular file")
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to uid %d", st.Uid)
	}
	if err := unix.Flock(old, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrInUse
		}
		return fmt.Errorf("lock: %w", err)
	}
	name := func(i int) string {
		if i == 0 {
			return base
		}
		return base + "." + strconv.Itoa(i)
	}
	for i := KeepOld - 1; i >= 0; i-- {
		if err := unix.Renameat(d, name(i), d, name(i+1)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("rotate to %s: %w", name(i+1), err)
		}
	}
	return nil
}
