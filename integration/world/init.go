package world

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The files of the machine that the world replaces, under Dir/etc.
const (
	resolvConf = Dir + "/etc/resolv.conf"
	hostsFile  = Dir + "/etc/hosts"
	passwdFile = Dir + "/etc/passwd"
)

// initStage is pid 1: it makes the view, starts the tests and reaps whatever
// they leave behind, so that a leftover is a live process and never a zombie.
func initStage() (int, error) {
	if err := view(os.Getenv(dirVar)); err != nil {
		return 1, err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return 1, fmt.Errorf("loopback: %w", err)
	}
	pid, err := syscall.ForkExec(Dir+"/test", append([]string{os.Args[0]}, os.Args[1:]...), &syscall.ProcAttr{
		Env:   testEnv(),
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return 1, fmt.Errorf("start the tests: %w", err)
	}
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 1, fmt.Errorf("wait for the tests: %w", err)
		}
		if got != pid {
			continue
		}
		if ws.Signaled() {
			return 1, fmt.Errorf("the tests were ended by %s", ws.Signal())
		}
		return ws.ExitStatus(), nil
	}
}

// view mounts the world's own /home, /tmp and /proc and its three files.
func view(dir string) error {
	scratch, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, d := range []struct{ at, opts string }{{"/home", "mode=755"}, {"/tmp", "mode=1777"}} {
		if err := unix.Mount("world", d.at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, d.opts); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", d.at, err)
		}
	}
	if err := fill(scratch); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount a fresh /proc: %w (in a container it must be unmasked: "+
			"podman --security-opt unmask=ALL, docker --security-opt systempaths=unconfined)", err)
	}
	for from, to := range map[string]string{
		resolvConf: "/etc/resolv.conf", hostsFile: "/etc/hosts", passwdFile: "/etc/passwd",
	} {
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s over %s: %w", from, to, err)
		}
	}
	return nil
}

// fill copies what prepare made into the fresh /home: a bind of the scratch
// directory would show through to the outer /tmp.
func fill(scratch int) error {
	from := fmt.Sprintf("/proc/self/fd/%d/", scratch)
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("read the scratch directory: %w", err)
	}
	for _, d := range []string{Dir, Dir + "/etc", Home} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			if err := copyFile(from+e.Name(), filepath.Join(Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	if uid := os.Getuid(); !bytes.Contains(passwd, fmt.Appendf(nil, ":x:%d:", uid)) {
		passwd = append(passwd, passwdLine(uid, os.Getgid())...)
	}
	for file, text := range map[string][]byte{
		resolvConf: nil, passwdFile: passwd, hostsFile: []byte("127.0.0.1 localhost\n::1 localhost\n"),
	} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// testEnv is the environment of an ordinary login: nothing of the caller's
// session, proxies or tool chains gets in.
func testEnv() []string {
	env := []string{
		stageVar + "=test", "HOME=" + Home, "USER=" + userName, "LOGNAME=" + userName,
		"PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
		"LANG=C.UTF-8", "TERM=xterm", "SHELL=/bin/sh",
	}
	for _, kv := range os.Environ() {
		k, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(k, "GO") || strings.HasPrefix(k, "WORLD_") && k != stageVar || strings.HasPrefix(k, "INTEGRATION_") {
			env = append(env, kv)
		}
	}
	return env
}
