package platform

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Specifically we expect: mounts made in a mount namespace of the ancestor,
// before the child's mount namespace is made, cannot be taken off, made
// writable or gone around by the child, whatever capabilities it has.
func TestMountsOfAncestorAreLocked(t *testing.T) { holds(t, "locked") }

// Specifically we expect: what the child mounts itself, it can take off: so
// nothing that protects may be mounted there.
func TestOwnMountsAreNotLocked(t *testing.T) { holds(t, "unlocked") }

// Specifically we expect: renaming the directory above a bind goes around it,
// and a directory that is itself a mount point cannot be renamed.
func TestRenameGoesAroundABind(t *testing.T) { holds(t, "rename") }

// Specifically we expect: a mount below /proc forbids every fresh proc in
// nested user namespaces, and a bare one allows it, with hidepid too.
func TestFreshProcNeedsABareOne(t *testing.T) { holds(t, "proc") }

// Specifically we expect: connect() to a path socket works through a
// read-only mount, so that read-only is no protection from host services.
func TestReadOnlyMountDoesNotStopConnect(t *testing.T) { holds(t, "ro-connect") }

// Specifically we expect: a descriptor that was opened for reading is opened
// anew for writing through /proc/self/fd.
func TestReopenThroughProc(t *testing.T) { holds(t, "reopen") }

func scratch() (string, error) {
	dir, err := os.MkdirTemp("", "fact")
	if err != nil {
		return "", err
	}
	return dir, unix.Mount("fact", dir, "tmpfs", 0, "")
}

func init() {
	facts["locked"] = func() error { return again(inU1NS, "locked-u1") }
	facts["locked-u1"] = func() error {
		dir, err := scratch()
		if err != nil {
			return err
		}
		secret, cover := dir+"/secret", dir+"/cover"
		for _, d := range []string{secret, cover} {
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(secret+"/s", []byte("secret"), 0o644); err != nil {
			return err
		}
		if err := errors.Join(
			unix.Mount(cover, secret, "", unix.MS_BIND, ""),
			unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""),
			unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
			return err
		}
		if err := os.Setenv("FACT_DIR", dir); err != nil {
			return err
		}
		return again(inU2NS, "locked-u2")
	}
	facts["locked-u2"] = func() error {
		dir := os.Getenv("FACT_DIR")
		secret, away := dir+"/secret", "/mnt"
		return errors.Join(
			want("umount the cover", unix.Unmount(secret, 0), unix.EINVAL),
			want("lazy umount", unix.Unmount(secret, unix.MNT_DETACH), unix.EINVAL),
			want("remount rw", unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT, ""), unix.EPERM),
			want("bind without what is mounted below", unix.Mount(dir, away, "", unix.MS_BIND, ""), unix.EINVAL),
			want("write", os.WriteFile(dir+"/x", nil, 0o644), unix.EROFS))
	}

	facts["unlocked"] = func() error { return again(inU1NS, "unlocked-u1") }
	facts["unlocked-u1"] = func() error {
		if err := unix.Mount("own", "/mnt", "tmpfs", 0, ""); err != nil {
			return err
		}
		return unix.Unmount("/mnt", 0)
	}

	facts["rename"] = func() error { return again(inU1NS, "rename-u1") }
	facts["rename-u1"] = func() error {
		dir, err := scratch()
		if err != nil {
			return err
		}
		hooks := filepath.Join(dir, "git/hooks")
		if err := os.MkdirAll(hooks, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(hooks, hooks, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		around := os.Rename(dir+"/git", dir+"/moved")
		back := os.Rename(dir+"/moved", dir+"/git")
		if err := unix.Mount(dir+"/git", dir+"/git", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
		return errors.Join(
			want("rename around the bind", around, nil), want("rename back", back, nil),
			want("rename a mount point", os.Rename(dir+"/git", dir+"/moved"), unix.EBUSY))
	}

	facts["proc"] = func() error { return again(inU1Full, "proc-u1") }
	facts["proc-u1"] = func() error {
		if err := unix.Mount("proc", "/proc", "proc", 0, "hidepid=invisible"); err != nil {
			return fmt.Errorf("proc with hidepid: %w", err)
		}
		bare := again(inU2NS|unix.CLONE_NEWPID, "proc-fresh")
		if err := unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := again(inU2NS|unix.CLONE_NEWPID, "proc-fresh"); err == nil || !strings.Contains(err.Error(), "operation not permitted") {
			return fmt.Errorf("a fresh proc beside a mount below /proc: %v", err)
		}
		return bare
	}
	facts["proc-fresh"] = func() error { return unix.Mount("proc", "/proc", "proc", 0, "") }

	facts["ro-connect"] = func() error { return again(inU1NS, "ro-connect-u1") }
	facts["ro-connect-u1"] = func() error {
		dir, err := scratch()
		if err != nil {
			return err
		}
		addr := &unix.SockaddrUnix{Name: dir + "/s"}
		l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(unix.Bind(l, addr), unix.Listen(l, 1),
			unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
			return err
		}
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return want("connect", unix.Connect(c, addr), nil)
	}

	facts["reopen"] = func() error {
		f, err := os.CreateTemp("", "fact")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name())
		ro, err := os.Open(f.Name())
		if err != nil {
			return err
		}
		rw, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", ro.Fd()), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = rw.WriteString("x")
		return err
	}
}
