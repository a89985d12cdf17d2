package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A refusal is one call that an outer filter answers itself: where argument
// arg has one of the bits, or is the value if bits is 0.
type refusal struct {
	nr, arg     uint32
	bits, value uint32
	errno       unix.Errno
}

// outers are the machines that outcall can find itself on.
var outers = map[string][]refusal{
	// A container runtime's default filter. It cannot look into the arguments
	// of clone3, so it says that there is none, and programs use clone.
	"userns": {
		{nr: unix.SYS_CLONE3, errno: unix.ENOSYS},
		{nr: unix.SYS_CLONE, bits: unix.CLONE_NEWUSER, errno: unix.EPERM},
		{nr: unix.SYS_UNSHARE, bits: unix.CLONE_NEWUSER, errno: unix.EPERM},
	},
	// What is left of a user namespace under a security module that takes its
	// capabilities: it is there, and the first use of a power is refused.
	"nocaps": {
		{nr: unix.SYS_UNSHARE, bits: unix.CLONE_NEWNET | unix.CLONE_NEWNS, errno: unix.EPERM},
	},
	// AppArmor's way: the user namespace can be had, and what is made in the
	// same call with it cannot.
	"nonet": {
		{nr: unix.SYS_CLONE3, errno: unix.ENOSYS},
		{nr: unix.SYS_CLONE, bits: unix.CLONE_NEWNET, errno: unix.EPERM},
	},
	// A unit of systemd with RestrictAddressFamilies=.
	"packet": {{nr: unix.SYS_SOCKET, value: unix.AF_PACKET, errno: unix.EAFNOSUPPORT}},
	"nft":    {{nr: unix.SYS_SOCKET, arg: 2, value: unix.NETLINK_NETFILTER, errno: unix.EPERM}},
}

// outerOp becomes a program on such a machine: outer KIND PROGRAM [ARG...].
// It prints nothing of its own unless that fails.
func outerOp(args []string) {
	rs, ok := outers[args[0]]
	if !ok || len(args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: probe outer KIND PROGRAM [ARG...]")
		os.Exit(2)
	}
	runtime.LockOSThread() // the filter is this thread's, and what it becomes
	path, err := exec.LookPath(args[1])
	if err == nil {
		err = install(rs)
	}
	if err == nil {
		err = syscall.Exec(path, args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "probe: outer:", err)
	os.Exit(2)
}

func install(rs []refusal) error {
	raw, err := bpf.Assemble(outerFilter(rs))
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	return errnoErr(e)
}

// outerFilter reads struct seccomp_data: the number at 0, argument i's low
// half at 16+8i on the little-endian machines that the tests run on.
func outerFilter(rs []refusal) []bpf.Instruction {
	var p []bpf.Instruction
	for _, r := range rs {
		last := bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(r.errno)}
		block := []bpf.Instruction{bpf.LoadAbsolute{Off: 16 + 8*r.arg, Size: 4}}
		switch {
		case r.bits != 0:
			block = append(block, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: r.bits, SkipFalse: 1})
		case r.value != 0:
			block = append(block, bpf.JumpIf{Cond: bpf.JumpEqual, Val: r.value, SkipFalse: 1})
		}
		block = append(block, last)
		p = append(p, bpf.LoadAbsolute{Off: 0, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: r.nr, SkipFalse: uint8(len(block))})
		p = append(p, block...)
	}
	return append(p, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW})
}
