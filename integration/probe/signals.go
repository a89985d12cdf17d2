package main

import (
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ignore(sig int) { signal.Ignore(syscall.Signal(sig)) }

// resetSignal gives a signal the kernel's own action: the runtime's handler
// would turn a crash into a traceback.
func resetSignal(sig unix.Signal) {
	var act [4]uint64 // SIG_DFL, no flags
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
}
