package platform

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"unsafe"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Specifically we expect: vsock is in no network namespace: where the kernel
// has it, a sandbox gets it.
func TestVsockIsInNoNamespace(t *testing.T) { holds(t, "vsock") }

// Specifically we expect: the session keyring goes with a process into a new
// user namespace, and a keyring joined anew hides it.
func TestSessionKeyringIsInherited(t *testing.T) { holds(t, "keyring") }

// Specifically we expect: the kernel compares only the low 32 bits of an
// ioctl's request, so that a filter must do the same.
func TestIoctlRequestIs32Bits(t *testing.T) { holds(t, "ioctl") }

// Specifically we expect: a process that is not dumpable hides its
// descriptors from its own user; its executable it cannot hide.
func TestDumpableHidesDescriptors(t *testing.T) { holds(t, "dumpable") }

// Specifically we expect: no_new_privs stays over exec and cannot be taken back.
func TestNoNewPrivsIsForGood(t *testing.T) { holds(t, "nnp") }

func init() {
	facts["vsock"] = func() error { return again(inU1, "vsock-u1") }
	facts["vsock-u1"] = func() error {
		_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("something holds vsock after all: %w", err)
		}
		return nil
	}

	facts["keyring"] = func() error {
		if _, err := unix.KeyctlJoinSessionKeyring("fact"); err != nil {
			return err
		}
		if _, err := unix.AddKey("user", "fact-secret", []byte("x"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
			return err
		}
		return again(inU1, "keyring-u1")
	}
	facts["keyring-u1"] = func() error {
		_, before := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", "fact-secret", 0)
		if _, err := unix.KeyctlJoinSessionKeyring("inner"); err != nil {
			return err
		}
		_, after := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", "fact-secret", 0)
		return errors.Join(want("search in the inherited keyring", before, nil), want("search in a new one", after, unix.ENOKEY))
	}

	facts["ioctl"] = func() error {
		_, tty, err := pty.Open()
		if err != nil {
			return err
		}
		var ws [4]uint16
		for _, req := range []uintptr{unix.TIOCGWINSZ, 0xdead00000000 | unix.TIOCGWINSZ} {
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, tty.Fd(), req, uintptr(unsafe.Pointer(&ws))); e != 0 {
				return fmt.Errorf("request %#x: %w", req, e)
			}
		}
		return nil
	}

	facts["dumpable"] = func() error {
		cmd := command(0, "dumpable-child")
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer cmd.Wait()
		defer in.Close()
		if _, err := out.Read(make([]byte, 1)); err != nil {
			return err
		}
		_, fds := os.ReadDir(fmt.Sprintf("/proc/%d/fd", cmd.Process.Pid))
		return want("read its descriptors", fds, unix.EACCES)
	}
	facts["dumpable-child"] = func() error {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return err
		}
		os.Stdout.WriteString("x")
		os.Stdin.Read(make([]byte, 1))
		return nil
	}

	facts["nnp"] = func() error {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		return want("take it back", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), unix.EINVAL)
	}
}

func disconnect(fd int) error {
	raw := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unix.SizeofSockaddrInet4)
	if e != 0 {
		return e
	}
	return nil
}
