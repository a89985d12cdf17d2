package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
)

// maxBody bounds a request's and a response's body, in bytes; the API has the
// same limit on its side.
const maxBody = 64 << 10

// A verdict is the API's answer.
type verdict struct {
	allowed      bool
	rule, reason string
}

// ask checks in and asks. Every error means that there is no verdict.
func ask(ctx context.Context, socket string, q *question) (verdict, error) {
	var in struct {
		Token string `json:"session_token"`
	}
	if err := call(ctx, socket, "/v1/checkin", "", struct{}{}, &in); err != nil {
		return verdict{}, err
	}
	if !validToken(in.Token) {
		return verdict{}, errors.New("malformed answer: no session token")
	}
	var out struct {
		Allowed     *bool   `json:"allowed"`
		MatchedRule *string `json:"matched_rule"`
		Reason      *string `json:"reason"`
	}
	if err := call(ctx, socket, "/v1/permissions/check", in.Token, q, &out); err != nil {
		return verdict{}, err
	}
	if out.Allowed == nil {
		return verdict{}, errors.New("malformed answer: no verdict in it")
	}
	v := verdict{allowed: *out.Allowed, rule: "default policy", reason: "no rule allows it"}
	if out.MatchedRule != nil && *out.MatchedRule != "" {
		v.rule = *out.MatchedRule
	}
	if out.Reason != nil && *out.Reason != "" {
		v.reason = *out.Reason
	}
	return v, nil
}

// validToken accepts tok- and 32 lower-case hexadecimal digits: the token
// goes into a header as it is.
func validToken(s string) bool {
	hex, ok := strings.CutPrefix(s, "tok-")
	return ok && len(hex) == 32 && strings.Trim(hex, "0123456789abcdef") == ""
}

// call does one POST on a connection of its own.
func call(ctx context.Context, socket, path, token string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if len(body) > maxBody {
		return fmt.Errorf("the question has %d bytes, more than %d", len(body), maxBody)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("outcall is unreachable (%s: %w)", socket, plain(err))
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		conn.SetDeadline(d)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	status, answer, err := roundTrip(conn, path, token, body)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("time-out")
		}
		return fmt.Errorf("%s: %w", path, plain(err))
	}
	if status != 200 {
		var e struct{ Error string }
		if json.Unmarshal(answer, &e) != nil || e.Error == "" {
			e.Error = "no reason given"
		}
		return fmt.Errorf("%s: refused with status %d: %.1000s", path, status, e.Error)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s: malformed answer: %w", path, err)
	}
	return nil
}

// plain is the kernel's answer without the operations that led to it.
func plain(err error) error {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return err
}
