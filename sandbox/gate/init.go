package gate

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"outcall/sandbox/view"
)

// initMain makes the view, as pid 1 and with every capability in U1, and then
// starts itself anew from the view's copy of the program: pid1Main begins
// with no memory, descriptor or capability of this one.
//
// It should leave behind a mount namespace in which every mount stands, the
// agent's listening socket with the gatekeeper, and itself without powers.
// It mustn't start anything: the agent's processes are the gatekeeper's
// children.
func initMain(c *conn) int {
	var spec view.Spec
	if err := c.recvDoc(opConfig, &spec); err != nil {
		return 1
	}
	if err := makeView(c, spec); err != nil {
		_ = c.send(&message{Op: opView, Err: stageErr(StageInit, "", err)})
		return 1
	}
	if err := giveUp(); err != nil {
		_ = c.send(&message{Op: opView, Err: stageErr(StageCaps, "init", err)})
		return 1
	}
	err := unix.Exec(view.BinDir+"/outcall", stageArgs(stagePid1), nil)
	_ = c.send(&message{Op: opView, Err: stageErr(StageInit, "start again inside the view", err)})
	return 1
}

func makeView(c *conn, spec view.Spec) error {
	if err := view.Apply(spec); err != nil {
		return err
	}
	listener, readme, err := view.AgentFiles()
	if err != nil {
		return err
	}
	defer listener.Close()
	defer readme.Close()
	if err := c.send(&message{Op: opView}, int(listener.Fd()), int(readme.Fd())); err != nil {
		return err
	}
	return insideNull()
}

// insideNull replaces descriptors 0-2, which are the host's, and the working
// directory.
func insideNull() error {
	null, err := openAt(unix.AT_FDCWD, "/dev/null", unix.O_RDWR)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return err
		}
	}
	unix.Close(null)
	return os.Chdir("/")
}

// giveUp empties every capability set of the calling thread, for good: what
// it executes next, also as uid 0 of its namespace, gets none.
func giveUp() error {
	if err := dropBounding(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return dropCaps()
}

// dropBounding needs CAP_SETPCAP.
func dropBounding() error {
	for c := uintptr(0); c <= maxCap; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if err == unix.EINVAL && c > unix.CAP_LAST_CAP {
				break // this kernel knows no more
			}
			if err == unix.EINVAL {
				continue // an older kernel
			}
			return err
		}
	}
	return nil
}

// maxCap is more than any kernel has: capability sets are 64 bits wide.
const maxCap = 63

// dropCaps empties all other sets. Clearing the inheritable set clears the
// ambient one with it (capabilities(7)).
func dropCaps() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&hdr, &none[0])
}

// pid1Main is pid 1 for the rest of the session. Orphans are reaped by the
// kernel because SIGCHLD is ignored (wait(2)). It ends when the gatekeeper
// does, and with it every process of the pid namespace.
func pid1Main(c *conn) int {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 1
	}
	ignoreSignals()
	for _, s := range os.Args {
		// The strings are the process's own argument memory, which /proc
		// shows to everybody.
		clear(unsafe.Slice(unsafe.StringData(s), len(s)))
	}
	if err := c.send(&message{Op: opReady}); err != nil {
		return 1
	}
	_, fds, err := c.recv()
	closeAll(fds)
	if err == nil {
		return 1 // there is nothing to ask of it
	}
	return 0
}

// ignoreSignals takes the Go runtime's handlers away. The kernel keeps
// signals from inside off a pid 1 that has no handler for them; with the
// runtime's, a SIGQUIT would end it and the session. The runtime itself is
// content: it only loses asynchronous preemption (SIGURG).
func ignoreSignals() {
	type sigaction struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	act := sigaction{handler: 1} // SIG_IGN
	for sig := 1; sig <= 64; sig++ {
		// SIGKILL and SIGSTOP are refused, and harmless to pid 1.
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
	}
}
