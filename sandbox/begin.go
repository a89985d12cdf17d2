package sandbox

import (
	"context"

	"outcall/policy"
	"outcall/sandbox/session"
)

// startSession takes the name, the directory and the audit.
func (s *supervisor) startSession(ctx context.Context) error {
	if err := s.checkSocket(); err != nil {
		return err
	}
	sess, err := session.Create(ctx, s.env, session.Options{Name: s.cfg.Name, Socket: s.cfg.Socket, Command: s.cfg.Command, Rules: s.cfg.RulePaths})
	if err != nil {
		return err
	}
	s.sess = sess
	s.who = policy.Who{Agent: sess.Info.Agent, Session: sess.Info.Name}
	if s.requests == nil {
		s.openRequests(sess.Dir) // they end with the session
	}
	return s.openAudit(ctx)
}
