package attrib

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"outcall/netstack"
	"outcall/policy"
)

const (
	// Bound is the time after which a process counts as hidden. A verdict waits
	// for it, so it is far below what a client notices.
	Bound = 20 * time.Millisecond
	// maxAsking bounds the questions to the Finder that are under way. More
	// wait, within Bound.
	maxAsking = 16
	// maxCached bounds the tuples that are remembered. When it is reached, all
	// are forgotten.
	maxCached = 1024
	// cacheTime is how long an answer holds, and hiddenTime how long "hidden"
	// does. A program that runs another one keeps its sockets, so both are
	// short.
	cacheTime  = time.Second
	hiddenTime = 250 * time.Millisecond
)

// A Finder tells which process holds a socket; nil is hidden. The gatekeeper's
// client is one.
type Finder interface {
	Who(ctx context.Context, inode uint64) (*policy.Process, error)
}

// An Attributor finds the process behind a flow of one network namespace. It
// is safe for concurrent use.
type Attributor struct {
	find   Finder
	asking chan struct{}
	ask    chan *diag // the one socket, or nobody's turn

	mu    sync.Mutex
	cache map[netstack.Tuple]answer
	now   func() time.Time
}

var _ netstack.Attributor = (*Attributor)(nil)

type answer struct {
	inode uint64
	proc  *policy.Process
	until time.Time
}

// New makes an Attributor from a NETLINK_SOCK_DIAG socket, non-blocking and
// opened in the agent's network namespace, which it owns from now on.
func New(f *os.File, find Finder) (*Attributor, error) {
	if err := f.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("sock_diag socket: it must be non-blocking: %w", err)
	}
	a := &Attributor{find: find, asking: make(chan struct{}, maxAsking), ask: make(chan *diag, 1),
		cache: map[netstack.Tuple]answer{}, now: time.Now}
	a.ask <- &diag{f: f, buf: make([]byte, 8<<10)}
	return a, nil
}

// Close closes the socket; every later answer is hidden.
func (a *Attributor) Close() error {
	d := <-a.ask
	defer func() { a.ask <- d }()
	return d.f.Close()
}

// Attribute tells the process behind a flow, or nil where it cannot be told
// within Bound: no socket, no process, no time. What is too long is cut,
// for the audit; a rule is not asked about half a path (policy.CutMark).
func (a *Attributor) Attribute(ctx context.Context, t netstack.Tuple) *policy.Process {
	ctx, cancel := context.WithTimeout(ctx, Bound)
	defer cancel()
	inode, ok := a.inode(ctx, t)
	if !ok || inode == 0 {
		return nil
	}
	if p, ok := a.remembered(t, inode); ok {
		return p
	}
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return nil
	}
	if ctx.Err() != nil { // both were ready
		return nil
	}
	p, err := a.find.Who(ctx, inode)
	if err != nil || ctx.Err() != nil {
		p = nil
	}
	p = p.Bounded()
	a.remember(t, inode, p)
	return p
}

// inode asks the kernel, when it is this flow's turn.
func (a *Attributor) inode(ctx context.Context, t netstack.Tuple) (uint64, bool) {
	select {
	case d := <-a.ask:
		defer func() { a.ask <- d }()
		ino, err := d.inode(t)
		return ino, err == nil
	case <-ctx.Done():
		return 0, false
	}
}

// remembered returns the last answer for a tuple if it is about the socket
// that the kernel names now.
func (a *Attributor) remembered(t netstack.Tuple, inode uint64) (*policy.Process, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.cache[t]
	if !ok || c.inode != inode || !a.now().Before(c.until) {
		return nil, false
	}
	return c.proc, true
}

func (a *Attributor) remember(t netstack.Tuple, inode uint64, p *policy.Process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.cache) >= maxCached {
		clear(a.cache)
	}
	hold := cacheTime
	if p == nil {
		hold = hiddenTime
	}
	a.cache[t] = answer{inode, p, a.now().Add(hold)}
}
