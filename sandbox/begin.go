package sandbox

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"

	"outcall/netstack/link"
	"outcall/policy"
	"outcall/sandbox/gate"
	"outcall/sandbox/session"
	"outcall/sandbox/view"
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

// launch starts the gatekeeper while the supervisor finds out what it is to
// make. What fails is told by startSandbox.
func (s *supervisor) launch(ctx context.Context) error {
	s.pending = gate.Launch(ctx, s.ids)
	return nil
}

// startSandbox plans the view and makes U1 and both network namespaces; init
// makes the view meanwhile.
func (s *supervisor) startSandbox(ctx context.Context) error {
	spec, err := s.planView(ctx)
	if err != nil {
		return err
	}
	s.view = spec
	if at := s.notItsOwn(); at != "" {
		s.notes = append(s.notes, at+" ("+asRootMend+")")
	}
	if s.pending == nil { // a trial of doctor's has nothing to do meanwhile
		s.pending = gate.Launch(ctx, s.ids)
	}
	g, err := s.pending.Begin(ctx, gate.Options{
		IDs: s.ids, View: spec,
		Network: gate.Network{Bridge: s.cfg.Bridge, Subnet: s.cfg.Subnet, StackMAC: link.MAC, NoIPv6: !hasIPv6Route(), Link: s.cfg.Link},
	})
	s.pending = nil
	if err != nil {
		return err
	}
	s.gate, s.info = g, g.Info()
	return nil
}

// awaitSandbox waits for the view, without which no command can be started.
func (s *supervisor) awaitSandbox(ctx context.Context) error {
	if err := s.gate.Await(ctx); err != nil {
		return err
	}
	s.info = s.gate.Info()
	s.notes = append(s.notes, s.info.Notes...)
	if s.ids.Root && !s.info.Subordinate {
		s.notes = append(s.notes, singleRoot(s.ids))
	}
	if !s.info.IPv6 {
		s.notes = append(s.notes, "IPv4 only")
	}
	return nil
}

func (s *supervisor) planView(ctx context.Context) (view.Spec, error) {
	if err := s.makeScratch(ctx); err != nil {
		return view.Spec{}, err
	}
	user := s.agentUser()
	s.agentEnv = view.CleanEnv(s.cfg.Env, view.EnvOptions{Proxy: s.proxyURL(), User: user, Set: s.cfg.SetEnv})
	host, _ := os.Hostname()
	gateways := []netip.Addr{hostGateway4(s.cfg.Subnet)}
	if hasIPv6Route() {
		gateways = append(gateways, ulaGateway6)
	}
	o := view.Options{
		UID: s.ids.KernelUID, GID: s.ids.KernelGID, Subordinate: len(s.ids.UIDs) > 1, AsRoot: s.ids.AsRoot,
		WeakProc: hasWord(s.cfg.Weak, "proc"), Dir: s.cfg.Dir, RuntimeDir: runtimeDir(s.cfg.Env), Env: s.agentEnv,
		PrivateHome: user != nil && user.Home == view.PrivateHome, Scratch: s.scratch,
		Config: nonEmpty(s.env.ConfigDir()), State: nonEmpty(s.env.StateDir(), s.env.Root()),
		ReadOnly: s.protected(ctx),
		Binds:    s.cfg.Binds, Hostname: host, Resolvers: gateways,
	}
	return planned(view.Plan(o))
}

// protected are the paths that the command must not change beside outcall's own
// directories: this session's, and those of other running sessions. Of an audit
// it is the whole directory, where older sessions' files stand beside it.
func (s *supervisor) protected(ctx context.Context) []string {
	paths := append([]string{filepath.Join(s.cfg.Dir, ".outcall"), s.sess.Info.Socket}, s.cfg.RulePaths...)
	others, _ := session.List(ctx, s.env) // what of the dead cannot be removed is no matter here
	for _, o := range others {
		paths = append(paths, o.Rules...)
	}
	for _, o := range append(others, s.sess.Info) {
		if dir := filepath.Dir(o.Audit); o.Audit != "" && !s.hides(dir) {
			paths = append(paths, dir)
		}
	}
	return paths
}

// hides tells whether a directory is outcall's own, of which the command sees
// nothing.
func (s *supervisor) hides(dir string) bool {
	for _, d := range nonEmpty(s.env.StateDir(), s.env.Root()) {
		if within(resolved(dir), resolved(d)) {
			return true
		}
	}
	return false
}
