package term

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// guardArg is the hidden first argument of the guard's process; argv[0] is
// "outcall". Its standard input is the terminal, its standard output is
// nothing, descriptor 3 is a pipe from the supervisor:
//
//	supervisor              guard
//	termios  ------------>  keeps it
//	arm      ------------>  the terminal may be raw from now on
//	disarm   ------------>  it is as it was
//	EOF      ------------>  if armed: restore; end
const (
	guardArg = "outcall-term:guard"
	armed    = 1
	disarmed = 0
)

type guard struct {
	pipe *os.File
	cmd  *exec.Cmd
}

// Guard starts the process that restores the terminal if this one dies. The
// program itself must call Main first thing. It ends with EndGuard.
func (t *Terminal) Guard() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("terminal guard: %w", err)
	}
	defer r.Close()
	c := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"outcall", guardArg}, Env: []string{}, Dir: "/", Stdin: t.f, ExtraFiles: []*os.File{r}}
	// A group of its own: the keys that stop or end our job are not for it.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return errors.Join(fmt.Errorf("terminal guard: %w", err), w.Close())
	}
	if err := binary.Write(w, binary.NativeEndian, &t.saved); err != nil {
		return errors.Join(fmt.Errorf("terminal guard: %w", err), w.Close(), c.Wait())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.guard = &guard{w, c}
	return nil
}

// EndGuard restores the terminal and ends the guard.
func (t *Terminal) EndGuard() error {
	err := t.Restore()
	t.mu.Lock()
	g := t.guard
	t.guard = nil
	t.mu.Unlock()
	if g == nil {
		return err
	}
	return errors.Join(err, g.pipe.Close(), g.cmd.Wait())
}

// A guard that has died cannot be told anything; the terminal works without.
func (g *guard) arm()    { _, _ = g.pipe.Write([]byte{armed}) }
func (g *guard) disarm() { _, _ = g.pipe.Write([]byte{disarmed}) }

// Main runs the guard and does not return, or returns false when this process
// is none.
func Main() bool {
	if len(os.Args) != 2 || os.Args[0] != "outcall" || os.Args[1] != guardArg {
		return false
	}
	os.Exit(guardMain(os.Stdin, os.NewFile(3, "pipe")))
	return true
}

func guardMain(tty, pipe *os.File) int {
	// Changing the mode from the background is a SIGTTOU, and the rest is for
	// the supervisor: its death is what we wait for.
	signal.Ignore(unix.SIGTTOU, unix.SIGTTIN, unix.SIGTSTP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	var saved unix.Termios
	if err := binary.Read(pipe, binary.NativeEndian, &saved); err != nil {
		return 1
	}
	state := []byte{disarmed}
	for {
		if _, err := io.ReadFull(pipe, state[:1]); err != nil {
			break
		}
	}
	if state[0] == disarmed {
		return 0
	}
	if err := control(tty, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETSW, &saved) }); err != nil {
		return 1
	}
	return 0
}
