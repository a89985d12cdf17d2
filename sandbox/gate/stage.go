package gate

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A stage is this program, started again by itself. Its name is the first
// argument; argv[0] is "outcall". It has one control socket, and the keeper
// stages the open executable beside it.
const (
	stagePrefix  = "outcall:"
	stageHold    = stagePrefix + "hold"    // waits for its id map, then becomes the keeper
	stageKeeper  = stagePrefix + "keeper"  // U1, gateway netns
	stageInit    = stagePrefix + "init"    // makes the view, then becomes pid 1
	stagePid1    = stagePrefix + "pid1"    // without capabilities
	stageCommand = stagePrefix + "command" // U2: becomes the command
	stageSession = stagePrefix + "session" // U2: leads the terminal's session
	stageGateway = stagePrefix + "gateway" // U1, gateway netns: runs an operator's tool

	stageSock = 3
	stageExe  = 4
)

// Threads matter in a stage: capabilities, namespaces, keyrings and the
// parent-death signal belong to them. main stays on the process's first one.
func init() {
	if isStage() {
		runtime.LockOSThread()
	}
}

func isStage() bool {
	return len(os.Args) == 2 && os.Args[0] == "outcall" && strings.HasPrefix(os.Args[1], stagePrefix)
}

// Main runs a stage and does not return, or returns false when this process
// is none. It must be the first call of main.
func Main() bool {
	if !isStage() {
		return false
	}
	name := os.Args[1]
	if typ, err := unix.GetsockoptInt(stageSock, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || typ != unix.SOCK_SEQPACKET {
		os.Stderr.WriteString("outcall: " + name + " is not for use by hand\n")
		os.Exit(2)
	}
	c := &conn{fd: stageSock}
	// Second to the EOF of the socket. It is also asked for again here because
	// a change of credentials clears it.
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(deathSignal(name)), 0, 0, 0)
	own := stageSock + 1
	if name == stageHold || name == stageKeeper {
		own = stageExe + 1
	}
	if err := closeFrom(own); err != nil {
		os.Stderr.WriteString("outcall: close inherited descriptors: " + err.Error() + "\n")
		os.Exit(125)
	}
	switch name {
	case stageHold:
		os.Exit(holdMain(c))
	case stageKeeper:
		os.Exit(keeperMain(c))
	case stageInit:
		os.Exit(initMain(c))
	case stagePid1:
		os.Exit(pid1Main(c))
	case stageCommand, stageSession:
		os.Exit(commandMain(c))
	case stageGateway:
		os.Exit(gatewayMain(c))
	}
	os.Exit(2)
	return true
}

// deathSignal is what a stage gets when its parent dies. The gatekeeper uses
// it to end in order: killed, it would leave the agent's processes for the
// host's pid 1 to reap, and until then their namespaces stand.
func deathSignal(name string) unix.Signal {
	if name == stageHold || name == stageKeeper {
		return unix.SIGTERM
	}
	return unix.SIGKILL
}

// closeFrom closes what the caller of the first process has left open: the
// agent gets nothing above descriptor 2, and the gatekeeper holds nothing
// that it was not given. What came through execve has no close-on-exec flag;
// the Go runtime's own descriptors have it (it keeps the cgroup's cpu.max
// open), so close_range(2) would take too much.
func closeFrom(first int) error {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, n := range names {
		fd, err := strconv.Atoi(n.Name())
		if err != nil || fd < first {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// stageArgs is the argument vector of a stage.
func stageArgs(name string) []string { return []string{"outcall", name} }

// stageErr makes a StageError of any error: the kernel's answer is taken out
// of the chain, the words around it stay as detail.
func stageErr(stage, detail string, err error) *StageError {
	if err == nil {
		return nil
	}
	var se *StageError
	if errors.As(err, &se) {
		return se
	}
	out := &StageError{Stage: stage, Detail: detail}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		out.Errno = errno
		text := strings.TrimSuffix(strings.TrimSuffix(err.Error(), errno.Error()), ": ")
		out.Detail = join(detail, text)
	} else {
		out.Detail = join(detail, err.Error())
	}
	out.Hint = hint(out)
	return out
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ": " + b
}

// inject fails a stage that a test has chosen.
func inject(chosen, stage string) error {
	if chosen == stage {
		return &StageError{Stage: stage, Detail: "refused for a test", Errno: unix.EPERM, Hint: hint(&StageError{Stage: stage, Errno: unix.EPERM})}
	}
	return nil
}
