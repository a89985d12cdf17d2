package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"outcall/netstack"
	"outcall/netstack/egress"
)

// A Stack carries published connections (package netstack).
type Stack interface {
	Inbound(in netstack.Inbound)
	Limited(text string)
}

// Ports are the host's side of a session's published ports.
type Ports struct {
	specs     []Spec
	listeners []*net.TCPListener
	shut      atomic.Bool
}

// Listen takes the host's ports. What it returns is in the order of specs,
// with the port that the kernel chose where one was 0.
func Listen(specs []Spec) (*Ports, error) {
	p := &Ports{}
	for _, s := range specs {
		l, err := listen(s.Host)
		if err != nil {
			p.Close()
			return nil, err
		}
		p.listeners = append(p.listeners, l)
		p.specs = append(p.specs, Spec{Host: l.Addr().(*net.TCPAddr).AddrPort(), Port: s.Port})
	}
	return p, nil
}

func listen(at netip.AddrPort) (*net.TCPListener, error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	cfg := net.ListenConfig{KeepAliveConfig: egress.KeepAlive}
	l, err := cfg.Listen(context.Background(), network, at.String()) // it does not wait
	if err == nil {
		return l.(*net.TCPListener), nil
	}
	mend := ""
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		mend = "; another program has the port: name another HOSTPORT, or 0 for a free one"
	case errors.Is(err, unix.EACCES):
		mend = "; ports below net.ipv4.ip_unprivileged_port_start are root's: name a higher HOSTPORT"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		mend = "; the address is none of this machine's"
	}
	return nil, fmt.Errorf("host port %s: %w%s", at, err, mend)
}

// Specs are the published ports as they are.
func (p *Ports) Specs() []Spec { return p.specs }

// Close gives the ports back.
func (p *Ports) Close() {
	for _, l := range p.listeners {
		_ = l.Close()
	}
}

// Shut lets nothing new in, or lets it in again. The ports stay taken.
func (p *Ports) Shut(yes bool) { p.shut.Store(yes) }

func (p *Ports) closed() string {
	if p.shut.Load() {
		return "the bridge is down"
	}
	return ""
}

// Serve carries connections until ctx ends, then gives the ports back and
// waits for what it has begun.
func (p *Ports) Serve(ctx context.Context, inside *Inside, s Stack) error {
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, Max)
	failed := make(chan error, len(p.listeners))
	for i, l := range p.listeners {
		all.Go(func() { failed <- p.accept(ctx, l, p.specs[i], slots, inside, s, &all) })
	}
	defer p.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// acceptPause is how long a listener rests when the machine has no
// descriptors left.
const acceptPause = 100 * time.Millisecond

func (p *Ports) accept(ctx context.Context, l *net.TCPListener, spec Spec, slots chan struct{}, inside *Inside, s Stack, all *sync.WaitGroup) error {
	for {
		if !take(ctx, slots, s) {
			return nil
		}
		c, err := l.AcceptTCP()
		if err != nil {
			<-slots
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.Limited(fmt.Sprintf("published port %s: %v", spec.Host, err))
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			s.Inbound(netstack.Inbound{
				Conn: egress.Wrap(c), Port: spec.Port, Closed: p.closed,
				Dial: func(ctx context.Context) (netstack.Inner, error) {
					c, err := inside.Dial(ctx, spec.Port)
					if err != nil {
						return nil, err
					}
					return c, nil
				},
			})
		})
	}
}

// take waits for a turn, so that what is too much waits unaccepted.
func take(ctx context.Context, slots chan struct{}, s Stack) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
	}
	s.Limited(fmt.Sprintf("more than %d published connections", cap(slots)))
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
