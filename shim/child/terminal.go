package child

import "golang.org/x/sys/unix"

// A terminal is the controlling one, if there is one.
type terminal struct {
	fd    int // -1: none
	saved *unix.Termios
	// whole: the command shall be in the foreground whenever this process' group
	// could be.
	whole bool
}

func openTerminal() *terminal {
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return &terminal{fd: -1}
	}
	t := &terminal{fd: fd, whole: true}
	t.saved, _ = unix.IoctlGetTermios(fd, unix.TCGETS) // without it nothing is restored
	for std := range 2 {
		if _, err := unix.IoctlGetTermios(std, unix.TCGETS); err != nil {
			t.whole = false
		}
	}
	return t
}

// foreground is the group that may read; -1 where there is no terminal.
func (t *terminal) foreground() int {
	pgrp, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return pgrp
}

func (t *terminal) give(pgrp int) { _ = unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, pgrp) }

func (t *terminal) restore() {
	if t.saved != nil {
		_ = unix.IoctlSetTermios(t.fd, unix.TCSETSW, t.saved)
	}
}

func (t *terminal) close() {
	if t.fd >= 0 {
		_ = unix.Close(t.fd)
	}
}
