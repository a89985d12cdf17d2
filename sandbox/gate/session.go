package gate

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"outcall/sandbox/seccomp"
	"outcall/sandbox/view"
)

// sessionMain leads the session of a terminal. The command is its child, in a
// process group of its own: a leader whose parent is outside of the session
// would be an orphaned group, which the kernel never stops (Ctrl-Z would do
// nothing). It tells the gatekeeper of stops and of the end, and passes
// signals on.
//
// It is as confined as the command before that begins: an agent that is root
// inside could otherwise make this process act for it.
func sessionMain(c *conn, doc commandDoc) int {
	doc.Lead, doc.TakeTTY = false, false // the command's own stage is below
	if err := leadSession(c, doc); err != nil {
		_ = c.send(&message{Op: opReady, Err: stageErr(StageCommand, "", err)})
		return 125
	}
	return 0
}

func leadSession(c *conn, doc commandDoc) error {
	exe, err := openAt(unix.AT_FDCWD, view.BinDir+"/outcall", unix.O_PATH)
	if err != nil {
		return err
	}
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL, AmbientCaps: ambient()}
	p, err := startTraced(exe, attr)
	if err != nil {
		return err
	}
	unix.Close(exe)
	steps := []func() error{
		// While this process is still in the foreground; a background group
		// would be stopped for asking.
		func() error { return unix.IoctlSetPointerInt(terminalFD(), unix.TIOCSPGRP, p.pid) },
		func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) },
		func() error { return shed(doc.Root) },
		seccomp.ApplyAll,
		insideNull,
		func() error { return p.conn.sendDoc(&message{Op: opConfig}, doc) },
		func() error { return relayReady(c, p.conn) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			_ = unix.Kill(p.pid, unix.SIGKILL)
			return err
		}
	}
	lead(c, p.pid)
	return nil
}

// terminalFD is the first of the descriptors 0-2 that is the pty; the others
// are what the caller handed in, never a terminal.
func terminalFD() int {
	for fd := range 3 {
		if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
			return fd
		}
	}
	return -1
}

// ambient lists the capabilities that this process has and can hand on.
func ambient() []uintptr {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return nil
	}
	var out []uintptr
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if data[c/32].Permitted&(1<<(c%32)) != 0 {
			out = append(out, c)
		}
	}
	return out
}

// startTraced starts the command's stage without a goroutine that reaps it:
// lead does, because it must see stops as well.
func startTraced(exe int, attr *syscall.SysProcAttr) (*child, error) {
	ours, theirs, err := connPair()
	if err != nil {
		return nil, err
	}
	defer theirs.close()
	pid, _, err := syscall.StartProcess(exePath(exe), stageArgs(stageCommand), &syscall.ProcAttr{
		Env: []string{}, Files: []uintptr{0, 1, 2, uintptr(theirs.fd)}, Sys: attr,
	})
	if err != nil {
		ours.close()
		return nil, fmt.Errorf("start: %w", err)
	}
	return &child{pid: pid, conn: ours}, nil
}

// relayReady waits for the command's stage as keeper.brief does.
func relayReady(up, down *conn) error {
	ready := false
	for {
		m, fds, err := down.recv()
		closeAll(fds)
		switch {
		case err != nil && ready:
			return up.send(&message{Op: opReady})
		case err != nil:
			return fmt.Errorf("ended before it was the command: %w", err)
		case m.Err != nil:
			return m.Err
		default:
			ready = true
		}
	}
}

// lead stays above one command: signals go down, stops and the end go up. It
// returns when the command has ended, and ends the process when the
// gatekeeper is gone.
func lead(c *conn, pid int) {
	var mu sync.Mutex
	reaped := false
	go func() {
		for {
			m, fds, err := c.recv()
			closeAll(fds)
			if err != nil {
				os.Exit(125)
			}
			sig := syscall.Signal(m.Signal)
			mu.Lock()
			if m.Op == opSignal && !reaped {
				_ = unix.Kill(target(pid, sig), sig)
			}
			mu.Unlock()
		}
	}()
	for {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil); err == unix.EINTR {
			continue
		}
		mu.Lock()
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, unix.WUNTRACED|unix.WNOHANG, nil)
		reaped = err != nil || ws.Exited() || ws.Signaled()
		mu.Unlock()
		switch {
		case reaped:
			_ = c.send(&message{Op: opExit, WaitStatus: uint32(ws)})
			return
		case ws.Stopped():
			_ = c.send(&message{Op: opStop, Signal: int(ws.StopSignal())})
		}
	}
}
