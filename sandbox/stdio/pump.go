package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// bufferSize is what a pump holds at most, per direction: the size of a pipe.
const bufferSize = 64 << 10

// A pump carries bytes one way between the caller's descriptor and the
// command's pipe.
type pump struct {
	host *os.File
	pipe *os.File // our end, non-blocking
	out  bool     // pipe → host
	err  error    // after run

	// peek is the command's end of the pipe, kept for a regular file alone, to
	// see what was left unread; ahead is the file's offset after our last read.
	peek  *os.File
	ahead int64
	held  int // bytes read that did not go into the pipe

	wake *os.File // an eventfd: readable once the pump must stop
	once sync.Once
}

// newPump makes a pump and the command's end of its pipe. That end blocks:
// O_NONBLOCK belongs to the open file, and the command would see it.
func newPump(host *os.File, out bool) (p *pump, child *os.File, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	mine, theirs := ends[1], ends[0]
	if out {
		mine, theirs = theirs, mine
	}
	child = os.NewFile(uintptr(theirs), host.Name())
	err = unix.SetNonblock(mine, true)
	p = &pump{host: host, pipe: os.NewFile(uintptr(mine), "pipe"), out: out}
	wake, werr := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err = errors.Join(err, werr); err != nil {
		return nil, nil, errors.Join(err, child.Close(), p.pipe.Close())
	}
	p.wake = os.NewFile(uintptr(wake), "wake")
	if !out && regular(host) {
		fd, err := unix.FcntlInt(uintptr(theirs), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, nil, errors.Join(err, child.Close(), p.pipe.Close(), p.wake.Close())
		}
		p.peek = os.NewFile(uintptr(fd), "pipe")
	}
	return p, child, nil
}

func regular(f *os.File) bool {
	var st unix.Stat_t
	err := control(f, func(fd int) error { return unix.Fstat(fd, &st) })
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// stop makes run return soon, without waiting.
func (p *pump) stop() {
	p.once.Do(func() {
		_, _ = p.wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // an eventfd takes 2^64-2 of these
		if p.out {
			_ = p.pipe.Close()
		}
	})
}

func (p *pump) close() {
	p.stop()
	_ = p.pipe.Close() // also where run was never called; twice is harmless
	if p.peek != nil {
		_ = p.peek.Close()
	}
}

func (p *pump) run() {
	if p.out {
		p.err = p.drain()
	} else {
		p.err = p.feed()
	}
	_ = p.pipe.Close() // a pipe; the other side sees end of file or EPIPE
}

// feed carries the caller's input to the command until it ends, until the
// command takes no more, or until stop.
func (p *pump) feed() error {
	buf := make([]byte, bufferSize)
	for {
		ready, err := p.poll(unix.POLLIN)
		if !ready || err != nil {
			return err
		}
		n, err := p.read(buf)
		if n > 0 {
			done, err := p.write(buf[:n])
			if done < n {
				p.held = n - done
				return err
			}
			continue
		}
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		return endOf("read", p.host, err)
	}
}

// drain carries the command's output out until all of its writers are gone or
// the caller's side takes no more. Bytes that the pipe holds when stop is
// called are lost.
func (p *pump) drain() error {
	buf := make([]byte, bufferSize)
	for {
		n, err := p.pipe.Read(buf)
		for done := 0; done < n; {
			w, werr := p.hostWrite(buf[done:n])
			if werr == nil && w == 0 {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				return endOf("write", p.host, werr)
			}
			done += w
		}
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the command's output: %w", err)
		}
	}
}

// endOf tells ordinary ends of the caller's side from errors.
func endOf(op string, f *os.File, err error) error {
	if err == nil || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EIO) && op == "read" {
		return nil // EIO: a terminal that is gone
	}
	return fmt.Errorf("%s %s: %w", op, f.Name(), err)
}

// poll waits until the caller's descriptor is ready, false if stop comes
// first or the command has closed its input.
func (p *pump) poll(events int16) (ready bool, err error) {
	err = control(p.host, func(host int) error {
		return control(p.pipe, func(pipe int) error {
			return control(p.wake, func(wake int) error {
				fds := []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}, {Fd: int32(host), Events: events}, {Fd: int32(pipe)}}
				for {
					_, err := unix.Poll(fds, -1)
					if errors.Is(err, unix.EINTR) {
						continue
					}
					// POLLERR on the write end: no reader is left.
					closed := !p.out && fds[2].Revents&unix.POLLERR != 0
					ready = err == nil && fds[0].Revents == 0 && !closed && fds[1].Revents != 0
					return err
				}
			})
		})
	})
	return ready, err
}

func (p *pump) read(buf []byte) (n int, err error) {
	cerr := control(p.host, func(fd int) error {
		n, err = unix.Read(fd, buf)
		if p.peek != nil {
			p.ahead, _ = unix.Seek(fd, 0, unix.SEEK_CUR)
		}
		return nil
	})
	if cerr != nil {
		return 0, cerr
	}
	return max(n, 0), err
}

// hostWrite writes to the caller's side, waiting where that is non-blocking.
func (p *pump) hostWrite(buf []byte) (n int, err error) {
	for {
		cerr := control(p.host, func(fd int) error {
			n, err = unix.Write(fd, buf)
			return nil
		})
		switch {
		case cerr != nil:
			return 0, cerr
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			ready, perr := p.poll(unix.POLLOUT)
			if !ready {
				return 0, errors.Join(unix.EPIPE, perr)
			}
		default:
			return max(n, 0), err
		}
	}
}

// write fills the command's pipe, false progress when it is closed or stop
// comes. The pipe is ours alone, and non-blocking.
func (p *pump) write(buf []byte) (done int, err error) {
	for done < len(buf) {
		var n int
		cerr := control(p.pipe, func(fd int) error {
			n, err = unix.Write(fd, buf[done:])
			return nil
		})
		switch {
		case cerr != nil:
			return done, cerr
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if !p.room() {
				return done, nil
			}
		case err != nil:
			return done, nil // EPIPE: it takes no more
		default:
			done += n
		}
	}
	return done, nil
}

// room waits until the command's pipe takes more, false if stop comes first.
func (p *pump) room() (ok bool) {
	_ = control(p.pipe, func(pipe int) error {
		return control(p.wake, func(wake int) error {
			fds := []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}, {Fd: int32(pipe), Events: unix.POLLOUT}}
			_, err := unix.Poll(fds, -1)
			for errors.Is(err, unix.EINTR) {
				_, err = unix.Poll(fds, -1)
			}
			ok = err == nil && fds[0].Revents == 0
			return err
		})
	})
	return ok
}

// giveBack moves the offset of a regular file back over what was read from it
// and not by the command, once that has ended. So a loop that reads a list
// from the same file does not lose its lines. Where somebody else has moved
// the offset meanwhile it is left alone.
func (p *pump) giveBack() {
	if p.peek == nil {
		return
	}
	_ = control(p.peek, func(pipe int) error {
		return control(p.host, func(host int) error {
			left, err := unix.IoctlGetInt(pipe, unix.TIOCINQ) // FIONREAD
			if err != nil {
				return err
			}
			at, err := unix.Seek(host, 0, unix.SEEK_CUR)
			if err != nil || at != p.ahead {
				return err
			}
			_, err = unix.Seek(host, at-int64(left)-int64(p.held), unix.SEEK_SET)
			return err
		})
	})
}
