package requests

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Watch tells of each change of the file, this process's own included, until
// ctx ends; then the channel is closed. Several changes may be told as one.
func (s *Store) Watch(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch rule requests: inotify: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, s.dir, unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_CLOSE_WRITE|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch rule requests in %s: inotify: %w", s.dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	out := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { f.Close() })
	go func() { // ends with ctx, which closes f
		defer close(out)
		defer f.Close()
		defer stop()
		buf := make([]byte, 4096)
		for {
			// What the events say is no matter: who is told looks at the file.
			if _, err := f.Read(buf); err != nil {
				return
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}
