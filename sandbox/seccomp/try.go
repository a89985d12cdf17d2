package seccomp

import (
	"golang.org/x/sys/unix"
)

// An Attempt is one call that the filter answers, as the kernel answered it.
type Attempt struct {
	Call string
	Want unix.Errno // the filter's answer
	Got  unix.Errno // 0: the call was carried out
}

// Refused reports whether the answer was the filter's.
func (a Attempt) Refused() bool { return a.Got == a.Want }

// noFD is no descriptor of anybody: without the filter the kernel answers
// EBADF before it looks at the request.
const noFD = ^uintptr(0)

// Try makes each call that the filter refuses, with arguments that do no harm
// where there is no filter, and tells the answers. Calls of another ABI are
// not tried: their refusal is the end of the process.
func Try() []Attempt {
	var out []Attempt
	try := func(name string, want, nr uintptr, args ...uintptr) {
		var a [3]uintptr
		copy(a[:], args)
		r, _, errno := unix.Syscall(nr, a[0], a[1], a[2])
		if errno == 0 && (nr == unix.SYS_SOCKET || nr == unix.SYS_USERFAULTFD) {
			unix.Close(int(r))
		}
		out = append(out, Attempt{name, unix.Errno(want), errno})
	}
	for _, r := range refused {
		try(r.name, uintptr(r.errno), uintptr(r.nr))
	}
	// A family that every kernel with virtual machines has, and the next
	// number that is none of ours.
	try("socket(AF_VSOCK)", uintptr(unix.EAFNOSUPPORT), unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)
	try("socket(AF_ALG)", uintptr(unix.EAFNOSUPPORT), unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)
	try("ioctl(TIOCSTI)", uintptr(unix.EPERM), unix.SYS_IOCTL, noFD, unix.TIOCSTI)
	try("ioctl(TIOCLINUX)", uintptr(unix.EPERM), unix.SYS_IOCTL, noFD, unix.TIOCLINUX)
	return out
}
