package platform

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const nsGetUserns = 0xb701

// Specifically we expect: one clone makes a user and a network namespace with
// a single-id map and no helper, with every capability in it; a second network
// namespace made by a thread there belongs to the same user namespace.
func TestUserNamespaceWithoutHelper(t *testing.T) { holds(t, "u1") }

// Specifically we expect: a process in a child user namespace, with every
// capability there is, can neither change nor listen to a network namespace
// that its ancestor owns, nor ask who owns it.
func TestChildNamespaceHasNoPowerOverAncestorsNet(t *testing.T) { holds(t, "u1-u2") }

// Specifically we expect: the process that made the namespaces cannot enter
// them, and yet may use sockets that were opened there and passed to it, as
// owner of the user namespace.
func TestPassedDescriptorsWorkAndSetnsDoesNot(t *testing.T) { holds(t, "passed") }

// Specifically we expect: a Go program cannot enter a user namespace, since
// it has threads.
func TestSetnsUserNeedsOneThread(t *testing.T) { holds(t, "setns-user") }

// Specifically we expect: the parent-death signal comes when the thread that
// started the child ends, not only the process.
func TestParentDeathSignalIsPerThread(t *testing.T) { holds(t, "pdeathsig") }

// Specifically we expect: a signal to "my group" from inside a pid and user
// namespace reaches the group's members outside, unless the inside has a
// session of its own.
func TestGroupSignalCrossesNamespaces(t *testing.T) { holds(t, "group") }

// Specifically we expect: a Go program as pid 1 dies of SIGQUIT from inside,
// since its runtime has a handler.
func TestGoInitDiesOfQuit(t *testing.T) { holds(t, "quit") }

// Specifically we expect: /proc/sys/kernel/core_pattern shows an owner that is
// not 0 to everyone but real root's own user namespace.
func TestRealRootIsSeenAtCorePattern(t *testing.T) { holds(t, "core-owner") }

func init() {
	facts["u1"] = func() error { return again(inU1, "u1-inside") }
	facts["u1-inside"] = func() error {
		if capEff() == "0000000000000000" {
			return errors.New("no capabilities in the own user namespace")
		}
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("second network namespace: %w", err)
		}
		mine, err := os.Stat("/proc/thread-self/ns/user")
		if err != nil {
			return err
		}
		owner, err := ownerOf("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer owner.Close()
		if st, err := owner.Stat(); err != nil || !os.SameFile(st, mine) {
			return fmt.Errorf("the second network namespace has another owner (%v)", err)
		}
		return nil
	}

	facts["u1-u2"] = func() error { return again(inU1, "u1-then-u2") }
	facts["u1-then-u2"] = func() error { return again(inU2, "u2-inside") }
	facts["u2-inside"] = func() error {
		if capEff() == "0000000000000000" {
			return errors.New("the child has no capabilities: this shows nothing")
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		_, packet := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		_, raw := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		_, owner := ownerOf("/proc/self/ns/net")
		return errors.Join(
			want("link up", netlink.LinkSetUp(lo), unix.EPERM),
			want("new link", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "d0"}, PeerName: "d1"}), unix.EPERM),
			want("packet socket", packet, unix.EPERM),
			want("raw socket", raw, unix.EPERM),
			want("owner of the network namespace", owner, unix.EPERM))
	}

	facts["setns-user"] = func() error {
		f, err := os.Open("/proc/self/ns/user")
		if err != nil {
			return err
		}
		defer f.Close()
		return want("setns", unix.Setns(int(f.Fd()), unix.CLONE_NEWUSER), unix.EINVAL)
	}
	facts["core-owner"] = func() error {
		var st unix.Stat_t
		if err := unix.Stat("/proc/sys/kernel/core_pattern", &st); err != nil {
			return err
		}
		if st.Uid == 0 {
			return errors.New("an ordinary user's namespace sees owner 0")
		}
		return nil
	}
}

func ownerOf(ns string) (*os.File, error) {
	f, err := os.Open(ns)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), nsGetUserns)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "owner"), nil
}

func init() {
	facts["passed"] = func() error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		far := os.NewFile(uintptr(pair[1]), "far")
		cmd := command(inU1, "passed-inside", far)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		far.Close()
		defer cmd.Wait()
		defer unix.Close(pair[0])
		fds, err := receive(pair[0])
		if err != nil {
			return err
		}
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		if err != nil {
			return err
		}
		defer ns.Close()
		return errors.Join(
			want("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), unix.EPERM),
			want("packet socket", unix.SetsockoptInt(fds[0], unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1), nil),
			want("set the link up over rtnetlink", loopbackUp(fds[1]), nil))
	}
	facts["passed-inside"] = func() error {
		packet, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		route, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(packet, route), nil, 0); err != nil {
			return err
		}
		unix.Read(3, make([]byte, 1)) // until the other side is done
		return nil
	}
}

func receive(fd int) ([]int, error) {
	oob := make([]byte, unix.CmsgSpace(8*4))
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("no descriptors: %v", err)
	}
	return unix.ParseUnixRights(&msgs[0])
}

// loopbackUp sends RTM_NEWLINK for index 1 and reads the kernel's answer.
func loopbackUp(fd int) error {
	msg := make([]byte, 32)
	ne := nativeEndian
	ne.PutUint32(msg[0:], 32)
	ne.PutUint16(msg[4:], unix.RTM_NEWLINK)
	ne.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	ne.PutUint32(msg[20:], 1) // ifindex
	ne.PutUint32(msg[24:], unix.IFF_UP)
	ne.PutUint32(msg[28:], unix.IFF_UP)
	if _, err := unix.Write(fd, msg); err != nil {
		return err
	}
	b := make([]byte, 4096)
	if _, err := unix.Read(fd, b); err != nil {
		return err
	}
	if code := int32(ne.Uint32(b[16:])); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}

func init() {
	facts["pdeathsig"] = func() error {
		started := make(chan *exec.Cmd)
		end := make(chan bool)
		go func() {
			runtime.LockOSThread() // the thread ends with this goroutine
			cmd := command(0, "block")
			cmd.Stdout, _ = os.Open(os.DevNull)
			if err := cmd.Start(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			started <- cmd
			<-end
		}()
		cmd := <-started
		close(end)
		cmd.Wait()
		ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ws.Signaled() || ws.Signal() != unix.SIGKILL {
			return fmt.Errorf("the child ended by %v", cmd.ProcessState)
		}
		return nil
	}
	facts["block"] = func() error {
		time.Sleep(time.Minute) // the bound of a child that is to be killed
		return errors.New("nobody killed me")
	}

	facts["group"] = func() error {
		for _, setsid := range []bool{false, true} {
			leader := command(0, "group-leader")
			leader.SysProcAttr.Setpgid = true
			if setsid {
				leader.Env = append(os.Environ(), "FACT_SETSID=1")
			}
			out, err := leader.Output()
			if err != nil {
				return err
			}
			if hit := strings.TrimSpace(string(out)) == "hit"; hit == setsid {
				return fmt.Errorf("own session %v: the group outside was hit: %v", setsid, hit)
			}
		}
		return nil
	}
	facts["group-leader"] = func() error {
		got := notify(unix.SIGUSR1)
		cmd := command(unix.CLONE_NEWUSER|unix.CLONE_NEWPID, "group-kill")
		cmd.SysProcAttr.Setsid = os.Getenv("FACT_SETSID") != ""
		cmd.Run() // it may die of its own signal
		select {
		case <-got:
			fmt.Println("hit")
		case <-time.After(300 * time.Millisecond): // a signal that does not come
			fmt.Println("spared")
		}
		return nil
	}
	facts["group-kill"] = func() error { return unix.Kill(0, unix.SIGUSR1) }

	facts["quit"] = func() error {
		cmd := command(unix.CLONE_NEWUSER|unix.CLONE_NEWPID, "quit-init")
		cmd.Stderr = io.Discard
		if err := cmd.Run(); err == nil {
			return errors.New("pid 1 survived SIGQUIT")
		}
		return nil
	}
	facts["quit-init"] = func() error {
		if os.Getpid() != 1 {
			return errors.New("not pid 1")
		}
		c := command(0, "quit-child")
		c.Stderr = os.Stderr
		c.Run()
		time.Sleep(time.Second) // the signal arrives before
		os.Exit(0)
		return nil
	}
	facts["quit-child"] = func() error { return unix.Kill(1, unix.SIGQUIT) }
}
