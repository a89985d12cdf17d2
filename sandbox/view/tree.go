package view

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// proc mounts a fresh /proc. hidepid=2 (invisible) hides init, which the agent
// may not ptrace, and everything that is not the agent's; the number is
// understood by every kernel, the word only since 5.8. Nothing may be mounted
// below it, else a nested user namespace gets no /proc of its own.
func (a *applier) proc() error {
	if a.s.WeakProc {
		return nil
	}
	a.at = "/proc"
	return mountCall("proc", "/proc", "proc", own|unix.MS_NOEXEC, "hidepid=2")
}

// sys makes /sys and every cgroup mount read-only: a write to cgroup.kill of a
// delegated cgroup reaches host processes of the user.
func (a *applier) sys() error {
	a.at = "/sys"
	if err := a.lock("/sys"); err != nil {
		return err
	}
	table, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, m := range table {
		if (m.fstype == "cgroup" || m.fstype == "cgroup2") && !below(m.point, "/sys") {
			a.at = m.point
			if err := a.lock(m.point); err != nil {
				return err
			}
		}
	}
	return nil
}

// lock makes a path read-only with all below it; what is not there is fine.
func (a *applier) lock(path string) error {
	if err := bindSelf(path); err != nil {
		if gone(err) {
			return nil
		}
		return err
	}
	return readOnly(path, true)
}

// run replaces /run and what else holds runtime files.
func (a *applier) run() error {
	for i, d := range a.s.RunDirs {
		a.at = d
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if i > 0 && below(d, a.s.RunDirs[0]) {
			continue // the first one's tmpfs holds it
		}
		if err := tmpfs(d, "mode=0755,size=20%"); err != nil {
			return err
		}
	}
	for _, k := range a.nodes {
		a.at = k.path
		if err := a.keepRun(k); err != nil {
			return err
		}
	}
	for _, d := range []string{"/run/lock", "/run/shm"} {
		a.at = d
		if err := os.Mkdir(d, 0o1777); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(d, 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	return nil
}

// keepRun brings an entry of the host's /run back, read-only.
func (a *applier) keepRun(k kept) error {
	buf := make([]byte, unix.PathMax)
	if n, err := unix.Readlinkat(k.fd, "", buf); err == nil {
		return os.Symlink(string(buf[:n]), k.path)
	}
	dir, err := isDir(k.fd)
	if err != nil {
		return err
	}
	if err := mountPoint(k.path, dir); err != nil {
		return err
	}
	if err := bind(fdPath(k.fd), k.path); err != nil {
		return err
	}
	return readOnly(k.path, true)
}

// tmp replaces /tmp, and makes what lies in the new directories.
func (a *applier) tmp() error {
	if d := a.s.TmpDir; d != "" {
		a.at = d
		if a.tmpFD > 0 {
			if err := bind(fdPath(a.tmpFD), d); err != nil {
				return err
			}
		} else if err := tmpfs(d, "mode=1777"); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	for _, d := range []string{a.s.RuntimeDir, a.s.Home} {
		if d == "" {
			continue
		}
		a.at = d
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// outcall makes /run/outcall: the programs, the files that cover others, and
// the place for the agent API's socket. It is sealed before anything is bound
// from it, so that each cover is read-only by birth.
func (a *applier) outcall() error {
	a.at = RunDir
	exe, err := os.Open("/proc/self/exe") // while it is still there
	if err != nil {
		return err
	}
	defer exe.Close()
	if err := mountPoint(RunDir, true); err != nil {
		return err
	}
	if err := programsFS(); err != nil {
		return err
	}
	if err := os.Mkdir(BinDir, 0o755); err != nil {
		return err
	}
	if err := a.programs(exe); err != nil {
		return err
	}
	if err := os.Mkdir(voidDir, 0o555); err != nil {
		return err
	}
	for name, text := range map[string]string{"empty": "", "resolv.conf": a.s.Resolv, "hosts": a.s.Hosts} {
		a.at = name
		if err := os.WriteFile(filepath.Join(RunDir, name), []byte(text), 0o444); err != nil {
			return err
		}
	}
	return readOnly(RunDir, false)
}

// programs copies the executable under its two names. They are copies: a bind
// would be the host's own file, and busy there.
func (a *applier) programs(exe *os.File) error {
	name := filepath.Join(BinDir, "outcall")
	a.at = name
	if err := copyTo(name, exe); err != nil {
		return err
	}
	agent := filepath.Join(BinDir, "outcall-agent")
	a.at = agent
	if a.shim == nil {
		return os.Link(name, agent)
	}
	return copyTo(agent, a.shim)
}

// programsFS mounts what the copies lie on. In large pages a copy takes half
// the time, and what runs from it meets a tenth of the page faults; the kernel
// has them only where it was built with them.
func programsFS() error {
	err := tmpfs(RunDir, "mode=0755,huge=within_size")
	if errors.Is(err, unix.EINVAL) {
		err = tmpfs(RunDir, "mode=0755")
	}
	return err
}

// copyTo makes a copy that is as long as the source from the first page on,
// since only below a file's end the kernel gives it large pages.
func copyTo(name string, src *os.File) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	st, err := src.Stat()
	if err == nil {
		err = f.Truncate(st.Size())
	}
	if err == nil {
		err = pour(f, src, st.Size())
	}
	return errors.Join(err, f.Close())
}

// pour writes whole large pages from a mapping of the source, since what a
// write(2) leaves of a new one the kernel fills with zeros first: the copy is
// the longest single step of a start.
func pour(dst, src *os.File, size int64) error {
	if size == 0 {
		return nil // which cannot be mapped
	}
	from, err := unix.Mmap(int(src.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map the program: %w", err)
	}
	defer func() { _ = unix.Munmap(from) }()
	for part := range slices.Chunk(from, largePage) {
		if _, err := dst.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// largePage is the size of one on most machines; elsewhere it is only a size.
const largePage = 2 << 20

// rootsProc are the parts of /proc that are written to with kernel uid 0 and no
// capability: sysctls, PCI configuration space, interrupt affinities. Which of
// them there are is the kernel's configuration.
var rootsProc = []string{
	"sys", "sysrq-trigger", "acpi", "asound", "bus", "fs", "irq", "mtrr", "pressure", "scsi",
}

// sysctl is for kernel uid 0 alone, whom no capability check keeps from
// writing them.
func (a *applier) sysctl() error {
	if !a.s.LockSysctl {
		return nil
	}
	for _, n := range rootsProc {
		a.at = "/proc/" + n
		if err := a.lock(a.at); err != nil {
			return err
		}
	}
	return nil
}
