package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"outcall/policy"
	"outcall/policy/review"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/requests"
)

// What the operator does with rule requests.

// maxApproval is the longest time of an approval for a time.
const maxApproval = 366 * 24 * time.Hour

// store is the project's requests, or why there are none.
func (b backend) store() (*requests.Store, error) {
	if b.s.requests == nil {
		return nil, fmt.Errorf("%w: no place for them could be made at its start (the banner said why)", errNoRequests)
	}
	return b.s.requests, nil
}

// requestError gives an error of the store its status.
func requestError(id string, err error) error {
	status, ok := errors.AsType[*requests.StatusError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, requests.ErrNotFound):
		return hostapi.NotFound("rule request", id)
	case ok:
		return hostapi.Errorf(http.StatusConflict, "%w%s", err, instead(status.Status))
	case errors.Is(err, requests.ErrChanged):
		return hostapi.Errorf(http.StatusConflict, "%w: look at it again: outcall requests show %s", err, id)
	case errors.Is(err, requests.ErrFull):
		return hostapi.Errorf(http.StatusConflict, "%w: take some back: outcall requests revoke ID", err)
	}
	return err
}

func instead(status string) string {
	if status == requests.Approved {
		return " already: it is taken back by outcall requests revoke"
	}
	return ""
}

// Requests implements hostapi.Backend.
func (b backend) Requests(ctx context.Context, all bool) ([]hostapi.RuleRequest, error) {
	store, err := b.store()
	if err != nil {
		return nil, err
	}
	list, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	b.s.reloading.Lock()
	defer b.s.reloading.Unlock()
	var out []hostapi.RuleRequest
	for _, r := range list {
		if all || r.Status == requests.Pending {
			out = append(out, b.request(r))
		}
	}
	return out, nil
}

// request runs under s.reloading.
func (b backend) request(r requests.Request) hostapi.RuleRequest {
	out := hostapi.RuleRequest{ID: r.ID, Status: r.Status, Session: r.Session, Agent: r.Agent, Submitted: r.Submitted,
		SHA256: r.SHA256, File: r.Text, Reason: r.Reason, Answered: given(r.Answered), Expires: given(r.Expires)}
	if r.Status == requests.Approved {
		out.Problem = b.s.rules.dropped[r.ID]
	}
	return out
}

func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Request implements hostapi.Backend.
func (b backend) Request(ctx context.Context, id string) (hostapi.RuleRequestDetail, error) {
	store, err := b.store()
	if err != nil {
		return hostapi.RuleRequestDetail{}, err
	}
	r, err := store.Get(ctx, id)
	if err != nil {
		return hostapi.RuleRequestDetail{}, requestError(id, err)
	}
	b.s.reloading.Lock()
	out := hostapi.RuleRequestDetail{RuleRequest: b.request(r)}
	base, others := b.besides(r)
	b.s.reloading.Unlock() // a review of many rules takes long, and no reload waits for it
	if r.Text == "" {
		return out, nil
	}
	rv, err := b.review(base, others, r)
	if err != nil {
		out.Problem = err.Error()
		return out, nil
	}
	out.Review = rv
	return out, nil
}

// review compares the rules without a request with those with it.
func (b backend) review(base []policy.Source, others []requests.Request, r requests.Request) (*review.Review, error) {
	before, err := b.s.compile(base, others)
	if err != nil {
		return nil, err
	}
	after, err := b.s.compile(base, append(slices.Clip(others), r))
	if err != nil {
		return nil, err
	}
	if why := after.dropped[r.ID]; why != "" {
		return nil, errors.New(why)
	}
	proposed, err := policy.CheckRequest([]byte(r.Text), nil)
	if err != nil {
		return nil, err
	}
	return review.Of(proposed, before.snap, after.snap, b.s.denials.After(time.Time{}), b.s.who)
}

// besides is what is in force without a request. It runs under s.reloading;
// what it returns is not changed later.
func (b backend) besides(r requests.Request) (base []policy.Source, others []requests.Request) {
	for _, a := range b.s.rules.approved {
		if a.ID != r.ID {
			others = append(others, a.Request)
		}
	}
	return slices.Clip(b.s.rules.base), others
}

// Approve implements hostapi.Backend. What does not fit to the rules in force
// stays pending; so does what the kernel refuses.
func (b backend) Approve(ctx context.Context, id string, a hostapi.Approval) (hostapi.Approved, error) {
	out := hostapi.Approved{ID: id}
	until, err := untilOf(a.For)
	if err != nil {
		return out, err
	}
	store, err := b.store()
	if err != nil {
		return out, err
	}
	b.s.reloading.Lock()
	defer b.s.reloading.Unlock()
	r, err := store.Get(ctx, id)
	switch {
	case err != nil:
		return out, requestError(id, err)
	case r.Status != requests.Pending:
		return out, requestError(id, &requests.StatusError{ID: id, Status: r.Status})
	case r.SHA256 != a.SHA256:
		return out, requestError(id, requests.ErrChanged)
	}
	base, others := b.besides(r)
	set, err := b.s.compile(base, append(others, r))
	if err != nil {
		return out, err
	}
	if why := set.dropped[id]; why != "" {
		return out, hostapi.Errorf(http.StatusUnprocessableEntity, "rule request %s cannot be loaded: %s", id, why)
	}
	// Written first: what is in force without being noted would outlive its time
	// in a session to come.
	if r, err = store.Approve(ctx, id, a.SHA256, until); err != nil {
		return out, requestError(id, err)
	}
	mine := set.approvedAs(id)
	mine.Request = r
	_, swapped, err := b.s.enforce(ctx, set, false)
	if !swapped {
		return out, errors.Join(err, store.Undo(context.WithoutCancel(ctx), id))
	}
	select {
	case b.s.lapses <- struct{}{}:
	default:
	}
	out.RulesLoaded, out.Expires = mine.rules, given(r.Expires)
	out.Warnings = b.s.approved(mine, err)
	return out, nil
}

// approved writes an approval down, and returns what was not quite done.
func (s *supervisor) approved(a *approval, partly error) (warnings []string) {
	howLong := "for good"
	if !a.Expires.IsZero() {
		howLong = "until " + a.Expires.Format(time.RFC3339)
	}
	s.tell(a.ID, "allow", fmt.Sprintf("rule request %s (sha256 %.12s…) approved %s: %s in force", a.ID, a.SHA256, howLong, plural(a.rules, "rule")))
	if partly != nil {
		warnings = append(warnings, "not all that it allows could be put into the kernel's table: "+partly.Error())
	}
	if s.env.StateDir() == "" || !within(s.requests.Path(), s.env.StateDir()) {
		warnings = append(warnings, "it ends with this session: there is no state directory to keep it in")
	}
	return warnings
}

// untilOf reads how long an approval is to hold; zero is for good.
func untilOf(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > maxApproval {
		return time.Time{}, hostapi.Errorf(http.StatusBadRequest, "for: %.32q: want a duration from 1s to %dh, such as 10m", text, int(maxApproval.Hours()))
	}
	return time.Now().Add(d), nil
}

// Reject implements hostapi.Backend.
func (b backend) Reject(ctx context.Context, id, reason string) error {
	store, err := b.store()
	if err != nil {
		return err
	}
	if err := requests.CheckReason(reason); err != nil {
		return hostapi.Errorf(http.StatusUnprocessableEntity, "%w", err)
	}
	if _, err := store.Reject(ctx, id, reason); err != nil {
		return requestError(id, err)
	}
	b.s.tell(id, "deny", "rule request "+id+" rejected: "+reason)
	return nil
}

// Revoke implements hostapi.Backend.
func (b backend) Revoke(ctx context.Context, id, reason string) (hostapi.Revoked, error) {
	out := hostapi.Revoked{ID: id}
	store, err := b.store()
	if err != nil {
		return out, err
	}
	if err := requests.CheckReason(reason); err != nil {
		return out, hostapi.Errorf(http.StatusUnprocessableEntity, "%w", err)
	}
	b.s.reloading.Lock()
	defer b.s.reloading.Unlock()
	if _, err := store.Revoke(ctx, id, reason); err != nil {
		return out, requestError(id, err)
	}
	want, unread := b.s.approvals(ctx)
	out.FlowsClosed, err = b.s.follow(ctx, want, unread)
	return out, err
}
