package term

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopWait is how long after our own SIGTSTP the stop may take to come where
// we cannot tell whether it does: the kernel never stops a job that nobody
// could continue (an orphaned process group), and then the command goes on.
const stopWait = 100 * time.Millisecond

// bufferSize is what a direction holds at most.
const bufferSize = 32 << 10

// A Job is the command behind the pty.
type Job interface {
	// Stops tells each time that the command has stopped.
	Stops() <-chan syscall.Signal
	// Continue lets it go on (SIGCONT).
	Continue(ctx context.Context) error
}

// A Relay couples a terminal and a pty's master.
type Relay struct {
	t       *Terminal
	out     *os.File
	master  *os.File
	job     Job
	suspend func() error // stops our own job; replaced by tests

	wake    *os.File // an eventfd: the input must look who has the terminal
	end     *os.File // an eventfd: Close
	winch   chan os.Signal
	cont    chan os.Signal
	ended   chan struct{} // closed by Close
	drained chan struct{} // closed when the pty has no more output
	busy    sync.Mutex    // held while output is carried
	once    sync.Once
	wg      sync.WaitGroup
}

// Attach makes the terminal raw and begins to carry bytes, sizes and stops
// until Close. Output goes to out, which may be the terminal or another file.
// master is borrowed until Close has returned.
func (t *Terminal) Attach(ctx context.Context, out, master *os.File, job Job) (*Relay, error) {
	r := &Relay{
		t: t, out: out, master: master, job: job, suspend: stopJob,
		winch: make(chan os.Signal, 1), cont: make(chan os.Signal, 1),
		ended: make(chan struct{}), drained: make(chan struct{}),
	}
	for _, f := range []**os.File{&r.wake, &r.end} {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("terminal: eventfd: %w", err), r.wake.Close())
		}
		*f = os.NewFile(uintptr(fd), "eventfd")
	}
	// The master is the session's alone, so that its flags are, too.
	if err := control(master, func(fd int) error { return unix.SetNonblock(fd, true) }); err != nil {
		return nil, errors.Join(fmt.Errorf("terminal: master: %w", err), r.wake.Close(), r.end.Close())
	}
	r.inherit()
	signal.Notify(r.winch, unix.SIGWINCH)
	signal.Notify(r.cont, unix.SIGCONT)
	r.resize()
	if err := t.Raw(); err != nil {
		r.quiet()
		return nil, errors.Join(err, r.wake.Close(), r.end.Close())
	}
	r.wg.Go(r.input)
	r.wg.Go(r.output)
	r.wg.Go(func() { r.events(ctx) })
	return r, nil
}

// inherit gives the pty the keys of the user's terminal (erase, interrupt, …),
// unless the command has already changed its mode.
func (r *Relay) inherit() {
	const cooked = unix.ICANON | unix.ECHO | unix.ISIG
	_ = control(r.master, func(fd int) error { // the defaults serve as well
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil || tio.Lflag&cooked != cooked || r.t.saved.Lflag&cooked != cooked {
			return err
		}
		tio.Cc = r.t.saved.Cc
		tio.Iflag = tio.Iflag&^(unix.IUTF8|unix.IXON|unix.IXANY) | r.t.saved.Iflag&(unix.IUTF8|unix.IXON|unix.IXANY)
		return unix.IoctlSetTermios(fd, unix.TCSETS, tio)
	})
}

func (r *Relay) resize() {
	rows, cols := r.t.Size()
	_ = control(r.master, func(fd int) error { // a pty that is gone has no size
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

func (r *Relay) events(ctx context.Context) {
	stops := r.job.Stops()
	for {
		select {
		case <-r.ended:
			return
		case <-ctx.Done():
			return
		case <-r.winch:
			r.resize()
		case <-r.cont:
			r.foreground() // fg after bg: the terminal is ours again
		case _, ok := <-stops:
			if !ok {
				stops = nil
				continue
			}
			r.stopped(ctx)
		}
	}
}

// stopped does what the command's stop means to the user's shell.
func (r *Relay) stopped(ctx context.Context) {
	select { // an older one
	case <-r.cont:
	default:
	}
	r.flush()
	// Errors end in a terminal that the shell puts right, as after a crash.
	_ = r.t.Restore()
	if err := r.suspend(); err == nil {
		var timeout <-chan time.Time
		if !underShell() {
			timeout = time.After(stopWait)
		}
		select {
		case <-r.cont:
		case <-timeout:
		case <-r.ended:
			return
		}
	}
	r.foreground()
	_ = r.job.Continue(ctx)
}

// foreground takes the terminal again if it is ours.
func (r *Relay) foreground() {
	r.t.forget()
	_ = r.t.Raw()
	r.resize()
	nudge(r.wake)
}

// stopJob stops our whole job, as Ctrl-Z does.
func stopJob() error { return unix.Kill(0, unix.SIGTSTP) }

// underShell reports whether our parent is a shell with job control over us:
// in our session, but not in our process group. Then our job can be stopped.
func underShell() bool {
	parent := unix.Getppid()
	sid, err := unix.Getsid(parent)
	own, ownErr := unix.Getsid(0)
	group, groupErr := unix.Getpgid(parent)
	return err == nil && ownErr == nil && groupErr == nil && sid == own && group != unix.Getpgrp()
}

func nudge(f *os.File) {
	_, _ = f.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // an eventfd takes 2^64-2 of these
}

// input carries keys. In the background it waits: a read would stop us.
func (r *Relay) input() {
	buf := make([]byte, bufferSize)
	for {
		tty := r.t.f
		if !r.t.Foreground() {
			tty = nil
		}
		if !r.poll(tty, unix.POLLIN, r.wake) {
			return
		}
		r.calm()
		if tty == nil || !r.t.Foreground() || !readable(tty) {
			continue
		}
		n, err := transfer(tty, buf, unix.Read)
		switch {
		case again(err):
		case err != nil || n <= 0:
			// The terminal is gone; end of file is a key on a terminal.
			r.send([]byte{r.t.saved.Cc[unix.VEOF]}, r.master)
			return
		case !r.send(buf[:n], r.master):
			return
		}
	}
}

// calm takes back the nudges so far.
func (r *Relay) calm() {
	var count [8]byte
	_, _ = transfer(r.wake, count[:], unix.Read)
}

// output carries what the command writes until the pty has no more: EIO when
// the last process inside has closed it.
func (r *Relay) output() {
	defer close(r.drained)
	buf := make([]byte, bufferSize)
	for r.poll(r.master, unix.POLLIN, nil) {
		if !r.carry(buf) {
			return
		}
	}
}

// carry brings one buffer of output out.
func (r *Relay) carry(buf []byte) bool {
	r.busy.Lock()
	defer r.busy.Unlock()
	n, err := transfer(r.master, buf, unix.Read)
	if again(err) {
		return true
	}
	return err == nil && n > 0 && r.send(buf[:n], r.out)
}

// flush waits, within stopWait, until what the command wrote before it stopped
// is on the screen.
func (r *Relay) flush() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range stopWait / time.Millisecond {
		if r.busy.TryLock() {
			more := readable(r.master)
			r.busy.Unlock()
			if !more {
				return
			}
		}
		<-tick.C
	}
}

// send writes all of buf, false when it cannot or at the end.
func (r *Relay) send(buf []byte, to *os.File) bool {
	for len(buf) > 0 {
		n, err := transfer(to, buf, unix.Write)
		switch {
		case again(err):
			if !r.poll(to, unix.POLLOUT, nil) {
				return false
			}
		case err != nil:
			return false
		default:
			buf = buf[n:]
		}
	}
	return true
}

func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

// transfer is one read or write that leaves the file's mode alone.
func transfer(f *os.File, buf []byte, call func(int, []byte) (int, error)) (n int, err error) {
	err = control(f, func(fd int) (err error) {
		n, err = call(fd, buf)
		return err
	})
	return max(n, 0), err
}

func readable(f *os.File) (ok bool) {
	_ = control(f, func(fd int) error {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ok = n > 0
		return err
	})
	return ok
}

// poll waits for one of two files (nil for none), false at the end.
func (r *Relay) poll(f *os.File, events int16, other *os.File) bool {
	fds := []unix.PollFd{{Fd: -1, Events: unix.POLLIN}, {Fd: -1, Events: events}, {Fd: -1, Events: unix.POLLIN}}
	var wait func(i int) error
	files := []*os.File{r.end, f, other}
	wait = func(i int) error {
		switch {
		case i < len(files) && files[i] == nil:
			return wait(i + 1)
		case i < len(files):
			return control(files[i], func(fd int) error {
				fds[i].Fd = int32(fd)
				return wait(i + 1)
			})
		}
		_, err := unix.Poll(fds, -1)
		for errors.Is(err, unix.EINTR) {
			_, err = unix.Poll(fds, -1)
		}
		return err
	}
	return wait(0) == nil && fds[0].Revents == 0
}

// Drain waits until the pty's output has been written, or until ctx ends.
func (r *Relay) Drain(ctx context.Context) {
	select {
	case <-r.drained:
	case <-ctx.Done():
	}
}

// Close ends the relay and restores the terminal. What the pty still holds is
// lost; Drain comes first.
func (r *Relay) Close() error {
	r.once.Do(func() {
		r.quiet()
		close(r.ended)
		nudge(r.end)
		r.wg.Wait()
		_ = errors.Join(r.wake.Close(), r.end.Close()) // nothing waits on them any more
	})
	return r.t.Restore()
}

func (r *Relay) quiet() {
	signal.Stop(r.winch)
	signal.Stop(r.cont)
}
