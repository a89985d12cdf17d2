//go:build !amd64 && !arm64 && !riscv64

package seccomp

// native is empty: Program refuses.
var native = abi{}
