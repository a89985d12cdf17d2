package seccomp

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Apply sets no_new_privs and the filter on the calling thread, for good. The
// caller has locked it (runtime.LockOSThread) and goes on to execve: other
// threads of the process are not filtered.
func Apply() error { return apply(0) }

// ApplyAll does the same for every thread of the process.
func ApplyAll() error { return apply(unix.SECCOMP_FILTER_FLAG_TSYNC) }

func apply(flags uintptr) error {
	p, err := Program()
	if err != nil {
		return err
	}
	raw, err := bpf.Assemble(p)
	if err != nil {
		return fmt.Errorf("assemble the seccomp filter: %w", err)
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	// With TSYNC a positive result is a thread that could not follow.
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return fmt.Errorf("install the seccomp filter: %w", errno)
	}
	if tid != 0 {
		return fmt.Errorf("install the seccomp filter: thread %d has another one", tid)
	}
	return nil
}
