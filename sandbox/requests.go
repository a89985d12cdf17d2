package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"outcall/policy"
	"outcall/sandbox/requests"
	"outcall/shim/agentapi"
)

// requestsDir is where requests are kept below outcall's state; no session can
// have this name, so none's audit stands there.
const requestsDir = "requests~"

// openRequests opens the store of this project's requests. Where it cannot be
// had the session goes on without: nothing is approved then, and nothing taken.
func (s *supervisor) openRequests(state string) {
	if state == "" {
		return
	}
	store, err := requests.Open(filepath.Join(state, requestsDir), s.cfg.Dir)
	if err != nil {
		s.notes = append(s.notes, err.Error())
		return
	}
	s.requests = store
}

// requestNotes tells at the start what of earlier sessions is there.
func (s *supervisor) requestNotes(ctx context.Context) (notes []string) {
	if s.requests == nil {
		return nil
	}
	list, _ := s.requests.List(ctx) // an error is among the set's notes
	waiting := 0
	for _, r := range list {
		if r.Status == requests.Pending {
			waiting++
		}
	}
	if n := len(s.rules.approved); n > 0 {
		notes = append(notes, plural(n, "approved request"))
	}
	if waiting > 0 {
		notes = append(notes, plural(waiting, "rule request")+" waiting: outcall requests list")
	}
	return append(notes, s.rules.notes()...)
}

// notes are the warnings about approved requests that are not in force.
func (set *ruleSet) notes() []string {
	out := []string{}
	if set.unread != nil {
		out = append(out, set.unread.Error())
	}
	for id, why := range set.dropped {
		out = append(out, "the approved request "+id+" is not in force: "+why)
	}
	slices.Sort(out)
	return out
}

// approvals are the requests that shall be in force. What cannot be read
// approves nothing.
func (s *supervisor) approvals(ctx context.Context) ([]requests.Request, error) {
	if s.requests == nil {
		return nil, nil
	}
	list, err := s.requests.List(ctx)
	return slices.DeleteFunc(list, func(r requests.Request) bool { return r.Status != requests.Approved }), err
}

// tell writes a line about a request into the audit and, unless quiet, to
// standard error.
func (s *supervisor) tell(id, verdict, text string) {
	s.audit.Record(s.event("policy", policy.Event{ID: id, Verdict: verdict, Reason: text}))
	if !s.cfg.Quiet {
		s.say(text)
	}
}

// proposals are the requests as the agent API sees them.
type proposals struct{ s *supervisor }

var _ agentapi.Store = proposals{}

var errNoRequests = errors.New("this session keeps no rule requests")

// Find implements agentapi.Store.
func (p proposals) Find(ctx context.Context, file string) (agentapi.Request, bool, error) {
	if p.s.requests == nil {
		return agentapi.Request{}, false, errNoRequests
	}
	return forAgent(p.s.requests.Find(ctx, file))
}

// Get implements agentapi.Store.
func (p proposals) Get(ctx context.Context, id string) (agentapi.Request, bool, error) {
	if p.s.requests == nil {
		return agentapi.Request{}, false, errNoRequests
	}
	return forAgent(p.s.requests.Get(ctx, id))
}

func forAgent(r requests.Request, err error) (agentapi.Request, bool, error) {
	if errors.Is(err, requests.ErrNotFound) {
		return agentapi.Request{}, false, nil
	}
	return agentapi.Request{ID: r.ID, Status: r.Status, Reason: r.Reason, Time: r.Submitted, File: r.Text}, err == nil, err
}

// Add implements agentapi.Store.
func (p proposals) Add(ctx context.Context, r agentapi.Request) (agentapi.Request, error) {
	if p.s.requests == nil {
		return r, errNoRequests
	}
	kept, err := p.s.requests.Add(ctx, requests.Request{ID: r.ID, Session: p.s.who.Session, Agent: p.s.who.Agent, Text: r.File})
	if errors.Is(err, requests.ErrFull) {
		return r, agentapi.ErrFull
	}
	if err != nil {
		p.s.tell("", "deny", "a rule request cannot be kept: "+err.Error())
	}
	out, _, err := forAgent(kept, err)
	return out, err
}

// Validate implements agentapi.Backend.
func (a agentBackend) Validate(_ context.Context, file string) error {
	_, err := policy.CheckRequest([]byte(file), a.s.snap.Load())
	return err
}

// Proposed implements agentapi.Backend.
func (a agentBackend) Proposed(r agentapi.Request) {
	a.s.tell(r.ID, "", "the agent proposes rules: outcall requests show "+r.ID)
}

const (
	// lapseLook bounds how long an approval outlives its time where the machine
	// has slept: timers do not count that.
	lapseLook = 30 * time.Second
	// settleAgain is when a change that the kernel refused is tried again.
	settleAgain = time.Second
)

// keepRequests brings what is in force to what is approved: when the time of
// an approval is up, and when another session of the project changes it.
func (s *supervisor) keepRequests(ctx context.Context) error {
	var changed <-chan struct{}
	if s.requests != nil {
		var err error
		if changed, err = s.requests.Watch(ctx); err != nil {
			s.tell("", "", err.Error()+": what other sessions approve or take back is seen at a reload")
		}
	}
	for {
		wait := s.followRequests(ctx)
		timer := time.NewTimer(wait)
		if wait == 0 {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case _, ok := <-changed:
			if !ok {
				changed = nil
			}
		case <-s.lapses:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// followRequests makes one such change, and returns when to look again; 0 is
// when something happens.
func (s *supervisor) followRequests(ctx context.Context) (wait time.Duration) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	want, unread := s.approvals(ctx)
	if s.rules.unsettled || !s.rules.matches(want, unread) {
		if _, err := s.follow(ctx, want, unread); err != nil {
			s.tell("", "", "rules after an approval ended: "+err.Error())
		}
	}
	if s.rules.unsettled {
		wait = settleAgain
	}
	for _, a := range s.rules.approved {
		if a.Expires.IsZero() {
			continue
		}
		if left := max(time.Until(a.Expires), time.Millisecond); wait == 0 || left < wait {
			wait = min(left, lapseLook)
		}
	}
	return wait
}

// matches reports that these approvals are what the set was made of.
func (set *ruleSet) matches(want []requests.Request, unread error) bool {
	if (unread == nil) != (set.unread == nil) || len(want) != len(set.approved)+len(set.dropped) {
		return false
	}
	for _, r := range want {
		if set.dropped[r.ID] == "" && set.approvedAs(r.ID) == nil {
			return false
		}
	}
	return true
}

func (set *ruleSet) approvedAs(id string) *approval {
	if i := slices.IndexFunc(set.approved, func(a approval) bool { return a.ID == id }); i >= 0 {
		return &set.approved[i]
	}
	return nil
}

// follow puts the approvals in force beside the rule files as they were last
// read: the end of an approval is no reload of the operator's files.
func (s *supervisor) follow(ctx context.Context, want []requests.Request, unread error) (closed int, err error) {
	old := s.rules
	set, err := s.compile(old.base, want)
	if err != nil {
		return 0, err
	}
	set.unread = unread
	closed, _, err = s.enforce(ctx, set, true)
	s.tellChanges(ctx, old, set, closed)
	return closed, err
}

// tellChanges writes what a change of rules has done to approvals.
func (s *supervisor) tellChanges(ctx context.Context, old, set *ruleSet, closed int) {
	flows := ", " + plural(closed, "flow") + " closed"
	for _, a := range old.approved {
		if set.approvedAs(a.ID) == nil && set.dropped[a.ID] == "" {
			s.tell(a.ID, "deny", fmt.Sprintf("the approved request %s %s: %s gone%s", a.ID, s.ended(ctx, a.ID), plural(a.rules, "rule"), flows))
			flows = "" // told once
		}
	}
	for _, a := range set.approved {
		if old.approvedAs(a.ID) == nil && old.dropped[a.ID] == "" {
			s.tell(a.ID, "allow", fmt.Sprintf("rule request %s was approved in another session: %s in force", a.ID, plural(a.rules, "rule")))
		}
	}
	for _, n := range set.notes() {
		if !slices.Contains(old.notes(), n) {
			s.tell("", "deny", n)
		}
	}
}

// ended says in a few words why an approval is no longer one, and notes that
// its time is up.
func (s *supervisor) ended(ctx context.Context, id string) string {
	r, err := s.requests.Get(ctx, id)
	switch {
	case errors.Is(err, requests.ErrNotFound):
		return "is no longer kept"
	case err != nil:
		return "cannot be read"
	case r.Status == requests.Expired:
		if err := s.requests.Expire(ctx); err != nil {
			return "has expired (and that cannot be noted: " + err.Error() + ")"
		}
		return "has expired"
	}
	return "was taken back (" + r.Reason + ")"
}
