package sandbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"outcall/policy"
	"outcall/sandbox/requests"
)

// A ruleSet is what is in force: the operator's rule files as they were read,
// and the approved requests.
type ruleSet struct {
	snap     *policy.Snapshot
	base     []policy.Source
	approved []approval
	// dropped are approved requests that cannot be loaded beside the base, and
	// why. What cannot be loaded allows nothing.
	dropped map[string]string
	unread  error // why what was approved could not be read
	// unsettled is set where the kernel's table could not be brought to it.
	unsettled bool
}

// An approval is one approved request.
type approval struct {
	requests.Request
	rules int
}

// enforceTimeout bounds the change of rules in the kernel.
const enforceTimeout = 30 * time.Second

// startRules loads what the session begins with.
func (s *supervisor) startRules(ctx context.Context) error {
	if !s.trial {
		s.openRequests(s.env.StateDir())
	}
	set, err := s.load(ctx)
	if err != nil {
		return err
	}
	set.snap.Generation = 1
	s.rules = set
	s.snap.Store(set.snap)
	s.notes = append(s.notes, s.requestNotes(ctx)...)
	return nil
}

// source is a request as a rule file.
func source(r requests.Request) policy.Source {
	return policy.Source{Path: "request:" + r.ID, Data: []byte(r.Text), Origin: policy.Request}
}

// compile makes a rule set. An error is the base's own; a request that does
// not fit to it is dropped.
func (s *supervisor) compile(base []policy.Source, approved []requests.Request) (*ruleSet, error) {
	set := &ruleSet{base: base, dropped: map[string]string{}}
	if len(approved) > 0 && s.compileAll(set, approved) {
		return set, nil
	}
	snap, err := s.compiled(base)
	if err != nil {
		return nil, err
	}
	set.snap, set.approved = snap, nil
	all := base
	for _, r := range approved {
		n, err := checkedRules(r, set.snap)
		if err == nil {
			with := append(slices.Clip(all), source(r))
			if snap, err = s.compiled(with); err == nil {
				set.snap, all = snap, with
				set.approved = append(set.approved, approval{r, n})
				continue
			}
		}
		set.dropped[r.ID] = firstLine(err.Error())
	}
	return set, nil
}

// compileAll is the usual case: all fit, and one load tells.
func (s *supervisor) compileAll(set *ruleSet, approved []requests.Request) bool {
	all := slices.Clone(set.base)
	for _, r := range approved {
		n, err := checkedRules(r, nil)
		if err != nil {
			return false
		}
		set.approved = append(set.approved, approval{r, n})
		all = append(all, source(r))
	}
	var err error
	set.snap, err = s.compiled(all)
	return err == nil
}

// checkedRules checks a request as it was checked when it was proposed, and
// counts its rules.
func checkedRules(r requests.Request, active *policy.Snapshot) (int, error) {
	snap, err := policy.CheckRequest([]byte(r.Text), active)
	if err != nil {
		return 0, err
	}
	return len(snap.Rules()), nil
}

// compiled loads sources as this session can carry them out.
func (s *supervisor) compiled(src []policy.Source) (*policy.Snapshot, error) {
	snap, err := policy.Load(src)
	if err != nil {
		return nil, err
	}
	return snap, s.fits(snap)
}

// enforce puts a rule set in force. There is no moment without rules: what the
// new set denies leaves the kernel and the live flows first, then the set is
// swapped, then what it allows is added. Where the kernel refuses the first,
// the old rules stay, and swapped is false; with must the new ones hold all the
// same: the netstack judges exactly what the kernel's maps pass too much of.
//
// It runs under s.reloading, and does not end with a caller who went away: a
// flow that is not judged again would be ended.
func (s *supervisor) enforce(ctx context.Context, set *ruleSet, must bool) (closed int, swapped bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enforceTimeout)
	defer cancel()
	old := s.snap.Load()
	set.snap.Generation = old.Generation + 1
	swap := func() {
		closed = s.stack.Reload(ctx, old, set.snap)
		s.snap.Store(set.snap)
		s.rules = set
		swapped = true
	}
	err = s.pins.Reload(ctx, s.dns.Rules(set.snap), swap)
	if err != nil && !swapped {
		if !must {
			return 0, false, fmt.Errorf("the kernel's table: %w; the old rules stay", err)
		}
		swap()
	}
	// The interval maps are a superset that the flow layer narrows, so their
	// change may follow the swap.
	if nerr := s.setNets(ctx, set.snap); err == nil {
		err = nerr
	}
	set.unsettled = err != nil
	s.writeReadme()
	return closed, true, err
}
