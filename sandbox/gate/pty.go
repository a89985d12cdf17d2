package gate

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openPTY makes a terminal of the devpts that the calling thread sees at
// /dev: the view's own instance.
func openPTY(rows, cols uint16) (master, slave int, err error) {
	master, err = openAt(unix.AT_FDCWD, "/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return -1, -1, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(master)
		}
	}()
	if err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, -1, fmt.Errorf("unlock the terminal: %w", err)
	}
	if rows != 0 && cols != 0 {
		if err = unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
			return -1, -1, fmt.Errorf("set the terminal's size: %w", err)
		}
	}
	// By the master and not by its path: the path is the agent's.
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		err = fmt.Errorf("open the terminal: %w", errno)
		return -1, -1, err
	}
	return master, int(r), nil
}
