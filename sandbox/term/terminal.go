package term

import (
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// A Terminal is the user's terminal and the mode it had when it was opened.
// Its methods are safe for concurrent use.
type Terminal struct {
	f      *os.File
	saved  unix.Termios
	shared bool

	mu    sync.Mutex
	raw   bool
	guard *guard
}

// Open looks at a terminal. f is borrowed until Restore has returned for the
// last time.
func Open(f *os.File) (*Terminal, error) {
	t := &Terminal{f: f}
	err := t.control(func(fd int) error {
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			t.saved = *tio
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("terminal %s: read its mode: %w", f.Name(), err)
	}
	return t, nil
}

// Share keeps the terminal's own output processing in raw mode: programs beside
// the command write to it, as head does in `outcall run -- yes | head`, and
// their lines need their carriage returns. What comes from the pty has its own
// and a second does no harm. It is called before Attach.
func (t *Terminal) Share() { t.shared = true }

// Size is the window's; a terminal that has none is 24 by 80.
func (t *Terminal) Size() (rows, cols uint16) {
	err := t.control(func(fd int) error {
		ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err == nil {
			rows, cols = ws.Row, ws.Col
		}
		return err
	})
	if err != nil || rows == 0 || cols == 0 {
		return 24, 80
	}
	return rows, cols
}

// Foreground reports whether our job is the one that has the terminal.
func (t *Terminal) Foreground() bool {
	fg := 0
	err := t.control(func(fd int) (err error) {
		fg, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	// Not our controlling terminal: there is no job control to respect.
	return err != nil || fg == unix.Getpgrp()
}

// Raw hands every key through. It does nothing in the background.
func (t *Terminal) Raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw || !t.Foreground() {
		return nil
	}
	if t.guard != nil {
		t.guard.arm()
	}
	tio := t.saved // cfmakeraw(3)
	tio.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	if !t.shared {
		tio.Oflag &^= unix.OPOST
	}
	tio.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	tio.Cflag = tio.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	tio.Cc[unix.VMIN], tio.Cc[unix.VTIME] = 1, 0
	if err := t.set(&tio); err != nil {
		return fmt.Errorf("terminal %s: set raw mode: %w", t.f.Name(), err)
	}
	t.raw = true
	return nil
}

// Restore gives the terminal the mode back that it had at Open. It may be
// called any number of times.
func (t *Terminal) Restore() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.raw {
		return nil
	}
	if err := t.set(&t.saved); err != nil {
		return fmt.Errorf("terminal %s: restore its mode: %w", t.f.Name(), err)
	}
	t.raw = false
	if t.guard != nil {
		t.guard.disarm()
	}
	return nil
}

// forget is for when the shell has had the terminal and set its own mode.
func (t *Terminal) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.raw = false
}

// set waits for output and changes the mode. From the background that is a
// SIGTTOU, which would stop us with the terminal in the wrong mode.
func (t *Terminal) set(tio *unix.Termios) error {
	signal.Ignore(unix.SIGTTOU)
	defer signal.Reset(unix.SIGTTOU)
	return t.control(func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETSW, tio) })
}

// control calls with the descriptor, without making the file blocking or
// non-blocking as Fd would.
func (t *Terminal) control(call func(fd int) error) error { return control(t.f, call) }

func control(f *os.File, call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	if err := rc.Control(func(fd uintptr) { cerr = call(int(fd)) }); err != nil {
		return err
	}
	return cerr
}
