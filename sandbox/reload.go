package sandbox

import (
	"context"
	"fmt"

	"outcall/policy"
	"outcall/sandbox/hostapi"
)

// load reads and compiles the rule files as they are now.
func (s *supervisor) load() (*policy.Snapshot, error) {
	src, err := s.cfg.Sources()
	if err != nil {
		return nil, err
	}
	snap, err := policy.Load(src)
	if err != nil {
		return nil, err
	}
	if err := s.fits(snap); err != nil {
		return nil, err
	}
	return snap, nil
}

// loadProtected is load for a session that runs: a rule file that the host has
// replaced by another one is no longer kept from the command, which may have
// written what stands there now.
func (s *supervisor) loadProtected() (*policy.Snapshot, error) {
	for _, lost := range s.view.Lost() {
		for _, p := range s.cfg.RulePaths {
			if within(lost, p) {
				return nil, fmt.Errorf("%s: replaced by another file while the command runs, which could have written it; "+
					"write into the file itself, or give its directory by --rules in the next run", lost)
			}
		}
	}
	return s.load()
}

// fits refuses rules that cannot be carried out as this session was started.
func (s *supervisor) fits(snap *policy.Snapshot) error {
	if !s.cfg.NoProxy {
		return nil
	}
	for _, r := range snap.Rules() {
		// --allow says nothing of a mode; its rules are written out in full.
		if !r.Block && r.Egress && r.Mode == policy.ModeProxy && r.Origin != policy.CLI {
			return fmt.Errorf("%s:%d: rule %s says egress.mode: proxy, and --no-proxy opens none", r.File, r.Line, r.ID)
		}
	}
	return nil
}

// reload puts the rule files as they are now in force, or leaves everything
// as it was. There is no moment without rules: what the new set denies leaves
// the kernel and the live flows first, then the set is swapped, then what it
// allows is added.
func (s *supervisor) reload(ctx context.Context, dryRun bool) (hostapi.Reload, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	snap, err := s.loadProtected()
	if err != nil {
		s.audit.Record(s.event("policy", policy.Event{Verdict: "deny", Reason: "reload refused: " + firstLine(err.Error())}))
		return hostapi.Reload{}, err
	}
	out := hostapi.Reload{
		FilesLoaded: snap.Files(), RulesLoaded: len(snap.Rules()), Warnings: append([]string{}, snap.Warnings()...), DryRun: dryRun,
	}
	if dryRun {
		return out, nil
	}
	old := s.snap.Load()
	snap.Generation = old.Generation + 1
	swapped := false
	err = s.pins.Reload(ctx, s.dns.Rules(snap), func() {
		out.FlowsClosed = s.stack.Reload(ctx, old, snap)
		s.snap.Store(snap)
		swapped = true
	})
	if err != nil && !swapped {
		return hostapi.Reload{}, fmt.Errorf("the kernel's table: %w; the old rules stay", err)
	}
	// The interval maps are a superset that the flow layer narrows, so their
	// change may follow the swap.
	if nerr := s.setNets(ctx, snap); err == nil {
		err = nerr
	}
	reason := fmt.Sprintf("reloaded: %d rules of %d files, %d flows closed", out.RulesLoaded, out.FilesLoaded, out.FlowsClosed)
	if err != nil {
		reason += "; not all that they allow could be put into the kernel's table: " + err.Error()
		out.Warnings = append(out.Warnings, reason)
	}
	s.audit.Record(s.event("policy", policy.Event{Reason: reason}))
	s.writeReadme()
	return out, nil
}
