package agentapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"outcall/policy"
)

// Limits of the server. Beyond MaxConns a client waits in the listen queue;
// a longer body is 413, a longer head 431, a slower one is cut off.
const (
	MaxBody       = 64 << 10
	MaxConns      = 64
	maxHeader     = 8 << 10
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 10 * time.Second
)

// A Backend is the session that the API speaks for. Its methods are called
// concurrently. One that panics or does not return in time is a denial.
type Backend interface {
	// Judge decides about an action.
	Judge(ctx context.Context, q *Question) Verdict
	// Record writes the audit's line of a verdict, and returns what the verdict
	// comes to: without its line an action is denied.
	Record(q *Question, v Verdict) Verdict
	// Remedy tells the smallest rule file that would allow what was denied, ""
	// where none would, and one line about it.
	Remedy(ctx context.Context, e policy.Event) (rule, advice string)
	// Validate checks a proposed rule file; the error is told to the agent.
	Validate(ctx context.Context, file string) error
	// Policy is the text about what is reachable.
	Policy(ctx context.Context) string
	// Limited is told of each call that a rate limit refused; it must not block.
	Limited()
	// Proposed is told of each rule file that was kept.
	Proposed(r Request)
}

// Options say what a Server serves.
type Options struct {
	Session  string // told at check-in as container_id
	Backend  Backend
	Denials  *Denials
	Requests Store // nil: rule requests are refused
	// Process describes the process behind a connection; nil is hidden.
	Process func(pid int) *policy.Process
	// Random is the source of tokens and ids; nil is the system's.
	Random io.Reader
	// Now is the clock of the rate limits; nil is the system's.
	Now func() time.Time

	evalTimeout, headerTimeout time.Duration // 0 is EvalTimeout, headerTimeout; shorter for tests
}

// A Server serves the API of one session.
type Server struct {
	o    Options
	http *http.Server

	checks, rules, denials *window
	permits                chan struct{} // of evaluations that run
	remedies               chan struct{}

	mu    sync.Mutex
	token string // "" before the first check-in
}

// New returns a server. Nothing is served before Serve.
func New(o Options) *Server {
	if o.Random == nil {
		o.Random = systemRandom
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.evalTimeout == 0 {
		o.evalTimeout = EvalTimeout
	}
	if o.headerTimeout == 0 {
		o.headerTimeout = headerTimeout
	}
	s := &Server{
		o:       o,
		checks:  newWindow(CheckCount, CheckWindow),
		rules:   newWindow(RuleCount, RuleWindow),
		denials: newWindow(DenialCount, DenialWindow),
		permits: make(chan struct{}, MaxEvaluations), remedies: make(chan struct{}, 1),
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: o.headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, pidKey{}, peerPID(c))
		},
		// What net/http would say of a broken client is the client's own fault.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return s
}

// Serve answers on l, which it owns, until Close. It returns nil after Close.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(&bounded{Listener: l, free: make(chan struct{}, MaxConns), closed: make(chan struct{})})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the agent socket: %w", err)
}

// Close ends every connection at once: nobody inside has a claim to an answer.
func (s *Server) Close() { _ = s.http.Close() }

// pidKey is where a connection's context keeps the peer's pid.
type pidKey struct{}

// peerPID is the pid of who has connected; 0 is unknown.
func peerPID(c net.Conn) int {
	b, ok := c.(*boundedConn)
	if !ok {
		return 0
	}
	u, ok := b.Conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// bounded accepts while fewer than MaxConns connections are open.
type bounded struct {
	net.Listener
	free   chan struct{}
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.free <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.free
		return nil, err
	}
	return &boundedConn{Conn: c, release: sync.OnceFunc(func() { <-b.free })}, nil
}

// Close implements net.Listener.
func (b *bounded) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

type boundedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
