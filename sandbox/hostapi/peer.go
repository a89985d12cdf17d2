package hostapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A PeerError says why the other end of a socket was refused.
type PeerError struct{ Reason string }

func (e *PeerError) Error() string { return e.Reason }

func refusef(format string, args ...any) error {
	return &PeerError{Reason: fmt.Sprintf(format, args...)}
}

// CheckPeer returns nil only if the process that made the other end of the
// connection (for a client: that called listen) has our effective uid and is
// in our user namespace. The uid alone says nothing, since a command in the
// sandbox has the same one; mount, network and pid namespaces may differ, as
// they do under a systemd unit with PrivateTmp.
//
// The process is named by SO_PEERPIDFD (Linux 6.5), which a reused pid cannot
// deceive, else by SO_PEERCRED and its start time read before and after. One
// that has exited, or that our /proc does not show, is refused.
func CheckPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return refusef("look at the peer: %v", err)
	}
	var cerr error
	if err := raw.Control(func(fd uintptr) { cerr = checkPeer(int(fd)) }); err != nil {
		return refusef("look at the peer: %v", err)
	}
	return cerr
}

func checkPeer(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return refusef("SO_PEERCRED: %v", err)
	}
	if uid := os.Geteuid(); int(cred.Uid) != uid {
		return refusef("peer has uid %d, not %d", int32(cred.Uid), uid)
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case err == nil:
		defer unix.Close(pidfd)
		return checkStable(func() (string, error) { return pidOfFD(pidfd) })
	case errors.Is(err, unix.ENOPROTOOPT):
		pid := strconv.Itoa(int(cred.Pid))
		return checkStable(func() (string, error) { return pid, nil })
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
		// The kernel's answers for a peer that has been reaped.
		return refusef("peer has exited")
	default:
		return refusef("SO_PEERPIDFD: %v", err)
	}
}

// checkStable compares the user namespace of a process with ours, and asks
// for its pid and start time before and after: what was read in between then
// belongs to that one process.
func checkStable(pidOf func() (string, error)) error {
	before, err := identify(pidOf)
	if err != nil {
		return err
	}
	theirs, err := userNamespace(before.pid)
	if err != nil {
		return refusef("peer's user namespace cannot be read: %v", err)
	}
	ours, err := userNamespace("self")
	if err != nil {
		return refusef("own user namespace cannot be read: %v", err)
	}
	after, err := identify(pidOf)
	if err != nil {
		return err
	}
	if after != before {
		return refusef("peer changed while it was looked at")
	}
	if theirs != ours {
		return refusef("peer is in another user namespace")
	}
	return nil
}

type identity struct{ pid, start string }

func identify(pidOf func() (string, error)) (identity, error) {
	pid, err := pidOf()
	if err != nil {
		return identity{}, err
	}
	if n, err := strconv.Atoi(pid); err != nil || n <= 0 {
		return identity{}, refusef("peer has exited or is not visible")
	}
	start, err := startTime(pid)
	if err != nil {
		return identity{}, refusef("peer cannot be looked at: %v", err)
	}
	return identity{pid, start}, nil
}

// procReadLimit bounds what is read of one file of /proc.
const procReadLimit = 8 << 10

// pidOfFD reads the "Pid:" line of a pidfd: -1 when the process has been
// reaped, 0 when it is not visible in the pid namespace of our /proc.
func pidOfFD(pidfd int) (string, error) {
	f, err := os.Open("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return "", refusef("peer cannot be looked at: %v", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(io.LimitReader(f, procReadLimit))
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), "Pid:"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", refusef("peer cannot be looked at: no pid in /proc/self/fdinfo")
}

// startTime is field 22 of /proc/PID/stat, in clock ticks since boot. A
// zombie still has one but no namespaces, so it is refused later.
func startTime(pid string) (string, error) {
	f, err := os.Open("/proc/" + pid + "/stat")
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, procReadLimit))
	if err != nil {
		return "", err
	}
	// The second field is the name in parentheses and may hold anything.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%s/stat has %d fields", pid, len(fields)+2)
	}
	return fields[19], nil
}

// nsID names a namespace: device and inode of its file.
type nsID struct{ dev, ino uint64 }

func userNamespace(pid string) (nsID, error) {
	var st syscall.Stat_t
	p := "/proc/" + pid + "/ns/user"
	if err := syscall.Stat(p, &st); err != nil {
		return nsID{}, &os.PathError{Op: "stat", Path: p, Err: err}
	}
	return nsID{st.Dev, st.Ino}, nil
}

func isEIO(err error) bool { return errors.Is(err, syscall.EIO) }
