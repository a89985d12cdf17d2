package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netadminOp tries to change the network it stands in.
func netadminOp([]string) {
	attempt("netadmin", "nft flush", func() (string, error) {
		c, err := nftables.New()
		if err != nil {
			return "", err
		}
		c.FlushRuleset()
		return "", c.Flush()
	})
	attempt("netadmin", "nft add", func() (string, error) {
		c, err := nftables.New()
		if err != nil {
			return "", err
		}
		c.AddTable(&nftables.Table{Name: "mine", Family: nftables.TableFamilyINet})
		return "", c.Flush()
	})
	links, err := netlink.LinkList()
	if err != nil {
		attempt("netadmin", "links", func() (string, error) { return "", err })
	}
	for _, l := range links {
		name := l.Attrs().Name
		attempt("netadmin", "down "+name, func() (string, error) { return "", netlink.LinkSetDown(l) })
		attempt("netadmin", "mac "+name, func() (string, error) {
			return "", netlink.LinkSetHardwareAddr(l, []byte{2, 0, 0, 0, 0, 9})
		})
		attempt("netadmin", "address "+name, func() (string, error) {
			a, _ := netlink.ParseAddr("10.200.0.77/24")
			return "", netlink.AddrAdd(l, a)
		})
	}
	attempt("netadmin", "route", func() (string, error) {
		_, dst, _ := net.ParseCIDR("8.8.8.0/24")
		return "", netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: 1})
	})
	attempt("netadmin", "veth", func() (string, error) {
		return "", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "esc0"}, PeerName: "esc1"})
	})
	for _, f := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/disable_ipv6",
		"net/ipv4/ping_group_range", "kernel/core_pattern", "vm/overcommit_memory", "kernel/hostname"} {
		attempt("netadmin", "sysctl "+f, func() (string, error) {
			return "", os.WriteFile("/proc/sys/"+f, []byte("1\n"), 0)
		})
	}
}

// namespacesOp leaves its namespaces by every door: namespaces PAYLOAD ADDR:PORT
func namespacesOp(args []string) {
	for flags, name := range map[uintptr]string{
		unix.CLONE_NEWUSER: "user", unix.CLONE_NEWUSER | unix.CLONE_NEWNET: "user+net",
		unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID: "user+mnt+net+pid",
	} {
		attempt("namespaces", "clone "+name, func() (string, error) {
			cmd := exec.Command("/proc/self/exe", "tcp", args[0], args[1])
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
			out, err := cmd.CombinedOutput()
			return string(out), err
		})
		attempt("namespaces", "netadmin in "+name, func() (string, error) {
			cmd := exec.Command("/proc/self/exe", "netadmin")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags &^ unix.CLONE_NEWNET,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
			out, err := cmd.CombinedOutput()
			return string(out), err
		})
	}
	own, _ := os.Readlink("/proc/self/ns/net")
	files, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	for _, f := range files {
		attempt("setns", f, func() (string, error) { return enterNS(f) })
	}
	attempt("parent", "/proc/self/ns/net", func() (string, error) {
		f, err := os.Open("/proc/self/ns/net")
		if err != nil {
			return "", err
		}
		defer f.Close()
		const nsGetUserns = 0xb701
		fd, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), nsGetUserns, 0)
		return fmt.Sprint(own, fd), errnoErr(e)
	})
}

// enterNS does not unlock its thread: it may be elsewhere for good.
func enterNS(file string) (string, error) {
	type answer struct {
		s   string
		err error
	}
	done := make(chan answer)
	go func() {
		runtime.LockOSThread()
		before, _ := os.Readlink("/proc/thread-self/ns/" + filepath.Base(file))
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- answer{"", err}
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, 0); err != nil {
			done <- answer{"", err}
			return
		}
		after, _ := os.Readlink("/proc/thread-self/ns/" + filepath.Base(file))
		if before == after {
			done <- answer{"same", nil}
			return
		}
		done <- answer{before + " to " + after, nil}
	}()
	a := <-done
	return a.s, a.err
}

// lookOp looks at every process that it can see, and into it.
func lookOp([]string) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	attempt("look", "/proc", func() (string, error) { return fmt.Sprint(len(dirs)), err })
	for _, d := range dirs {
		pid := filepath.Base(d)
		if pid == fmt.Sprint(os.Getpid()) {
			continue
		}
		cmdline, _ := os.ReadFile(d + "/cmdline")
		attempt("look", pid, func() (string, error) {
			return strings.ReplaceAll(string(cmdline), "\x00", " "), nil
		})
		for _, f := range []string{"mem", "environ", "maps"} {
			attempt("look", pid+"/"+f, func() (string, error) {
				h, err := os.Open(d + "/" + f)
				if err != nil {
					return "", err
				}
				defer h.Close()
				b := make([]byte, 64)
				n, err := h.Read(b)
				return string(b[:n]), err
			})
		}
		for _, l := range []string{"root", "cwd", "exe", "ns/net", "ns/user", "ns/mnt"} {
			attempt("look", pid+"/"+l, func() (string, error) { return os.Readlink(d + "/" + l) })
		}
		attempt("look", pid+"/ptrace", func() (string, error) {
			var n int
			fmt.Sscan(pid, &n)
			runtime.LockOSThread()
			err := unix.PtraceSeize(n)
			if err == nil {
				unix.PtraceDetach(n)
			}
			return "", err
		})
	}
}
