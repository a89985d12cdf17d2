package child

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Command is what is run. Its standard streams are this process' own, and so
// is every other descriptor that is not close-on-exec.
type Command struct {
	Path      string
	Argv, Env []string
	// Alive is asked each Beat while the command runs. An error is its end.
	Alive func(context.Context) error
	Beat  time.Duration
}

// Lost is the error of Run when Alive had one: the command's group was killed.
type Lost struct{ Err error }

// Error implements error.
func (l *Lost) Error() string { return l.Err.Error() }

// Unwrap returns what Alive said.
func (l *Lost) Unwrap() error { return l.Err }

// forwarded are the signals that go on to the command: those that people and
// programs send, and no fault of this process' own.
func forwarded() []os.Signal {
	out := []os.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
		unix.SIGTSTP, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
	}
	for s := syscall.Signal(35); s <= 64; s++ { // the real-time ones that the runtime leaves
		out = append(out, s)
	}
	kept := out[:0]
	for _, s := range out {
		if !signal.Ignored(s) { // nohup: the command shall not get it either
			kept = append(kept, s)
		}
	}
	return kept
}

// A job is the running command.
type job struct {
	pid int // of the command, and its group
	tty *terminal
	own int // this process' group

	sigs chan os.Signal
}

// Run runs the command to its end and returns its exit code, 128 and the
// signal's number where one ended it. An error that is not Lost means that it
// was not started.
func Run(c Command) (code int, err error) {
	// The kernel ties PDEATHSIG to the thread that forks, and stop aims at a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	j := &job{tty: openTerminal(), own: unix.Getpgrp(), sigs: make(chan os.Signal, 128)}
	defer j.tty.close()
	signal.Notify(j.sigs, append(forwarded(), unix.SIGCHLD, unix.SIGCONT)...)
	defer signal.Stop(j.sigs)
	if j.pid, err = j.start(c); err != nil {
		return 0, err
	}
	// From here on: a background group that hands the terminal over is stopped
	// by SIGTTOU. It is too late for the command to inherit it.
	signal.Ignore(unix.SIGTTOU)
	defer signal.Reset(unix.SIGTTOU)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	beat := time.NewTicker(c.Beat)
	defer beat.Stop()
	heard := make(chan error, 1) // of the one question that is on its way
	asking := false
	for {
		select {
		case sig := <-j.sigs:
			if ws, ended := j.signal(sig.(syscall.Signal)); ended {
				return j.end(ws), nil
			}
		case <-beat.C:
			if !asking {
				asking = true
				go func() { heard <- c.Alive(ctx) }()
			}
		case err := <-heard:
			if asking = false; err != nil {
				j.kill()
				return 0, &Lost{err}
			}
		}
	}
}

func (j *job) start(c Command) (pid int, err error) {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if j.tty.whole && j.tty.foreground() == j.own {
		attr.Foreground, attr.Ctty = true, j.tty.fd
	}
	pid, err = syscall.ForkExec(c.Path, c.Argv, &syscall.ProcAttr{Env: c.Env, Files: []uintptr{0, 1, 2}, Sys: attr})
	if err != nil && attr.Foreground {
		signal.Ignore(unix.SIGTTOU)
		j.tty.give(j.own) // it had gone to the group of a process that is no more
		signal.Reset(unix.SIGTTOU)
	}
	return pid, err
}

// signal handles one signal; ended says that the command has.
func (j *job) signal(sig syscall.Signal) (ws unix.WaitStatus, ended bool) {
	switch sig {
	case unix.SIGCHLD:
		for {
			n, err := unix.Wait4(j.pid, &ws, unix.WNOHANG|unix.WUNTRACED, nil)
			switch {
			case err == unix.EINTR:
			case err != nil || n == 0:
				return ws, false
			case ws.Stopped():
				j.stopped(ws.StopSignal())
			default:
				return ws, true
			}
		}
	case unix.SIGCONT:
		j.resume()
	default:
		_ = unix.Kill(-j.pid, sig)
	}
	return ws, false
}

// stopped follows the command's stop.
func (j *job) stopped(sig syscall.Signal) {
	at := j.tty.foreground()
	if at < 0 {
		return // without a terminal nobody waits for a stop
	}
	if at == j.own && (sig == unix.SIGTTIN || sig == unix.SIGTTOU) {
		j.tty.whole = true // it has shown that it is the one who reads
		j.resume()
		return
	}
	if at == j.pid {
		j.tty.give(j.own)
	}
	if !j.orphaned() {
		if at == j.pid && sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU {
			// As the terminal does it: the whole pipeline or script, this process
			// excepted, where it would be taken for one to forward.
			signal.Ignore(sig)
			_ = unix.Kill(0, sig)
			signal.Notify(j.sigs, unix.SIGTSTP)
		}
		// To this thread: it is stopped before the call returns.
		_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
	}
	j.resume()
}

// orphaned tells that nobody in the session would see this group stop, and
// continue it: the kernel keeps such groups from stopping, too.
func (j *job) orphaned() bool {
	for pid := unix.Getppid(); pid > 0; pid = parent(pid) {
		pgrp, err := unix.Getpgid(pid)
		if err != nil {
			break
		}
		if pgrp != j.own {
			theirs, err := unix.Getsid(pid)
			ours, err2 := unix.Getsid(0)
			return err != nil || err2 != nil || theirs != ours
		}
	}
	return true
}

// parent is the parent of a process, 0 where it cannot be told.
func parent(pid int) int {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}

// resume continues the command, in the foreground if that is this group's.
func (j *job) resume() {
	if j.tty.whole && j.tty.foreground() == j.own {
		j.tty.give(j.pid)
	}
	_ = unix.Kill(-j.pid, unix.SIGCONT)
}

func (j *job) end(ws unix.WaitStatus) int {
	if j.tty.foreground() == j.pid {
		j.tty.give(j.own)
	}
	if ws.Signaled() {
		j.tty.restore() // it had no time to
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// kill ends the whole group and waits for the command.
func (j *job) kill() {
	_ = unix.Kill(-j.pid, unix.SIGKILL)
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(j.pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	if j.tty.foreground() == j.pid {
		j.tty.give(j.own)
	}
	j.tty.restore()
}
