package ask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// DefaultSocket is where a session's agent socket is bound inside.
const DefaultSocket = "/run/outcall/agent.sock"

// maxBody bounds a request's and a response's body, in bytes; the API has the
// same limit on its side.
const maxBody = 64 << 10

// A Client asks the session behind one agent socket. It keeps nothing: each
// call checks in and has connections of its own.
type Client struct {
	Socket string
}

// A Verdict is the answer to a Question. Rule and Reason are always said; the
// reason of a denial ends with its id, which Denials explains.
type Verdict struct {
	Allowed      bool
	Rule, Reason string
}

// A Refusal is an answer of the API that is no verdict, such as 422 for a
// question that it cannot read and 429 beyond its rate limit.
type Refusal struct {
	Path   string
	Status int
	Text   string
	Retry  string // Retry-After, in seconds; "" where none was given
}

// Error implements error.
func (r *Refusal) Error() string {
	s := fmt.Sprintf("%s: refused with status %d: %.1000s", r.Path, r.Status, r.Text)
	if r.Retry != "" {
		s += "; again in " + r.Retry + " s"
	}
	return s
}

// Check asks for a verdict.
func (c Client) Check(ctx context.Context, q *Question) (Verdict, error) {
	var out struct {
		Allowed     *bool   `json:"allowed"`
		MatchedRule *string `json:"matched_rule"`
		Reason      *string `json:"reason"`
	}
	if err := c.call(ctx, "POST", "/v1/permissions/check", 200, q, &out); err != nil {
		return Verdict{}, err
	}
	if out.Allowed == nil {
		return Verdict{}, errors.New("malformed answer: no verdict in it")
	}
	v := Verdict{Allowed: *out.Allowed, Rule: "default policy", Reason: "no rule allows it"}
	if out.MatchedRule != nil && *out.MatchedRule != "" {
		v.Rule = *out.MatchedRule
	}
	if out.Reason != nil && *out.Reason != "" {
		v.Reason = *out.Reason
	}
	return v, nil
}

// A Denial is one attempt of this session that was refused, on whatever layer.
type Denial struct {
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	Layer  string    `json:"layer"`
	Target string    `json:"target"`
	Rule   string    `json:"matched_rule"`
	Reason string    `json:"reason"`
	// Smallest is the smallest rule file that would allow it; "" where none
	// would, and Advice says why.
	Smallest string `json:"smallest_rule"`
	Advice   string `json:"advice"`
}

// Denials returns the latest denials, the oldest first.
func (c Client) Denials(ctx context.Context) ([]Denial, error) { return c.denials(ctx, "") }

// Denial returns the denial of an id; ok is false where the session knows none.
func (c Client) Denial(ctx context.Context, id string) (d Denial, ok bool, err error) {
	list, err := c.denials(ctx, "?id="+url.QueryEscape(id))
	if err != nil || len(list) == 0 {
		return Denial{}, false, err
	}
	return list[len(list)-1], true, nil
}

func (c Client) denials(ctx context.Context, query string) ([]Denial, error) {
	var out struct {
		Denials []Denial `json:"denials"`
	}
	err := c.call(ctx, "GET", "/v1/denials"+query, 200, nil, &out)
	return out.Denials, err
}

// A Request is the state of a rule file that was proposed: pending, approved
// or rejected.
type Request struct {
	ID     string  `json:"id"`
	Status string  `json:"status"`
	Reason *string `json:"reason"`
}

// Propose hands a rule file to the operator. It grants nothing.
func (c Client) Propose(ctx context.Context, file string) (Request, error) {
	var out Request
	err := c.call(ctx, "POST", "/v1/requests/rules", 201, struct {
		File string `json:"rule_file"`
	}{file}, &out)
	return out, out.valid(err)
}

// Request returns the state of a proposal.
func (c Client) Request(ctx context.Context, id string) (Request, error) {
	var out Request
	err := c.call(ctx, "GET", "/v1/requests/rules/"+url.PathEscape(id), 200, nil, &out)
	return out, out.valid(err)
}

func (r Request) valid(err error) error {
	if err == nil && (r.ID == "" || r.Status == "") {
		return errors.New("malformed answer: no request in it")
	}
	return err
}

// Session returns the session's name.
func (c Client) Session(ctx context.Context) (string, error) {
	var out struct {
		Name string `json:"container_id"`
	}
	err := c.send(ctx, request{method: "POST", path: "/v1/checkin"}, 200, struct{}{}, &out)
	return out.Name, err
}

// Policy returns what is reachable, as a text for whoever stands inside: the
// one that /run/outcall/README.md holds.
func (c Client) Policy(ctx context.Context) (string, error) {
	var out struct {
		Text string `json:"text"`
	}
	err := c.call(ctx, "GET", "/v1/policy", 200, nil, &out)
	if err == nil && out.Text == "" {
		return "", errors.New("malformed answer: no policy in it")
	}
	return out.Text, err
}

// Ping tells whether the session is still there: whether its socket takes a
// connection.
func (c Client) Ping(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err == nil {
		conn.Close()
	}
	return err
}

// call checks in and makes one call with the token that it got.
func (c Client) call(ctx context.Context, method, path string, want int, in, out any) error {
	var token struct {
		Token string `json:"session_token"`
	}
	if err := c.send(ctx, request{method: "POST", path: "/v1/checkin"}, 200, struct{}{}, &token); err != nil {
		return err
	}
	if !validToken(token.Token) {
		return errors.New("malformed answer: no session token")
	}
	return c.send(ctx, request{method: method, path: path, token: token.Token}, want, in, out)
}

// validToken accepts tok- and 32 lower-case hexadecimal digits: the token
// goes into a header as it is.
func validToken(s string) bool {
	hex, ok := strings.CutPrefix(s, "tok-")
	return ok && len(hex) == 32 && strings.Trim(hex, "0123456789abcdef") == ""
}

// send makes one call on a connection of its own. in nil is no body.
func (c Client) send(ctx context.Context, r request, want int, in, out any) error {
	if in != nil {
		var err error
		if r.body, err = json.Marshal(in); err != nil {
			return err
		}
		if len(r.body) > maxBody {
			return fmt.Errorf("the question has %d bytes, more than %d", len(r.body), maxBody)
		}
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	path, _, _ := strings.Cut(r.path, "?")
	res, err := roundTrip(conn, r)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("time-out")
		}
		return fmt.Errorf("%s: %w", path, plain(err))
	}
	if res.status != want {
		var e struct{ Error string }
		if json.Unmarshal(res.body, &e) != nil || e.Error == "" {
			e.Error = "no reason given"
		}
		return &Refusal{Path: path, Status: res.status, Text: e.Error, Retry: res.retry}
	}
	if err := json.Unmarshal(res.body, out); err != nil {
		return fmt.Errorf("%s: malformed answer: %w", path, err)
	}
	return nil
}

// dial connects, waiting while the socket's queue is full: many may ask at
// once, and a full queue (EAGAIN) is no sign of anything broken.
func (c Client) dial(ctx context.Context) (net.Conn, error) {
	wait := firstWait
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
		if err == nil {
			if d, ok := ctx.Deadline(); ok {
				_ = conn.SetDeadline(d) // the context closes it in any case
			}
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, errors.New("time-out")
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, fmt.Errorf("outcall is unreachable (%s: %w)", c.Socket, plain(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, lastWait)
	}
}

// How long to wait for room in the queue, at first and at most.
const (
	firstWait = 2 * time.Millisecond
	lastWait  = 64 * time.Millisecond
)

// plain is the kernel's answer without the operations that led to it.
func plain(err error) error {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return err
}
