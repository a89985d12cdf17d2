//go:build unix

package policy

import "syscall"

// openFlags keep an open from waiting for the other end of a pipe that was put
// in the place of a file.
const openFlags = syscall.O_NONBLOCK
