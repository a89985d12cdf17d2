package hostapi

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// RuleRequest is one entry of GET /api/v1/requests/rules: a rule file that an
// agent has proposed, and what became of it.
type RuleRequest struct {
	ID        string     `json:"id"`
	Status    string     `json:"status"`       // pending, approved, rejected or expired
	Session   string     `json:"container_id"` // that it came from
	Agent     string     `json:"agent"`
	Submitted time.Time  `json:"submitted"`
	SHA256    string     `json:"sha256"`
	File      string     `json:"rule_file,omitempty"` // while it waits or is in force
	Answered  *time.Time `json:"answered,omitempty"`
	Expires   *time.Time `json:"expires,omitempty"` // of an approval for a time
	Reason    string     `json:"reason,omitempty"`  // of a rejection
	Problem   string     `json:"problem,omitempty"` // why what is approved is not in force
}

// RuleRequestDetail answers GET /api/v1/requests/rules/{id}. Review is what
// review.Of says of a file that waits or is in force; it is sent as
// encoding/json encodes it.
type RuleRequestDetail struct {
	RuleRequest
	Review any `json:"review,omitempty"`
}

// Approval is the body of POST /api/v1/requests/rules/{id}/approve: the hash of
// the text that the operator was shown, and for how long ("10m"); empty is for
// good.
type Approval struct {
	SHA256 string `json:"sha256"`
	For    string `json:"for,omitempty"`
}

// Approved answers it.
type Approved struct {
	ID          string     `json:"id"`
	RulesLoaded int        `json:"rules_loaded"` // of the request
	Expires     *time.Time `json:"expires,omitempty"`
	Warnings    []string   `json:"warnings"`
}

// Rejection is the body of the reject and revoke calls.
type Rejection struct {
	Reason string `json:"reason"`
}

// Revoked answers POST /api/v1/requests/rules/{id}/revoke.
type Revoked struct {
	ID          string `json:"id"`
	FlowsClosed int    `json:"flows_closed"`
}

func listRequests(ctx context.Context, b Backend, r *http.Request) (any, error) {
	all, err := flag(r, "all")
	if err != nil {
		return nil, err
	}
	list, err := b.Requests(ctx, all)
	if list == nil {
		list = []RuleRequest{} // scripts iterate over it
	}
	return list, err
}

// requestID is the id in a path. What is no id is told apart from one that is
// not known.
func requestID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	digits, ok := strings.CutPrefix(id, "rr-")
	if !ok || len(digits) != 12 || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", Errorf(http.StatusBadRequest, "%.64q is no id of a rule request: want rr- and 12 hexadecimal digits", id)
	}
	return id, nil
}

func showRequest(ctx context.Context, b Backend, r *http.Request) (any, error) {
	id, err := requestID(r)
	if err != nil {
		return nil, err
	}
	return b.Request(ctx, id)
}

func approve(ctx context.Context, b Backend, r *http.Request) (any, error) {
	id, err := requestID(r)
	if err != nil {
		return nil, err
	}
	var a Approval
	if err := decode(r.Body, &a); err != nil {
		return nil, err
	}
	if len(a.SHA256) != 64 || strings.Trim(a.SHA256, "0123456789abcdef") != "" {
		return nil, Errorf(http.StatusBadRequest, "sha256 is missing or no hash: it must be that of the rule file that was shown")
	}
	out, err := b.Approve(ctx, id, a)
	if out.Warnings == nil {
		out.Warnings = []string{}
	}
	return out, err
}

func reject(ctx context.Context, b Backend, r *http.Request) (any, error) {
	id, why, err := rejection(r)
	if err != nil {
		return nil, err
	}
	return struct {
		ID string `json:"id"`
	}{id}, b.Reject(ctx, id, why)
}

func revoke(ctx context.Context, b Backend, r *http.Request) (any, error) {
	id, why, err := rejection(r)
	if err != nil {
		return nil, err
	}
	return b.Revoke(ctx, id, why)
}

func rejection(r *http.Request) (id, reason string, err error) {
	if id, err = requestID(r); err != nil {
		return "", "", err
	}
	var body Rejection
	err = decode(r.Body, &body)
	return id, body.Reason, err
}

const requestsPath = "/requests/rules"

// Requests lists rule requests, with all also those that were answered.
func (c *Client) Requests(ctx context.Context, all bool) ([]RuleRequest, error) {
	path := requestsPath
	if all {
		path += "?all=true"
	}
	return get[[]RuleRequest](ctx, c, path)
}

// Request returns one rule request; its review is decoded into review.
func (c *Client) Request(ctx context.Context, id string, review any) (RuleRequest, error) {
	d := RuleRequestDetail{Review: review}
	err := c.Call(ctx, http.MethodGet, requestsPath+"/"+url.PathEscape(id), nil, &d)
	return d.RuleRequest, err
}

// Approve puts a rule request in force.
func (c *Client) Approve(ctx context.Context, id string, a Approval) (Approved, error) {
	return post[Approved](ctx, c, requestsPath+"/"+url.PathEscape(id)+"/approve", a)
}

// Reject ends a rule request that waits.
func (c *Client) Reject(ctx context.Context, id, reason string) error {
	return c.Call(ctx, http.MethodPost, requestsPath+"/"+url.PathEscape(id)+"/reject", Rejection{reason}, nil)
}

// Revoke takes an approval back.
func (c *Client) Revoke(ctx context.Context, id, reason string) (Revoked, error) {
	return post[Revoked](ctx, c, requestsPath+"/"+url.PathEscape(id)+"/revoke", Rejection{reason})
}
