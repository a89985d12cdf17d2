package sandbox

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"outcall/sandbox/gate"
	"outcall/sandbox/publish"
	"outcall/sandbox/session"
)

// startPublish takes the host's ports and opens what they lead to inside:
// after the agent runs, nothing may depend on descriptors that travel.
func (s *supervisor) startPublish(ctx context.Context) error {
	if len(s.cfg.Publish) == 0 {
		return nil
	}
	ports, err := publish.Listen(s.cfg.Publish)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { ports.Close(); return nil })
	inside, err := publish.NewInside(func(family int) (*os.File, error) {
		return s.gate.Socket(ctx, gate.Agent, family, unix.SOCK_STREAM, 0)
	}, publish.Max, s.info.Agent4, s.info.Agent6)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { inside.Close(); return nil })
	s.ports, s.inside = ports, inside
	var out []session.Published
	for _, p := range ports.Specs() {
		out = append(out, session.Published{Host: p.Host.String(), Port: p.Port})
	}
	return s.sess.SetPublished(ctx, out)
}
