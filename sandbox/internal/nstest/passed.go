package nstest

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// passEnv makes a test binary that is started with it open one socket in its
// namespaces, pass it out over descriptor 3, and wait for the end of that.
const passEnv = "OUTCALL_NSTEST_PASS"

// Passed returns a socket that a process in a user and network namespace
// below this one opened and passed out. This process cannot enter the
// namespaces' network, and owns them.
func Passed(t testing.TB, domain, typ, proto int) *os.File {
	t.Helper()
	Need(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("socketpair: %v", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer theirs.Close()
	t.Cleanup(func() { ours.Close() })
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), passEnv+"="+string([]byte{byte('0' + domain/10), byte('0' + domain%10), byte('0' + typ), byte('0' + proto/10), byte('0' + proto%10)}))
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start in a namespace below: %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	fd, err := recvFD(pair[0])
	if err != nil {
		t.Fatalf("receive the socket: %v", err)
	}
	f := os.NewFile(uintptr(fd), "passed")
	t.Cleanup(func() { f.Close() })
	return f
}

func recvFD(sock int) (int, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(sock, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, errors.Join(err, errors.New("no descriptor came"))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(err, errors.New("no descriptor came"))
	}
	return fds[0], nil
}

// pass is the other side of Passed.
func pass(spec string) int {
	num := func(s string) (n int) {
		for _, c := range s {
			n = n*10 + int(c-'0')
		}
		return n
	}
	fd, err := unix.Socket(num(spec[:2]), num(spec[2:3])|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, num(spec[3:]))
	if err == nil {
		err = unix.Sendmsg(3, []byte{0}, unix.UnixRights(fd), nil, 0)
	}
	if err != nil {
		os.Stderr.WriteString("nstest: " + err.Error() + "\n")
		return 1
	}
	_, _ = unix.Read(3, make([]byte, 1)) // until the test ends
	return 0
}
