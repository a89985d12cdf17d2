//go:build unix

package hookfile

import "syscall"

// nonblock: a FIFO that took the file's place is not waited for.
const nonblock = syscall.O_NONBLOCK
