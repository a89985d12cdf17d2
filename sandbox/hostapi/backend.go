package hostapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"outcall/sandbox/pcap"
)

// A Backend is the session that the API speaks for. Its methods are called
// concurrently; each returns when ctx ends. An error that is, or wraps, an
// *Error chooses the status; every other one is 500 (422 for the calls that
// read rules).
type Backend interface {
	Session(ctx context.Context) (Session, error)

	Bridge(ctx context.Context) (Bridge, error)
	BridgeUp(ctx context.Context) error
	BridgeDown(ctx context.Context) error
	NFT(ctx context.Context) (string, error)
	// Capture calls begun when it stands, then emit with each frame on the
	// bridge, valid until emit returns, until ctx ends (no error), one of both
	// fails or the bridge goes. It tells how many frames the kernel had no room
	// for.
	Capture(ctx context.Context, begun func() error, emit func(pcap.Frame) error) (dropped uint64, err error)

	Rules(ctx context.Context) ([]Rule, error)
	Rule(ctx context.Context, id string) (RuleDetail, error) // NotFound
	Counters(ctx context.Context) (Counters, error)
	Reload(ctx context.Context, dryRun bool) (Reload, error)
	Active(ctx context.Context) ([]Active, error)
	FlushActive(ctx context.Context) (int, error)
	// Explain returns what policy.Explain answers; it is sent as encoding/json
	// encodes it.
	Explain(ctx context.Context, r ExplainRequest) (any, error)

	// Requests lists the rule requests of the session's project that wait, with
	// all also those that were answered.
	Requests(ctx context.Context, all bool) ([]RuleRequest, error)
	Request(ctx context.Context, id string) (RuleRequestDetail, error) // NotFound
	Approve(ctx context.Context, id string, a Approval) (Approved, error)
	Reject(ctx context.Context, id, reason string) error
	Revoke(ctx context.Context, id, reason string) (Revoked, error)

	DNS(ctx context.Context) (DNS, error)
	DNSCache(ctx context.Context, entries bool) (DNSCache, error)
	DNSFlush(ctx context.Context) (int, error)
	DNSTest(ctx context.Context, r DNSTestRequest) (DNSTest, error)

	Proxy(ctx context.Context) (Proxy, error)

	Flows(ctx context.Context) ([]Flow, error)
	KillFlow(ctx context.Context, id string) error // NotFound

	// Metrics are the session's numbers for GET /metrics.
	Metrics(ctx context.Context) ([]Metric, error)

	// Events calls emit with each audit line (no newline at its end) that the
	// session has written, and with follow with each further one until the
	// record or ctx ends or emit fails. Lines are not kept by emit.
	Events(ctx context.Context, follow bool, emit func(line []byte) error) error

	// Exec starts a command. The caller serves the returned process and
	// closes its streams.
	Exec(ctx context.Context, r ExecRequest) (*Process, error)

	// Stop ends the session; it returns once the end has begun.
	Stop(ctx context.Context) error
}

// An Error is an answer with a status of its own.
type Error struct {
	Status int // HTTP
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Err: fmt.Errorf(format, args...)}
}

// NotFound says that the named thing is not there.
func NotFound(what, name string) *Error {
	return Errorf(http.StatusNotFound, "%s not found: %q", what, name)
}

// statusOf is the status for err, or fallback.
func statusOf(err error, fallback int) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return fallback
}
