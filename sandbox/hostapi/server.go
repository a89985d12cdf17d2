package hostapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of the server. Beyond MaxConns a client waits in the listen queue;
// a longer body is 413, a longer head 431, a slower one is cut off.
const (
	MaxBody       = 1 << 20
	MaxConns      = 128
	maxHeader     = 64 << 10
	headerTimeout = 10 * time.Second
	callTimeout   = 60 * time.Second // one call that is no stream
	idleTimeout   = 2 * time.Minute
)

// maxSocketPath is what sun_path holds beside its NUL.
const maxSocketPath = 107

// Listen makes the socket at path, mode 0600 from the first moment, in a
// directory that the caller has made 0700. An existing file is an error: the
// session's lock says who may remove it.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("host socket: the path has %d bytes and the kernel takes %d: %s", len(path), maxSocketPath, path)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("host socket: %w", err)
	}
	// Nobody else can reach it before this: the directory is 0700.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("host socket: %w", err)
	}
	return l, nil
}

// CheckDir refuses a directory for the host socket that others than the user
// could enter or write.
func CheckDir(path string) error {
	dir := filepath.Dir(path)
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("host socket directory: %w", &os.PathError{Op: "lstat", Path: dir, Err: err})
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("host socket directory: %s is no directory", dir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("host socket directory: %s belongs to uid %d", dir, st.Uid)
	case st.Mode&0o777 != 0o700:
		return fmt.Errorf("host socket directory: %s has mode %#o, must be 0700", dir, st.Mode&0o777)
	}
	return nil
}

// A Server serves the API of one session.
type Server struct {
	backend Backend
	http    *http.Server
	execs   sync.WaitGroup // upgraded connections, which http.Server forgets

	captures captures
	base     context.Context // ends with Stop
	stop     context.CancelFunc

	mu    sync.Mutex     // over the end of base and the beginning of calls
	calls sync.WaitGroup // what runs and does not tail
}

// NewServer returns a server for b. Nothing is served before Serve.
func NewServer(b Backend) *Server {
	s := &Server{backend: b}
	s.base, s.stop = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(*conn).peer)
		},
		// What net/http would say of a broken client is of no use to anyone.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return s
}

// Serve answers on l, which it owns, until Close. It returns nil after Close.
func (s *Server) Serve(l *net.UnixListener) error {
	err := s.http.Serve(newListener(l))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the host socket: %w", err)
}

// Stop removes the socket, ends the streams, and lets running calls finish
// until ctx ends. Who reads the events goes on, so that followers are told of
// the session's end.
func (s *Server) Stop(ctx context.Context) {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	atOnce, cancel := context.WithCancel(ctx)
	cancel()
	s.http.Shutdown(atOnce) // takes no more clients; Close waits for those there are
	done := make(chan struct{})
	go func() { s.calls.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Close stops, if Stop has not, and ends what is left: readers of the events
// have closeGrace, within ctx, for what the backend still tells them.
func (s *Server) Close(ctx context.Context) {
	s.Stop(ctx)
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	s.execs.Wait()
}

// enter begins a call, which leave ends; its context ends with Stop. False says
// that the server has stopped.
func (s *Server) enter(ctx context.Context) (_ context.Context, leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base.Err() != nil {
		return nil, nil, false
	}
	s.calls.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(s.base, cancel)
	return ctx, func() { unhook(); cancel(); s.calls.Done() }, true
}
