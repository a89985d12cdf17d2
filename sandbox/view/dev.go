package view

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// devNodes are all the host devices an agent sees.
var devNodes = []string{"null", "zero", "full", "random", "urandom", "tty"}

// devLinks point into /proc, as on every Linux.
var devLinks = [][2]string{
	{"/proc/self/fd", "fd"}, {"fd/0", "stdin"}, {"fd/1", "stdout"}, {"fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
}

// dev replaces /dev: bound nodes (a user namespace can make none), a devpts
// whose terminals are the session's own, and its own shared memory and message
// queues.
func (a *applier) dev() error {
	a.at = "/dev"
	old, err := openPath("/dev")
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := mountCall("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return err
	}
	for _, n := range devNodes {
		a.at = "/dev/" + n
		if err := mountPoint(a.at, false); err != nil {
			return err
		}
		if err := bind(fdPath(old)+"/"+n, a.at); err != nil {
			return err
		}
	}
	for _, l := range devLinks {
		a.at = "/dev/" + l[1]
		if err := os.Symlink(l[0], a.at); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		path, fstype, options string
		flags                 uintptr
	}{
		{"/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"/dev/shm", "tmpfs", "mode=1777", own},
		{"/dev/mqueue", "mqueue", "", own | unix.MS_NOEXEC},
	} {
		a.at = m.path
		if err := os.Mkdir(m.path, 0o755); err != nil {
			return err
		}
		err := mountCall(m.fstype, m.path, m.fstype, m.flags, m.options)
		if errors.Is(err, unix.ENODEV) && m.fstype == "mqueue" {
			continue // a kernel without POSIX message queues
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// seal makes /dev itself read-only, after --bind has had its say.
func (a *applier) seal() error {
	a.at = "/dev"
	return readOnly("/dev", false)
}
