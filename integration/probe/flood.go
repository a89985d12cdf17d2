package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// floodOp begins a connection to each port and closes its socket at once: as
// many first packets as the kernel makes, none of them sent again.
// flood ADDR FIRST-LAST
func floodOp(args []string) {
	attempt("flood", args[0], func() (string, error) {
		var first, last int
		if _, err := fmt.Sscanf(args[1], "%d-%d", &first, &last); err != nil {
			return "", err
		}
		a, err := netip.ParseAddr(args[0])
		if err != nil {
			return "", err
		}
		sent := 0
		for p := first; p <= last; p++ {
			if err := syn(a, p); err != nil {
				return fmt.Sprint(sent), err
			}
			sent++
		}
		return fmt.Sprint(sent), nil
	})
}

func syn(a netip.Addr, port int) error {
	family, sa := unix.AF_INET, unix.Sockaddr(nil)
	if a.Is4() {
		sa = &unix.SockaddrInet4{Addr: a.As4(), Port: port}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16(), Port: port}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS {
		return err
	}
	return nil
}

// cableOp makes a network of its own, in which it may do everything, and tries
// to lay a cable from there to the one that it came from:
// cable PAYLOAD ADDR (the second word "inside" is what it starts itself with)
func cableOp(args []string) {
	if args[0] != "inside" {
		out, err := os.Open("/proc/self/ns/net")
		if err != nil {
			attempt("cable", "open", func() (string, error) { return "", err })
			return
		}
		cmd := exec.Command("/proc/self/exe", append([]string{"cable", "inside"}, args...)...)
		cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{out}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
		if err := cmd.Run(); err != nil {
			attempt("cable", "start", func() (string, error) { return "", err })
		}
		return
	}
	const outer = 3 // the first of ExtraFiles
	attempt("own", "veth", func() (string, error) {
		return "", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "a1"})
	})
	attempt("cable", "veth with its end outside", func() (string, error) {
		return "", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "b0"}, PeerName: "b1", PeerNamespace: netlink.NsFd(outer)})
	})
	if l, err := netlink.LinkByName("a1"); err == nil {
		attempt("cable", "move a veth", func() (string, error) { return "", netlink.LinkSetNsFd(l, outer) })
	}
	rawOp(args[1:])
	attempt("cable", "go back with capabilities", func() (string, error) { return "", unix.Setns(outer, unix.CLONE_NEWNET) })
}
