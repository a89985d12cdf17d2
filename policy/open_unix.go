//go:build unix

package policy

import "syscall"

// openFlags keep an open from waiting for the other end of a pipe, and from
// following a link in the last place of a path.
const openFlags = syscall.O_NONBLOCK | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
