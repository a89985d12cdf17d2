package seccomp

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// data lays struct seccomp_data out for the BPF machine of x/net, which reads
// words in network order (the kernel reads them in its own).
func data(nr, arch uint32, args ...uint64) []byte {
	b := make([]byte, 64)
	binary.BigEndian.PutUint32(b[offNr:], nr)
	binary.BigEndian.PutUint32(b[offArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(b[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(b[offArgs+8*i+4:], uint32(a>>32))
	}
	return b
}

func machine(t testing.TB, a abi) *bpf.VM {
	t.Helper()
	vm, err := bpf.NewVM(program(a))
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func verdict(t testing.TB, vm *bpf.VM, d []byte) string {
	t.Helper()
	r, err := vm.Run(d)
	if err != nil {
		t.Fatal(err)
	}
	switch v := uint32(r); {
	case v == retAllow:
		return "allow"
	case v == retKill:
		return "kill"
	case v&0xffff0000 == retErrno:
		return unix.ErrnoName(unix.Errno(v & 0xffff))
	default:
		return fmt.Sprintf("%#x", v)
	}
}

func TestProgram(t *testing.T) {
	a := native
	vm := machine(t, a)
	for _, x := range []struct {
		name string
		d    []byte
		want string
	}{
		{"read", data(unix.SYS_READ, a.arch), "allow"},
		{"clone for namespaces", data(unix.SYS_CLONE, a.arch, unix.CLONE_NEWUSER), "allow"},
		{"clone3", data(unix.SYS_CLONE3, a.arch), "allow"},
		{"another ABI", data(unix.SYS_READ, a.arch^1), "kill"},
		{"i386", data(3, unix.AUDIT_ARCH_I386), "kill"},
		{"arm", data(3, unix.AUDIT_ARCH_ARM), "kill"},
		{"io_uring_setup", data(unix.SYS_IO_URING_SETUP, a.arch), "ENOSYS"},
		{"io_uring_enter", data(unix.SYS_IO_URING_ENTER, a.arch), "ENOSYS"},
		{"io_uring_register", data(unix.SYS_IO_URING_REGISTER, a.arch), "ENOSYS"},
		{"add_key", data(unix.SYS_ADD_KEY, a.arch), "ENOSYS"},
		{"request_key", data(unix.SYS_REQUEST_KEY, a.arch), "ENOSYS"},
		{"keyctl", data(unix.SYS_KEYCTL, a.arch), "ENOSYS"},
		{"bpf", data(unix.SYS_BPF, a.arch), "EPERM"},
		{"perf_event_open", data(unix.SYS_PERF_EVENT_OPEN, a.arch), "EPERM"},
		{"userfaultfd", data(unix.SYS_USERFAULTFD, a.arch), "EPERM"},
		{"TIOCSTI", data(unix.SYS_IOCTL, a.arch, 0, unix.TIOCSTI), "EPERM"},
		{"TIOCSTI with high bits", data(unix.SYS_IOCTL, a.arch, 0, 0xdead00000000|unix.TIOCSTI), "EPERM"},
		{"TIOCLINUX", data(unix.SYS_IOCTL, a.arch, 0, unix.TIOCLINUX), "EPERM"},
		{"TIOCGWINSZ", data(unix.SYS_IOCTL, a.arch, 0, unix.TIOCGWINSZ), "allow"},
		{"TIOCSTI as descriptor", data(unix.SYS_IOCTL, a.arch, unix.TIOCSTI, unix.TCGETS), "allow"},
		{"AF_UNIX", data(unix.SYS_SOCKET, a.arch, unix.AF_UNIX), "allow"},
		{"AF_UNIX with high bits", data(unix.SYS_SOCKET, a.arch, 1<<32|unix.AF_UNIX), "allow"}, // the kernel sees AF_UNIX
		{"AF_VSOCK with high bits", data(unix.SYS_SOCKET, a.arch, 1<<32|unix.AF_VSOCK), "EAFNOSUPPORT"},
		{"a negative family", data(unix.SYS_SOCKET, a.arch, 1<<64-1), "EAFNOSUPPORT"},
	} {
		if got := verdict(t, vm, x.d); got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
}

func TestFamilies(t *testing.T) {
	vm := machine(t, native)
	allowed := map[uint64]bool{unix.AF_UNIX: true, unix.AF_INET: true, unix.AF_INET6: true, unix.AF_NETLINK: true, unix.AF_PACKET: true}
	for family := uint64(0); family < 300; family++ {
		want := "EAFNOSUPPORT"
		if allowed[family] {
			want = "allow"
		}
		for _, nr := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR} {
			if got := verdict(t, vm, data(nr, native.arch, family)); got != want {
				t.Errorf("call %d, family %d: %s, want %s", nr, family, got, want)
			}
		}
	}
}

func TestX32(t *testing.T) {
	amd64 := machine(t, abi{arch: unix.AUDIT_ARCH_X86_64, x32: true})
	arm64 := machine(t, abi{arch: unix.AUDIT_ARCH_AARCH64})
	for _, nr := range []uint32{x32Bit, x32Bit | unix.SYS_READ, x32Bit | unix.SYS_SOCKET, 1<<32 - 1} {
		if got := verdict(t, amd64, data(nr, unix.AUDIT_ARCH_X86_64)); got != "kill" {
			t.Errorf("amd64, call %#x: %s", nr, got)
		}
	}
	if got := verdict(t, arm64, data(unix.SYS_READ, unix.AUDIT_ARCH_X86_64)); got != "kill" {
		t.Errorf("arm64, a call of amd64: %s", got)
	}
}

// FuzzProgram: every input ends in one of the known words, and nothing of
// another architecture passes.
func FuzzProgram(f *testing.F) {
	vm := machine(f, native)
	f.Add(uint32(unix.SYS_SOCKET), native.arch, uint64(40), uint64(0))
	f.Fuzz(func(t *testing.T, nr, arch uint32, a0, a1 uint64) {
		got := verdict(t, vm, data(nr, arch, a0, a1))
		if arch != native.arch && got != "kill" {
			t.Errorf("arch %#x: %s", arch, got)
		}
		switch got {
		case "allow", "kill", "EPERM", "ENOSYS", "EAFNOSUPPORT":
		default:
			t.Errorf("verdict %s", got)
		}
	})
}

func TestUnknownArchitectureIsRefused(t *testing.T) {
	if _, err := Program(); err != nil {
		t.Errorf("this architecture has no filter: %v", err)
	}
	if native.arch == 0 {
		t.Error("Program must refuse where native is empty")
	}
}
