package gate

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// runProbe is what this program does inside of a sandbox.
func runProbe(name string) int {
	f, ok := map[string]func() error{
		"families": probeFamilies, "calls": probeCalls, "x32": probeX32, "powers": probePowers, "nested": probeNested,
		"signals": probeSignals, "udp": probeUDP, "socket": probeSocket, "supervise": probeSupervise, "args": probeArgs,
		"tty": probeTTY,
	}[name]
	if !ok {
		fmt.Println("no such probe")
		return 2
	}
	if err := f(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// word is an errno as tests compare it.
func word(err error) string {
	var e unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return unix.ErrnoName(e)
	}
	return err.Error()
}

func probeFamilies() error {
	for family := 0; family <= 50; family++ {
		for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			fd, err := unix.Socket(family, typ, 0)
			if err == nil {
				unix.Close(fd)
			}
			if _, perr := unix.Socketpair(family, typ, 0); err == nil || perr == nil {
				fmt.Printf("%d/%d %s %s\n", family, typ, word(err), word(perr))
			}
		}
	}
	return nil
}

func probeCalls() error {
	call := func(name string, nr, a, b, c uintptr) {
		_, _, e := unix.Syscall(nr, a, b, c)
		fmt.Printf("%s %s\n", name, unix.ErrnoName(e))
	}
	call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, 0, 0)
	call("io_uring_enter", unix.SYS_IO_URING_ENTER, 0, 0, 0)
	call("io_uring_register", unix.SYS_IO_URING_REGISTER, 0, 0, 0)
	call("add_key", unix.SYS_ADD_KEY, 0, 0, 0)
	call("request_key", unix.SYS_REQUEST_KEY, 0, 0, 0)
	call("keyctl", unix.SYS_KEYCTL, 0, 0, 0)
	call("bpf", unix.SYS_BPF, 0, 0, 0)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, 0, 0, 0)
	call("userfaultfd", unix.SYS_USERFAULTFD, 1, 0, 0)
	var b byte
	call("TIOCSTI", unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&b)))
	call("TIOCSTI-high", unix.SYS_IOCTL, 0, 0xdead00000000|unix.TIOCSTI, uintptr(unsafe.Pointer(&b)))
	call("TIOCLINUX", unix.SYS_IOCTL, 0, unix.TIOCLINUX, uintptr(unsafe.Pointer(&b)))
	call("vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	call("vsock-high", unix.SYS_SOCKET, 0xdead00000000|unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	return nil
}

func probeX32() error {
	_, _, e := unix.RawSyscall(0x40000000|unix.SYS_GETPID, 0, 0, 0)
	return fmt.Errorf("the call returned %v", e)
}

// probePowers tries what only an owner of the network namespace may.
func probePowers() error {
	eth, err := netlink.LinkByName(AgentLink)
	if err != nil {
		return err
	}
	_, packet := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	_, raw := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)
	fmt.Println("down", word(netlink.LinkSetDown(eth)))
	fmt.Println("route", word(netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(1, 2, 3, 4), Mask: net.CIDRMask(32, 32)}})))
	fmt.Println("dummy", word(netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "d0"}})))
	fmt.Println("packet", word(packet))
	fmt.Println("raw", word(raw))
	fmt.Println("umount", word(unix.Unmount("/run/outcall", unix.MNT_DETACH)))
	fmt.Println("remount", word(unix.Mount("", "/run/outcall", "", unix.MS_REMOUNT|unix.MS_BIND, "")))
	return nil
}

// probeNested does probePowers as root of a user namespace below.
func probeNested() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{envProbe + "=powers"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	fmt.Print(string(out))
	return err
}

func probeSignals() error {
	for sig := 1; sig <= 64; sig++ {
		if err := unix.Kill(1, unix.Signal(sig)); err != nil {
			return fmt.Errorf("signal %d: %w", sig, err)
		}
	}
	fmt.Println("sent")
	return nil
}

// probeUDP sends to each argument and prints what comes back.
func probeUDP() error {
	for _, to := range os.Args[1:] {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		if _, err := c.Write([]byte("ask " + to)); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		fmt.Println(string(buf[:n]))
	}
	return nil
}

// probeSocket holds a socket, tells its inode and waits for the end of its
// input.
func probeSocket() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	fmt.Println(os.Getpid(), st.Ino)
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}

func probeArgs() error {
	for _, a := range os.Args[1:] {
		fmt.Println(strconv.QuoteToASCII(a))
	}
	fmt.Println(len(strings.Join(os.Environ(), "\n")))
	return nil
}

// probeTTY prints how the terminal stands and waits to be ended.
func probeTTY() error {
	pgrp, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	if err != nil {
		return err
	}
	sid, err := unix.Getsid(0)
	if err != nil {
		return err
	}
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return err
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	fmt.Printf("foreground=%t leader=%t size=%dx%d sti=%s\n", pgrp == unix.Getpgrp(), sid == os.Getpid(), ws.Row, ws.Col,
		word(unix.IoctlSetPointerInt(0, unix.TIOCSTI, 0)))
	runtime.KeepAlive(tty)
	_, _ = os.Stdin.Read(make([]byte, 10))
	fmt.Println("went on")
	return nil
}
