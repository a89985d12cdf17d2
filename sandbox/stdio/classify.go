package stdio

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Kind says how one descriptor reaches the command.
type Kind uint8

// The kinds.
const (
	Handed  Kind = iota // the descriptor itself: a pipe or /dev/null
	Pumped              // its bytes, through a pipe
	PTY                 // a terminal: the session's own pty stands for it
	Refused             // a directory or block device
)

// A KindError says which descriptor cannot be given to the command.
type KindError struct {
	FD   int
	What string // "a directory", "a block device"
}

func (e *KindError) Error() string {
	return fmt.Sprintf("descriptor %d is %s and cannot be given to the command", e.FD, e.What)
}

// classify looks at one open file. The string is what a refusal calls it.
func classify(f *os.File) (Kind, string, error) {
	if f == nil {
		return Refused, "", os.ErrClosed
	}
	var st unix.Stat_t
	if err := control(f, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return Refused, "", fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return Refused, "a directory", nil
	case unix.S_IFBLK:
		return Refused, "a block device", nil
	case unix.S_IFLNK:
		return Refused, "a symlink", nil
	case unix.S_IFIFO:
		return Handed, "", nil
	case unix.S_IFCHR:
		if st.Rdev == unix.Mkdev(1, 3) {
			return Handed, "", nil
		}
		if isTerminal(f) {
			return PTY, "", nil
		}
	}
	return Pumped, "", nil
}

func isTerminal(f *os.File) bool {
	return control(f, func(fd int) error {
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	}) == nil
}

// control runs a call on the descriptor without the runtime's help: Fd() would
// change the mode of a file that the runtime polls.
func control(f *os.File, call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	if err := rc.Control(func(fd uintptr) { cerr = call(int(fd)) }); err != nil {
		return err
	}
	return cerr
}

// sameOpenFile reports whether two descriptors are one open file description.
// The kernel tells since 6.10 (F_DUPFD_QUERY) and by kcmp(2), which a filter
// around us may refuse. Then two descriptors of one file, with equal flags and
// offset, are taken for the same: at worst two streams of one file are joined
// in the order of writing.
func sameOpenFile(a, b *os.File) bool {
	same := false
	_ = control(a, func(x int) error {
		return control(b, func(y int) error {
			same = sameFD(x, y)
			return nil
		})
	})
	return same
}

func sameFD(x, y int) bool {
	if r, err := unix.FcntlInt(uintptr(x), unix.F_DUPFD_QUERY, y); err == nil {
		return r == 1
	}
	const kcmpFile = 0 // linux/kcmp.h
	pid := unix.Getpid()
	if r, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(pid), kcmpFile, uintptr(x), uintptr(y), 0); e == 0 {
		return r == 0
	}
	return looksSame(x, y)
}

func looksSame(x, y int) bool {
	var sx, sy unix.Stat_t
	if unix.Fstat(x, &sx) != nil || unix.Fstat(y, &sy) != nil || sx.Dev != sy.Dev || sx.Ino != sy.Ino {
		return false
	}
	fx, ex := unix.FcntlInt(uintptr(x), unix.F_GETFL, 0)
	fy, ey := unix.FcntlInt(uintptr(y), unix.F_GETFL, 0)
	ox, _ := unix.Seek(x, 0, unix.SEEK_CUR) // not seekable is equal, too
	oy, _ := unix.Seek(y, 0, unix.SEEK_CUR)
	return ex == nil && ey == nil && fx == fy && ox == oy
}

// names for messages: stdin, stdout, stderr.
var names = [3]string{"stdin", "stdout", "stderr"}

// String lists the kinds, for -v.
func (k Kind) String() string {
	return strings.Split("handed in,pumped,pty,refused", ",")[k]
}
