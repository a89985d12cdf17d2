package agentapi

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"outcall/policy"
)

// A failure is an answer that is none.
type failure struct {
	status int
	text   string
	retry  time.Duration // with 429
}

func fail(status int, format string, args ...any) *failure {
	return &failure{status: status, text: fmt.Sprintf(format, args...)}
}

const (
	requestsPath = "/v1/requests/rules"
	maxDenials   = 16 // in one answer
)

// route finds what a path and method mean. Paths are compared as they came:
// nothing is cleaned, joined or redirected.
func (s *Server) route(r *http.Request) (handle func(*http.Request) (int, any, *failure), allow string) {
	path := r.URL.EscapedPath()
	switch {
	case path == "/v1/checkin":
		handle, allow = s.checkin, http.MethodPost
	case path == "/v1/permissions/check":
		handle, allow = s.check, http.MethodPost
	case path == requestsPath:
		handle, allow = s.propose, http.MethodPost
	case path == "/v1/denials":
		handle, allow = s.listDenials, http.MethodGet
	case path == "/v1/policy":
		handle, allow = s.policy, http.MethodGet
	case validID(strings.TrimPrefix(path, requestsPath+"/"), "rr-", 12):
		handle, allow = s.request, http.MethodGet
	}
	return handle, allow
}

// serve answers one request. A panic is a 500: the supervisor is also the data
// path.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if recover() != nil {
			reply(w, http.StatusInternalServerError, errorBody{"internal error"})
		}
	}()
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	handle, allow := s.route(r)
	switch {
	case handle == nil && strings.HasPrefix(r.URL.Path, requestsPath+"/"):
		reply(w, http.StatusNotFound, errorBody{notFound})
		return
	case handle == nil:
		reply(w, http.StatusNotFound, errorBody{"no such endpoint"})
		return
	case r.Method != allow:
		w.Header().Set("Allow", allow)
		reply(w, http.StatusMethodNotAllowed, errorBody{"method not allowed"})
		return
	}
	status, body, f := handle(r)
	if f != nil {
		if f.status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", strconv.Itoa(max(1, int((f.retry+time.Second-1)/time.Second))))
		}
		status, body = f.status, errorBody{f.text}
	}
	reply(w, status, body)
}

const notFound = "rule request not found"

type errorBody struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil || len(b) > MaxBody {
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that has gone needs no answer
}

// decode reads one JSON object with no unknown keys and nothing behind it.
func decode(r io.Reader, v any) *failure {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fail(http.StatusRequestEntityTooLarge, "request body exceeds %d bytes", MaxBody)
	}
	return fail(http.StatusBadRequest, "invalid request: malformed JSON body")
}

// checkin gives the session's token; the same one each time.
func (s *Server) checkin(r *http.Request) (int, any, *failure) {
	var in *struct{}
	if f := decode(r.Body, &in); f != nil {
		return 0, nil, f
	}
	if in == nil {
		return 0, nil, fail(http.StatusBadRequest, "invalid request: malformed JSON body")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == "" {
		hex, err := randomHex(s.o.Random, 16)
		if err != nil {
			return 0, nil, fail(http.StatusInternalServerError, "no session token could be made")
		}
		s.token = "tok-" + hex
	}
	return http.StatusOK, struct {
		Container string   `json:"container_id"`
		Token     string   `json:"session_token"`
		Keys      []string `json:"context_keys"`
	}{s.o.Session, s.token, []string{"action_type", "target", "metadata"}}, nil
}

// authorized compares the bearer's token with the session's.
func (s *Server) authorized(r *http.Request) *failure {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	s.mu.Lock()
	want := s.token
	s.mu.Unlock()
	ok := len(r.Header.Values("Authorization")) == 1 && strings.EqualFold(scheme, "Bearer") && validID(token, "tok-", 32) &&
		subtle.ConstantTimeCompare([]byte(token), []byte(want)) == 1
	if !ok {
		return fail(http.StatusUnauthorized, "invalid or missing session token")
	}
	return nil
}

// validID accepts a prefix and n lower-case hexadecimal digits.
func validID(s, prefix string, n int) bool {
	hex, ok := strings.CutPrefix(s, prefix)
	return ok && len(hex) == n && strings.Trim(hex, "0123456789abcdef") == ""
}

// limit counts a call. One too many is an attempt, too: the backend sums them.
func (s *Server) limit(w *window) *failure {
	if wait := w.take(s.o.Now()); wait > 0 {
		s.o.Backend.Limited()
		f := fail(http.StatusTooManyRequests, "rate limit exceeded for session %s", s.o.Session)
		f.retry = wait
		return f
	}
	return nil
}

func (s *Server) check(r *http.Request) (int, any, *failure) {
	var in checkBody
	if f := decode(r.Body, &in); f != nil {
		return 0, nil, f
	}
	if f := s.authorized(r); f != nil {
		return 0, nil, f
	}
	if f := s.limit(s.checks); f != nil {
		return 0, nil, f
	}
	q, err := in.question()
	if err != nil {
		return 0, nil, fail(http.StatusUnprocessableEntity, "invalid request: %v", err)
	}
	hex, err := randomHex(s.o.Random, 4)
	if err != nil {
		return 0, nil, fail(http.StatusInternalServerError, "no id could be made")
	}
	q.ID = "d-" + hex
	if pid, _ := r.Context().Value(pidKey{}).(int); pid > 0 && s.o.Process != nil {
		q.Process = s.o.Process(pid)
	}
	v, why := evaluate(r.Context(), s.o.evalTimeout, s.permits, func(ctx context.Context) Verdict { return s.o.Backend.Judge(ctx, q) })
	if why != "" {
		v = Verdict{Reason: why, Structural: true}
	}
	return http.StatusOK, answer(q, s.o.Backend.Record(q, v)), nil
}

type verdictBody struct {
	Allowed bool    `json:"allowed"`
	Rule    *string `json:"matched_rule"`
	Reason  *string `json:"reason"`
}

func answer(q *Question, v Verdict) verdictBody {
	out := verdictBody{Allowed: v.Allowed}
	if v.Rule != "" && v.Rule != policy.DefaultPolicy {
		out.Rule = &v.Rule
	}
	if !v.Allowed || v.Would {
		reason := v.Reason + " (" + q.ID + ")"
		if v.Would {
			reason = "observe: it would be denied: " + reason
		}
		out.Reason = &reason
	}
	return out
}

// policy tells what is reachable.
func (s *Server) policy(r *http.Request) (int, any, *failure) {
	if f := s.authorized(r); f != nil {
		return 0, nil, f
	}
	if f := s.limit(s.denials); f != nil {
		return 0, nil, f
	}
	text, why := evaluate(r.Context(), s.o.evalTimeout, s.remedies, func(ctx context.Context) string { return s.o.Backend.Policy(ctx) })
	if why != "" {
		return 0, nil, fail(http.StatusServiceUnavailable, "%s", why)
	}
	return http.StatusOK, map[string]string{"text": text}, nil
}

type requestBody struct {
	ID     string  `json:"id"`
	Status string  `json:"status"`
	Reason *string `json:"reason"`
}

func bodyOf(q Request) requestBody {
	b := requestBody{ID: q.ID, Status: q.Status}
	if q.Reason != "" {
		b.Reason = &q.Reason
	}
	return b
}

// notKept tells nothing of the host's files: the operator reads why.
func notKept() *failure {
	return fail(http.StatusServiceUnavailable, "rule requests cannot be kept now: tell the operator")
}

func (s *Server) propose(r *http.Request) (int, any, *failure) {
	var in struct {
		File string `json:"rule_file"`
	}
	if f := decode(r.Body, &in); f != nil {
		return 0, nil, f
	}
	if f := s.authorized(r); f != nil {
		return 0, nil, f
	}
	if s.o.Requests == nil {
		return 0, nil, fail(http.StatusNotImplemented, "this session takes no rule requests: give the rule to the operator")
	}
	if f := s.limit(s.rules); f != nil {
		return 0, nil, f
	}
	switch old, ok, err := s.o.Requests.Find(r.Context(), in.File); {
	case err != nil:
		return 0, nil, notKept()
	case ok:
		return http.StatusCreated, bodyOf(old), nil
	}
	err, why := evaluate(r.Context(), s.o.evalTimeout, s.permits, func(ctx context.Context) error { return s.o.Backend.Validate(ctx, in.File) })
	if why != "" {
		return 0, nil, fail(http.StatusServiceUnavailable, "%s", why)
	}
	if err != nil {
		return 0, nil, fail(http.StatusUnprocessableEntity, "invalid request: rule file: %s", policy.Cut(err.Error(), 4<<10))
	}
	hex, err := randomHex(s.o.Random, 6)
	if err != nil {
		return 0, nil, fail(http.StatusInternalServerError, "no id could be made")
	}
	id := "rr-" + hex
	q, err := s.o.Requests.Add(r.Context(), Request{ID: id, Status: Pending, Time: s.o.Now(), File: in.File})
	switch {
	case errors.Is(err, ErrFull):
		return 0, nil, fail(http.StatusServiceUnavailable, "%v", ErrFull)
	case err != nil:
		return 0, nil, notKept()
	case q.ID == id:
		s.o.Backend.Proposed(q)
	}
	return http.StatusCreated, bodyOf(q), nil
}

func (s *Server) request(r *http.Request) (int, any, *failure) {
	if f := s.authorized(r); f != nil {
		return 0, nil, f
	}
	if s.o.Requests == nil {
		return 0, nil, fail(http.StatusNotFound, notFound)
	}
	q, ok, err := s.o.Requests.Get(r.Context(), strings.TrimPrefix(r.URL.Path, requestsPath+"/"))
	switch {
	case err != nil:
		return 0, nil, notKept()
	case !ok:
		return 0, nil, fail(http.StatusNotFound, notFound)
	}
	return http.StatusOK, bodyOf(q), nil
}
