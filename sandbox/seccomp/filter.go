package seccomp

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (seccomp(2)). An argument is 64 bits wide;
// what is compared here are C ints, of which the kernel reads the low half.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// Return values of a filter, linux/seccomp.h.
const (
	retKill  = 0x80000000 // SECCOMP_RET_KILL_PROCESS
	retErrno = 0x00050000 // SECCOMP_RET_ERRNO
	retAllow = 0x7fff0000 // SECCOMP_RET_ALLOW
)

// An abi is what differs between architectures.
type abi struct {
	arch uint32 // AUDIT_ARCH_*
	x32  bool   // numbers with bit 30 set are another ABI
	// lowWord is the offset of an argument's low half in its 64 bits.
	lowWord uint32
}

// x32Bit marks the numbers of the x32 ABI (__X32_SYSCALL_BIT).
const x32Bit = 0x40000000

// refused are the calls that fail whatever their arguments are.
var refused = []struct {
	name  string
	nr    uint32
	errno unix.Errno
}{
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, unix.ENOSYS},
	{"io_uring_enter", unix.SYS_IO_URING_ENTER, unix.ENOSYS},
	{"io_uring_register", unix.SYS_IO_URING_REGISTER, unix.ENOSYS},
	{"add_key", unix.SYS_ADD_KEY, unix.ENOSYS},
	{"request_key", unix.SYS_REQUEST_KEY, unix.ENOSYS},
	{"keyctl", unix.SYS_KEYCTL, unix.ENOSYS},
	{"bpf", unix.SYS_BPF, unix.EPERM},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, unix.EPERM},
	{"userfaultfd", unix.SYS_USERFAULTFD, unix.EPERM},
}

// families are the socket families that a command may use.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET}

// terminalRequests type into a terminal as if its user had.
var terminalRequests = []uint32{unix.TIOCSTI, unix.TIOCLINUX}

// Program returns the filter for the architecture that this was built for. It
// is an error where none is known: the command is then not started.
func Program() ([]bpf.Instruction, error) {
	if native.arch == 0 {
		return nil, fmt.Errorf("no seccomp filter is known for this architecture")
	}
	return program(native), nil
}

func program(a abi) []bpf.Instruction {
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.arch, SkipTrue: 1},
		bpf.RetConstant{Val: retKill},
		bpf.LoadAbsolute{Off: offNr, Size: 4},
	}
	if a.x32 {
		p = append(p,
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: x32Bit, SkipFalse: 1},
			bpf.RetConstant{Val: retKill})
	}
	for _, r := range refused {
		p = append(p,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: r.nr, SkipFalse: 1},
			bpf.RetConstant{Val: fail(r.errno)})
	}
	for _, nr := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR} {
		p = append(p, onlyValues(a, nr, 0, families, retAllow, fail(unix.EAFNOSUPPORT))...)
	}
	p = append(p, onlyValues(a, unix.SYS_IOCTL, 1, terminalRequests, fail(unix.EPERM), retAllow)...)
	return append(p, bpf.RetConstant{Val: retAllow})
}

// onlyValues is the block for one call: it returns hit where the argument is
// one of vals, else miss. The number stays in the accumulator for what
// follows, because another call jumps over the whole block.
func onlyValues(a abi, nr, arg uint32, vals []uint32, hit, miss uint32) []bpf.Instruction {
	body := []bpf.Instruction{bpf.LoadAbsolute{Off: offArgs + 8*arg + a.lowWord, Size: 4}}
	for i, v := range vals {
		// From the last comparison the hit is two instructions on.
		body = append(body, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(vals) - i)})
	}
	body = append(body, bpf.RetConstant{Val: miss}, bpf.RetConstant{Val: hit})
	return append([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: nr, SkipFalse: uint8(len(body))},
	}, body...)
}

func fail(e unix.Errno) uint32 { return retErrno | uint32(e) }
