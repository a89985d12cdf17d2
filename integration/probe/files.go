package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// evil is what a file must never contain.
const evil = "# written from inside\n"

// writeOp tries to change or make each file: write PATH...
func writeOp(args []string) {
	for _, p := range args {
		try := func(how string, f func() error) {
			attempt("write", p+" "+how, func() (string, error) { return "", f() })
		}
		try("open", func() error { return appendTo(p) })
		try("create", func() error {
			f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err == nil {
				f.WriteString(evil)
				f.Close()
			}
			return err
		})
		try("truncate", func() error { return os.Truncate(p, 0) })
		try("chmod", func() error { return os.Chmod(p, 0o777) })
		try("rename onto", func() error { return onto(p, os.Rename) })
		try("link onto", func() error { return onto(p, os.Link) })
		try("rename away", func() error { return os.Rename(p, p+".away") })
		try("unlink", func() error { return os.Remove(p) })
		try("tmpfile", func() error { return tmpfile(p) })
		try("self root", func() error { return appendTo("/proc/self/root" + p) })
		try("new sibling", func() error { return os.WriteFile(filepath.Join(filepath.Dir(p), "zz-evil.yaml"), []byte(evil), 0o644) })
	}
}

func appendTo(p string) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(evil)
	return err
}

func onto(p string, how func(string, string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(filepath.Dir(p)), "evil")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	from := filepath.Join(dir, "x")
	if err := os.WriteFile(from, []byte(evil), 0o644); err != nil {
		return err
	}
	return how(from, p)
}

func tmpfile(p string) error {
	fd, err := unix.Open(filepath.Dir(p), unix.O_TMPFILE|unix.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	unix.Write(fd, []byte(evil))
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, p+".tmpfile", unix.AT_SYMLINK_FOLLOW)
}

// replaceOp moves each ancestor of a path away and puts its own in place, so
// that a guard that looks at the path alone is gone around.
func replaceOp(args []string) {
	for _, p := range args {
		for dir := filepath.Dir(p); dir != "/"; dir = filepath.Dir(dir) {
			attempt("replace", dir, func() (string, error) {
				if err := os.Rename(dir, dir+".moved"); err != nil {
					return "", err
				}
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					return "renamed", err
				}
				return "replaced", os.WriteFile(p, []byte(evil), 0o644)
			})
		}
	}
}

// unixOp connects to path and abstract sockets ("@name").
func unixOp(args []string) {
	for _, p := range args {
		attempt("unix", p, func() (string, error) {
			c, err := net.DialTimeout("unix", p, wait)
			if err != nil {
				return "", err
			}
			defer c.Close()
			c.Write([]byte("hello from inside\n"))
			c.SetReadDeadline(time.Now().Add(wait))
			b := make([]byte, 256)
			n, err := c.Read(b)
			return string(b[:n]), err
		})
	}
}

// listenOp listens at path and abstract sockets and tells who came.
func listenOp(args []string) {
	for _, p := range args {
		ln, err := net.Listen("unix", p)
		if err != nil {
			fmt.Println("cannot listen:", err)
			return
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Println("accepted at", p)
				c.Close()
			}
		}()
	}
	fmt.Println("listening")
	select {}
}

// unixgramOp sends from descriptor 0, as it was handed in, to an abstract name.
func unixgramOp(args []string) {
	attempt("unixgram", args[0], func() (string, error) {
		return "", unix.Sendto(0, []byte("hello from inside"), 0, &unix.SockaddrUnix{Name: args[0]})
	})
}

// fdsOp tells what descriptors it got.
func fdsOp([]string) {
	entries, err := os.ReadDir("/proc/self/fd")
	attempt("fds", "", func() (string, error) {
		var out []string
		for _, e := range entries {
			var n int
			fmt.Sscan(e.Name(), &n)
			var st unix.Stat_t
			if unix.Fstat(n, &st) != nil {
				continue // the directory itself, closed by now
			}
			if l, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !runtimesOwn(l) {
				out = append(out, fmt.Sprintf("%d %o %s", n, st.Mode&unix.S_IFMT, l))
			}
		}
		return strings.Join(out, "\n"), err
	})
}

// runtimesOwn tells the descriptors that a Go program opens for itself.
func runtimesOwn(link string) bool {
	return strings.Contains(link, "anon_inode:[event") || strings.HasPrefix(link, "/sys/fs/cgroup/")
}

// reconnectOp takes the socket on descriptor 0 elsewhere: reconnect ADDR:PORT
func reconnectOp(args []string) {
	attempt("reconnect", args[0], func() (string, error) {
		raw := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		if err := rawConnect(0, &raw); err != nil {
			return "disconnect", err
		}
		a, err := net.ResolveTCPAddr("tcp4", args[0])
		if err != nil {
			return "", err
		}
		return "connect", unix.Connect(0, &unix.SockaddrInet4{Addr: [4]byte(a.IP.To4()), Port: a.Port})
	})
}

// reopenOp opens descriptor 0 anew for writing.
func reopenOp([]string) {
	attempt("reopen", "/proc/self/fd/0", func() (string, error) {
		f, err := os.OpenFile("/proc/self/fd/0", os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.Mode().Type() == os.ModeNamedPipe {
			return "a pipe", nil
		}
		_, err = f.WriteString(evil)
		return "", err
	})
	attempt("read", "stdin", func() (string, error) {
		var b bytes.Buffer
		_, err := b.ReadFrom(os.Stdin)
		return b.String(), err
	})
}
