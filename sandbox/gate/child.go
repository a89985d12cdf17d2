package gate

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"outcall/sandbox/idmap"
)

// A child is one process that the gatekeeper started. A goroutine waits for
// it and closes done.
type child struct {
	id    uint64
	where Where
	pid   int // in the gatekeeper's pid namespace
	pidfd int
	conn  *conn // its control socket
	led   bool  // a stage stays above the command and answers for it

	briefed bool // it has its document already

	mu     sync.Mutex // held while the pid must not be reaped
	reaped bool

	done     chan struct{}
	status   syscall.WaitStatus
	released chan struct{} // closed when the request that made it is answered
	relOnce  sync.Once
}

// startStage starts this program as a stage, on the calling thread. A
// descriptor of -1 becomes /dev/null.
func startStage(name string, exe int, stdio [3]int, attr *syscall.SysProcAttr) (*child, error) {
	ours, theirs, err := connPair()
	if err != nil {
		return nil, err
	}
	defer theirs.close()
	files := make([]uintptr, 4)
	for i, fd := range stdio {
		if fd < 0 {
			null, err := openAt(unix.AT_FDCWD, "/dev/null", unix.O_RDWR)
			if err != nil {
				ours.close()
				return nil, fmt.Errorf("open /dev/null: %w", err)
			}
			defer unix.Close(null)
			fd = null
		}
		files[i] = uintptr(fd)
	}
	files[stageSock] = uintptr(theirs.fd)
	c := &child{conn: ours, pidfd: -1, done: make(chan struct{}), released: make(chan struct{})}
	attr.PidFD = &c.pidfd
	c.pid, _, err = syscall.StartProcess(exePath(exe), stageArgs(name), &syscall.ProcAttr{Env: []string{}, Files: files, Sys: attr})
	if err != nil {
		ours.close()
		return nil, err
	}
	go c.wait()
	return c, nil
}

// wait reaps the process. The pid stays valid for signals until waitid has
// told that it has ended, and is given up under the lock.
func (c *child) wait() {
	defer close(c.done)
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, c.pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(c.pid, &ws, 0, nil)
		if err != syscall.EINTR {
			break
		}
	}
	c.status, c.reaped = ws, true
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
	}
}

// release lets the end of the process be told.
func (c *child) release() { c.relOnce.Do(func() { close(c.released) }) }

func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		_ = unix.Kill(c.pid, unix.SIGKILL)
	}
}

// signal sends sig: those that a terminal sends go to the process group, as
// they would there, all others to the process.
func (c *child) signal(sig syscall.Signal) error {
	if c.led {
		return c.conn.send(&message{Op: opSignal, Signal: int(sig)})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return unix.ESRCH
	}
	return unix.Kill(target(c.pid, sig), sig)
}

// target is the kill(2) target for a process that leads its group.
func target(pid int, sig syscall.Signal) int {
	switch sig {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT, unix.SIGHUP, unix.SIGWINCH:
		return -pid
	}
	return pid
}

// writeMaps gives a new user namespace its ids. The kernel wants setgroups
// denied before a caller without the power to set groups writes a gid map.
func writeMaps(pid int, uids, gids []idmap.Range, groups bool) error {
	dir := "/proc/" + strconv.Itoa(pid)
	write := func(name, text string) error {
		f, err := os.OpenFile(dir+"/"+name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(text)
		return err
	}
	if !groups {
		if err := write("setgroups", "deny"); err != nil {
			return err
		}
	}
	if err := write("gid_map", idmap.Format(gids)); err != nil {
		return err
	}
	return write("uid_map", idmap.Format(uids))
}

func itoa(n int) string { return strconv.Itoa(n) }
