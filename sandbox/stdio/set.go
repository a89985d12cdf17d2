package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Set is the three descriptors of one command. Its methods are called in
// order: New, Start once the command has them, Wait once it has ended, Close.
type Set struct {
	// Child are the descriptors for the command, nil where it gets the pty.
	// They are the Set's; Start and Close close those that it made.
	Child [3]*os.File
	// Kind says how each was dealt with.
	Kind [3]Kind
	// TTY is set when a pty is to be made and stands in for those of Kind PTY.
	TTY bool

	made  []*os.File // what Child has from us
	pumps []*pump
	wg    sync.WaitGroup
}

// New looks at the caller's descriptors 0-2 and prepares what the command
// gets. A terminal among them becomes the pty (TTY) if tty is set, and is
// pumped otherwise. files are borrowed until Close; nil stands for /dev/null.
// A directory or block device is a *KindError.
func New(files [3]*os.File, tty bool) (*Set, error) {
	s := &Set{}
	for i, f := range files {
		k, what, err := classify(f)
		if f == nil || errors.Is(err, unix.EBADF) || errors.Is(err, os.ErrClosed) {
			k, err = Handed, s.null(i) // closed by the caller
			files[i] = s.Child[i]
		}
		if err == nil && k == Refused {
			err = &KindError{FD: i, What: what}
		}
		if k == PTY && !tty {
			k = Pumped
		}
		s.Kind[i] = k
		if err == nil {
			err = s.prepare(i, k, files)
		}
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

func (s *Set) null(i int) error {
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.Child[i] = f
	s.made = append(s.made, f)
	return nil
}

func (s *Set) prepare(i int, k Kind, files [3]*os.File) error {
	switch k {
	case Handed:
		s.Child[i] = files[i]
		return nil
	case PTY:
		s.TTY = true
		return nil
	}
	if i == 2 && s.Kind[1] == Pumped && files[1] != nil && s.Child[1] != nil && sameOpenFile(files[1], files[2]) {
		s.Child[2] = s.Child[1]
		return nil
	}
	p, mine, err := newPump(files[i], i > 0)
	if err != nil {
		return fmt.Errorf("pump for %s: %w", names[i], err)
	}
	s.Child[i] = mine
	s.made = append(s.made, mine)
	s.pumps = append(s.pumps, p)
	return nil
}

// Start closes our copies of the command's ends, so that end of file and EPIPE
// can happen, and begins to pump. Child is empty afterwards.
func (s *Set) Start() {
	s.closeMade()
	for _, p := range s.pumps {
		s.wg.Go(p.run)
	}
}

func (s *Set) closeMade() {
	for _, f := range s.made {
		_ = f.Close() // pipes and /dev/null; nothing is lost
	}
	s.made, s.Child = nil, [3]*os.File{}
}

// Wait ends the input and waits until the output has been written, or until
// ctx ends: another process inside may hold the pipe. Errors are those of the
// caller's side, other than that it takes no more.
func (s *Set) Wait(ctx context.Context) error {
	for _, p := range s.pumps {
		if !p.out {
			p.stop()
		}
	}
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		for _, p := range s.pumps {
			p.stop()
		}
		return ctx.Err()
	}
	var errs []error
	for _, p := range s.pumps {
		p.giveBack()
		errs = append(errs, p.err)
	}
	return errors.Join(errs...)
}

// Close ends all pumps and gives their descriptors back. A pump that hangs in
// a write to the caller's side is left to the end of the process.
func (s *Set) Close() error {
	s.closeMade()
	for _, p := range s.pumps {
		p.close()
	}
	return nil
}
