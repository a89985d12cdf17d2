package gate

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A nsThread is one thread of the gatekeeper that stands in the agent's
// namespaces. There are two: one makes the agent's processes, the other its
// sockets, because a start can be held up for as long as cloneTime. A thread
// lives as long as the gatekeeper: the kernel counts a process's parent by
// thread, and its death would be theirs (PR_SET_PDEATHSIG).
//
// In two steps it leaves the gateway: unshare makes the agent's network
// namespace, and enter joins the namespaces of init when the view stands.
type nsThread struct {
	jobs  chan func()
	netNS *os.File // the agent's network namespace
}

func newNSThread() *nsThread {
	t := &nsThread{jobs: make(chan func())}
	go t.run()
	return t
}

// run never unlocks its thread: no other goroutine may ever run on it.
func (t *nsThread) run() {
	runtime.LockOSThread()
	for f := range t.jobs {
		f()
	}
	select {}
}

// do runs f on the thread and waits for it.
func (t *nsThread) do(f func() error) error {
	done := make(chan error, 1)
	t.jobs <- func() { done <- f() }
	return <-done
}

// unshare makes the agent's network namespace, owned by this process's user
// namespace (U1). It is the first thing that needs a capability.
func (t *nsThread) unshare() error {
	return t.do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		t.netNS = f
		return err
	})
}

// enter joins the namespaces (CLONE_NEW…) that init was given, by its pidfd;
// later children of the thread are in init's pid namespace. CLONE_FS is given
// up first: root and working directory change with the mount namespace.
func (t *nsThread) enter(pidfd, flags int) error {
	return t.do(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(pidfd, flags); err != nil {
			return err
		}
		return os.Chdir("/")
	})
}

// join makes the thread one of the agent's network namespace, and of nothing
// else of the agent's: it makes no processes, so nothing inside can hold it up.
func (t *nsThread) join(netNS *os.File) error {
	return t.do(func() error { return unix.Setns(int(netNS.Fd()), unix.CLONE_NEWNET) })
}

// open opens a path of the agent's view.
func (t *nsThread) open(path string, flags int) (fd int, err error) {
	err = t.do(func() error {
		fd, err = openAt(unix.AT_FDCWD, path, flags)
		return err
	})
	return fd, err
}

func openAt(dir int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
