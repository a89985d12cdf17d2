package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// familiesOp tries socket() with all families and types and tells which it got.
func familiesOp([]string) {
	var got []string
	for family := range 51 {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_RDM, unix.SOCK_SEQPACKET, 6} {
			fd, err := unix.Socket(family, kind, 0)
			if err == nil {
				unix.Close(fd)
				got = append(got, fmt.Sprintf("%d/%d", family, kind))
			}
		}
	}
	attempt("families", "", func() (string, error) { return strings.Join(got, " "), nil })
}

func iouringOp([]string) {
	attempt("iouring", "setup", func() (string, error) {
		var params [120]byte
		_, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&params)), 0)
		return "", errnoErr(e)
	})
}

func errnoErr(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// keysOp uses the keyrings of the caller and the kernel's upcall.
func keysOp(args []string) {
	attempt("keys", "search", func() (string, error) {
		id, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", args[0], 0)
		return fmt.Sprint(id), err
	})
	attempt("keys", "add", func() (string, error) {
		id, err := unix.AddKey("user", "probe", []byte("x"), unix.KEY_SPEC_SESSION_KEYRING)
		return fmt.Sprint(id), err
	})
	attempt("keys", "request", func() (string, error) {
		id, err := unix.RequestKey("dns_resolver", args[1], "", unix.KEY_SPEC_PROCESS_KEYRING)
		return fmt.Sprint(id), err
	})
}

// callsOp tries system calls that have no business in a sandbox.
func callsOp([]string) {
	call := func(name string, nr uintptr, a ...uintptr) {
		attempt("calls", name, func() (string, error) {
			var v [6]uintptr
			copy(v[:], a)
			r, _, e := unix.Syscall6(nr, v[0], v[1], v[2], v[3], v[4], v[5])
			return fmt.Sprint(r), errnoErr(e)
		})
	}
	var buf [256]byte
	p := uintptr(unsafe.Pointer(&buf))
	call("bpf", unix.SYS_BPF, 0, p, 48)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, p, 0, ^uintptr(0), ^uintptr(0))
	call("userfaultfd", unix.SYS_USERFAULTFD, 1)
	call("keyctl", unix.SYS_KEYCTL, 0, ^uintptr(2), 0)
	call("io_uring_enter", unix.SYS_IO_URING_ENTER, 0)
	call("io_uring_register", unix.SYS_IO_URING_REGISTER, 0)
	call("vsock", unix.SYS_SOCKET, 40, 1, 0)
	call("vsock-pair", unix.SYS_SOCKETPAIR, 40, 1, 0, p)
	call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(99), p, 0)
	call("mount", unix.SYS_MOUNT, p, p, p, 0, 0)
	call("sethostname", unix.SYS_SETHOSTNAME, p, 1)
	call("reboot", unix.SYS_REBOOT, 0, 0, 0)
}

// foreignOp makes a call of the x32 table; a filter that forgets it lets all
// of its own rules be gone around.
func foreignOp(args []string) {
	const x32 = 0x40000000
	attempt("foreign", "x32 getpid", func() (string, error) {
		r, _, e := unix.RawSyscall(x32|unix.SYS_GETPID, 0, 0, 0)
		return fmt.Sprint(r), errnoErr(e)
	})
}

// signalOp sends one signal: signal NUMBER PID.
func signalOp(args []string) {
	var sig, pid int
	fmt.Sscan(args[0], &sig)
	fmt.Sscan(args[1], &pid)
	if sig != int(unix.SIGKILL) && pid <= 0 {
		// The sender survives a signal to its own group, to tell the tale.
		ignore(sig)
	}
	attempt("signal", args[1], func() (string, error) { return "", unix.Kill(pid, unix.Signal(sig)) })
}

// signalsOp sends every signal to pid 1.
func signalsOp([]string) {
	for sig := 1; sig <= 64; sig++ {
		err := unix.Kill(1, unix.Signal(sig))
		if err != nil && err != unix.EPERM && err != unix.ESRCH {
			attempt("signals", fmt.Sprint(sig), func() (string, error) { return "", err })
		}
	}
	attempt("signals", "sent", func() (string, error) { return "", nil })
}

// tiocstiOp types into the terminal on descriptor 0 by every spelling.
func tiocstiOp(args []string) {
	c := []byte(args[0])
	type1 := func(name string, req uintptr) {
		attempt("tiocsti", name, func() (string, error) {
			for i := range c {
				_, _, e := unix.Syscall(unix.SYS_IOCTL, 0, req, uintptr(unsafe.Pointer(&c[i])))
				if e != 0 {
					return "", e
				}
			}
			return "", nil
		})
	}
	type1("TIOCSTI", unix.TIOCSTI)
	type1("TIOCSTI with high bits", 0xdead00000000|unix.TIOCSTI)
	type1("TIOCLINUX", unix.TIOCLINUX)
	if f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		defer f.Close()
		attempt("tiocsti", "/dev/tty", func() (string, error) {
			_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.TIOCSTI, uintptr(unsafe.Pointer(&c[0])))
			return "", errnoErr(e)
		})
	}
	unix.SetNonblock(0, true)
}

// crashOp dies with a core dump, if it may have one.
func crashOp([]string) {
	var l unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_CORE, &l)
	attempt("crash", "limit", func() (string, error) { return fmt.Sprint(l.Cur, l.Max), nil })
	l.Cur = l.Max
	unix.Setrlimit(unix.RLIMIT_CORE, &l)
	resetSignal(unix.SIGSEGV)
	unix.Kill(os.Getpid(), unix.SIGSEGV)
	time.Sleep(wait) // until the signal is delivered
}

// dumpableOp hides this process from /proc readers, then connects.
func dumpableOp(args []string) {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	tcpOp(args)
}
