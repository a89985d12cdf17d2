package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait bounds the wait for the root's lock: it is held for milliseconds,
// and a stopped process must not stop all others.
const lockWait = 5 * time.Second

// lockPoll is how often it is tried; flock(2) cannot wait with a limit.
const lockPoll = 5 * time.Millisecond

// lockRoot takes the lock under which sessions are made and removed. A root
// that is not there is fs.ErrNotExist.
func lockRoot(ctx context.Context, root string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	path := filepath.Join(root, lockFile)
	for {
		f, err := tryLock(path)
		if err == nil {
			return func() { tidyRoot(root); f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the sessions: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: another outcall holds it: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// tryLock opens and locks the file, or returns EWOULDBLOCK. A file that its
// last holder removed in between is no lock.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	ours, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Lstat(path); err == nil && os.SameFile(ours, there) {
			return f, nil
		}
	}
	f.Close()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return nil, unix.EWOULDBLOCK
}

// tidyRoot removes a root without sessions, so that nothing is left of the
// last one. It runs under the lock, as the last thing done under it.
func tidyRoot(root string) {
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 1 || entries[0].Name() != lockFile {
		return
	}
	if os.Remove(filepath.Join(root, lockFile)) == nil {
		os.Remove(root) // not empty if another outcall has just come: it stays
	}
}

func flock(f *os.File, how int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) {
		for {
			if err = unix.Flock(int(fd), how); err != unix.EINTR {
				return
			}
		}
	}); cerr != nil {
		return cerr
	}
	return err
}
