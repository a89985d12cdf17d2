package sandbox

import (
	"context"
	"fmt"

	"outcall/policy"
	"outcall/sandbox/hostapi"
)

// load reads and compiles the rule files as they are now, and what the
// operator has approved beside them.
func (s *supervisor) load(ctx context.Context) (*ruleSet, error) {
	src, err := s.cfg.Sources()
	if err != nil {
		return nil, err
	}
	want, unread := s.approvals(ctx)
	set, err := s.compile(src, want)
	if err == nil {
		set.unread = unread
	}
	return set, err
}

// loadProtected is load for a session that runs: a rule file that the host has
// replaced by another one is no longer kept from the command, which may have
// written what stands there now.
func (s *supervisor) loadProtected(ctx context.Context) (*ruleSet, error) {
	for _, lost := range s.view.Lost() {
		for _, p := range s.cfg.RulePaths {
			if within(lost, p) {
				return nil, fmt.Errorf("%s: replaced by another file while the command runs, which could have written it; "+
					"write into the file itself, or give its directory by --rules in the next run", lost)
			}
		}
	}
	return s.load(ctx)
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
// as it was. What was approved stays approved, where it fits to them.
func (s *supervisor) reload(ctx context.Context, dryRun bool) (hostapi.Reload, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	set, err := s.loadProtected(ctx)
	if err != nil {
		s.audit.Record(s.event("policy", policy.Event{Verdict: "deny", Reason: "reload refused: " + firstLine(err.Error())}))
		return hostapi.Reload{}, err
	}
	snap := set.snap
	out := hostapi.Reload{
		FilesLoaded: snap.Files(), RulesLoaded: len(snap.Rules()), Warnings: append(set.notes(), snap.Warnings()...), DryRun: dryRun,
	}
	if dryRun {
		return out, nil
	}
	old := s.rules
	closed, swapped, err := s.enforce(ctx, set, false)
	if !swapped {
		return hostapi.Reload{}, err
	}
	out.FlowsClosed = closed
	reason := fmt.Sprintf("reloaded: %d rules of %d files, %d flows closed", out.RulesLoaded, out.FilesLoaded, out.FlowsClosed)
	if err != nil {
		reason += "; not all that they allow could be put into the kernel's table: " + err.Error()
		out.Warnings = append(out.Warnings, reason)
	}
	s.audit.Record(s.event("policy", policy.Event{Reason: reason}))
	s.tellChanges(ctx, old, set, 0)
	return out, nil
}
