package requests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/session"
)

// content is the file.
type content struct {
	Version  int       `json:"version"`
	Project  string    `json:"project"`
	Requests []Request `json:"requests"`
}

const fileVersion = 1

// An identity tells one file from the next that was put in its place.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// read returns a copy of what stands in the file; it is parsed only where it
// is another file than the last time.
func (s *Store) read() ([]Request, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(s.Path(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("rule requests: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("rule requests: look at %s: %w", s.Path(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return nil, s.corrupt(fmt.Errorf("it is no file of yours alone (mode %#o, uid %d)", st.Mode, st.Uid))
	}
	id := identity{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
	if id != s.seen {
		list, err := s.parse(f)
		if err != nil {
			return nil, s.corrupt(err)
		}
		s.seen, s.list = id, list
	}
	return slices.Clone(s.list), nil
}

func (s *Store) parse(f *os.File) ([]Request, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	var c content
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something stands behind its end")
	}
	if c.Version != fileVersion || c.Project != s.Project {
		return nil, fmt.Errorf("it is of version %d and of the project %q", c.Version, c.Project)
	}
	ids := map[string]bool{}
	for i := range c.Requests {
		r := &c.Requests[i]
		if err := r.check(); err != nil {
			return nil, err
		}
		if ids[r.ID] {
			return nil, fmt.Errorf("%s is in it twice", r.ID)
		}
		ids[r.ID] = true
	}
	return c.Requests, nil
}

// write puts a new file in the place of the old. It runs under the lock, so
// one name serves for all files that are being written: what a writer that was
// killed has left there is written over.
func (s *Store) write(list []Request) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(content{fileVersion, s.Project, list}); err != nil {
		return err
	}
	if b.Len() > maxFile {
		return ErrFull
	}
	tmp := filepath.Join(s.dir, s.base+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, s.Path())
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(s.dir)
}

// syncDir makes a rename survive a crash of the machine.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func privateDir(dir string) error { return session.MakePrivateDir(dir, os.Geteuid()) }

// The lock is held for milliseconds; who is stopped while holding it must not
// stop the others for good.
const (
	lockWait = 10 * time.Second
	lockPoll = 5 * time.Millisecond
)

// lock takes the project's lock. flock(2) cannot wait with a limit. The lock
// file stays: were it removed, two could hold a lock of this name.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := privateDir(s.dir); err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, s.base+".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: another outcall holds it: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}
