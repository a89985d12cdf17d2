package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func rawConnect(fd int, sa *unix.RawSockaddr) error {
	_, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(sa)), unix.SizeofSockaddrInet4)
	return errnoErr(e)
}

// daemonOp leaves a process behind that ignores every signal it can, in a
// session of its own, with no tie to its parent.
func daemonOp(args []string) {
	if len(args) == 0 {
		for _, word := range []string{"detached", "forked"} {
			cmd := exec.Command("/proc/self/exe", "daemon", word)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			attempt("daemon", word, func() (string, error) { return "", cmd.Start() })
		}
		return
	}
	if args[0] == "forked" {
		cmd := exec.Command("/proc/self/exe", "daemon", "detached")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Start()
		return
	}
	for sig := 1; sig <= 64; sig++ {
		ignore(sig)
	}
	sleepOp(nil)
}

// sleepOp says that it runs and does so until it is killed.
func sleepOp([]string) {
	fmt.Println("asleep")
	for {
		time.Sleep(time.Hour)
		if os.Getppid() < 0 {
			return
		}
	}
}
