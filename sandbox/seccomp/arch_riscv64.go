package seccomp

import "golang.org/x/sys/unix"

var native = abi{arch: unix.AUDIT_ARCH_RISCV64}
