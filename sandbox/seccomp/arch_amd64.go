package seccomp

import "golang.org/x/sys/unix"

var native = abi{arch: unix.AUDIT_ARCH_X86_64, x32: true}
