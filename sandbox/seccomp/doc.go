// Package seccomp is the last thing a command gets before execve: a filter
// for what no namespace of ours holds.
//
//   - Socket families other than UNIX, INET, INET6, NETLINK and PACKET are
//     EAFNOSUPPORT: AF_VSOCK reaches the hypervisor past every netns.
//   - io_uring is ENOSYS: it makes sockets that a filter on socket(2) does
//     not see.
//   - add_key, request_key and keyctl are ENOSYS: request_key makes the kernel
//     run /sbin/request-key as root in the first network namespace.
//   - bpf, perf_event_open and userfaultfd are EPERM.
//   - ioctl TIOCSTI and TIOCLINUX are EPERM. Only the low 32 bits of the
//     request are compared, as the kernel does (CVE-2019-10063).
//   - Calls of another ABI (i386 and x32 on amd64, 32-bit arm on arm64) kill
//     the process: their numbers would go around all of the above.
//
// Everything else passes; user namespaces inside stay possible. Program is a
// pure function and is tested in the BPF machine of x/net; Apply is tested in
// the kernel.
package seccomp
