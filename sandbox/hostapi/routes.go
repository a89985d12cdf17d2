package hostapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// peerKey is where a connection's context keeps what CheckPeer said.
type peerKey struct{}

// route is one line of the API. Exactly one of call and raw is set: a call
// answers with the envelope, a raw handler with a stream.
type route struct {
	method, path string
	call         func(ctx context.Context, b Backend, r *http.Request) (any, error)
	body         bool // call reads it
	failure      int  // status of an error without one; 0 is 500
	raw          func(s *Server, w http.ResponseWriter, r *http.Request)
	tail         bool // Close ends it, not Stop
}

const prefix = "/api/v1"

// routes is the whole surface. Reserved words come before {id}: net/http
// prefers the literal path, and rule files may not use them as ids.
var routes = []route{
	{method: "GET", path: "/session", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return b.Session(ctx) }},
	{method: "GET", path: "/bridge", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return b.Bridge(ctx) }},
	{method: "POST", path: "/bridge/up", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return nil, b.BridgeUp(ctx) }},
	{method: "POST", path: "/bridge/down", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return nil, b.BridgeDown(ctx) }},
	{method: "GET", path: "/bridge/nft", call: nftText},
	{method: "GET", path: "/bridge/capture", raw: (*Server).capture},
	{method: "DELETE", path: "/bridge/capture/{id}", raw: (*Server).endCapture},
	{method: "GET", path: "/rules", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return b.Rules(ctx) }},
	{method: "GET", path: "/rules/counters", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return b.Counters(ctx) }},
	{method: "GET", path: "/rules/active", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return b.Active(ctx) }},
	{method: "POST", path: "/rules/flush", call: flushActive},
	{method: "POST", path: "/rules/reload", call: reload, failure: http.StatusUnprocessableEntity},
	{method: "GET", path: "/rules/{id}", call: func(ctx context.Context, b Backend, r *http.Request) (any, error) {
		return b.Rule(ctx, r.PathValue("id"))
	}},
	{method: "POST", path: "/explain", call: explain, body: true, failure: http.StatusUnprocessableEntity},
	{method: "GET", path: "/requests/rules", call: listRequests},
	{method: "GET", path: "/requests/rules/{id}", call: showRequest},
	{method: "POST", path: "/requests/rules/{id}/approve", call: approve, body: true},
	{method: "POST", path: "/requests/rules/{id}/reject", call: reject, body: true},
	{method: "POST", path: "/requests/rules/{id}/revoke", call: revoke, body: true},
	{method: "GET", path: "/dns", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return b.DNS(ctx) }},
	{method: "GET", path: "/dns/cache", call: dnsCache},
	{method: "POST", path: "/dns/cache/flush", call: dnsFlush},
	{method: "POST", path: "/dns/test", call: dnsTest, body: true, failure: http.StatusUnprocessableEntity},
	{method: "GET", path: "/proxy", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return b.Proxy(ctx) }},
	{method: "GET", path: "/flows", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return b.Flows(ctx) }},
	{method: "DELETE", path: "/flows/{id}", call: func(ctx context.Context, b Backend, r *http.Request) (any, error) {
		return nil, b.KillFlow(ctx, r.PathValue("id"))
	}},
	{method: "GET", path: "/events", raw: (*Server).events, tail: true},
	{method: "POST", path: "/exec", raw: (*Server).exec},
	{method: "POST", path: "/stop", call: func(ctx context.Context, b Backend, _ *http.Request) (any, error) { return nil, b.Stop(ctx) }},
}

func nftText(ctx context.Context, b Backend, _ *http.Request) (any, error) {
	text, err := b.NFT(ctx)
	return NFT{Text: text}, err
}

func flushActive(ctx context.Context, b Backend, _ *http.Request) (any, error) {
	n, err := b.FlushActive(ctx)
	return Flushed{Removed: n}, err
}

func reload(ctx context.Context, b Backend, r *http.Request) (any, error) {
	dry, err := flag(r, "dry_run")
	if err != nil {
		return nil, err
	}
	out, err := b.Reload(ctx, dry)
	if out.Warnings == nil {
		out.Warnings = []string{} // scripts iterate over it
	}
	return out, err
}

func explain(ctx context.Context, b Backend, r *http.Request) (any, error) {
	var req ExplainRequest
	if err := decode(r.Body, &req); err != nil {
		return nil, err
	}
	if req.Target == "" {
		return nil, Errorf(http.StatusBadRequest, "target is missing")
	}
	return b.Explain(ctx, req)
}

func dnsCache(ctx context.Context, b Backend, r *http.Request) (any, error) {
	entries, err := flag(r, "entries")
	if err != nil {
		return nil, err
	}
	return b.DNSCache(ctx, entries)
}

func dnsFlush(ctx context.Context, b Backend, _ *http.Request) (any, error) {
	n, err := b.DNSFlush(ctx)
	return Flushed{Removed: n}, err
}

func dnsTest(ctx context.Context, b Backend, r *http.Request) (any, error) {
	var req DNSTestRequest
	if err := decode(r.Body, &req); err != nil {
		return nil, err
	}
	if req.Name == "" {
		return nil, Errorf(http.StatusBadRequest, "name is missing")
	}
	return b.DNSTest(ctx, req)
}

// flag reads a query parameter that is true or false; a word that is neither
// is an error, so that ?dry_run=yes never reloads.
func flag(r *http.Request, name string) (bool, error) {
	switch v := r.URL.Query().Get(name); v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, Errorf(http.StatusBadRequest, "%s=%q: want true or false", name, v)
	}
}

// decode reads one JSON value with no unknown keys and nothing behind it.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
		if err == nil {
			err = errors.New("more than one value")
		}
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return Errorf(http.StatusRequestEntityTooLarge, "request body exceeds %d bytes", e.Limit)
	}
	return Errorf(http.StatusBadRequest, "invalid request: %w", err)
}

// handler checks the peer, then finds the route.
func (s *Server) handler() http.Handler {
	byPath := map[string][]route{}
	for _, rt := range routes {
		byPath[rt.path] = append(byPath[rt.path], rt)
	}
	mux := http.NewServeMux()
	for path, rts := range byPath {
		mux.HandleFunc(prefix+path, func(w http.ResponseWriter, r *http.Request) { s.dispatch(w, r, rts) })
	}
	// Prometheus asks at this path unless it is told another.
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		s.dispatch(w, r, []route{{method: "GET", path: "/metrics", raw: (*Server).metrics}})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "no such endpoint: "+r.URL.Path)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err, _ := r.Context().Value(peerKey{}).(error); err != nil {
			w.Header().Set("Connection", "close")
			fail(w, http.StatusForbidden, "forbidden: "+err.Error())
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, rts []route) {
	i := slices.IndexFunc(rts, func(rt route) bool { return rt.method == r.Method })
	if i < 0 {
		var allow []string
		for _, rt := range rts {
			allow = append(allow, rt.method)
		}
		w.Header().Set("Allow", strings.Join(allow, ", "))
		fail(w, http.StatusMethodNotAllowed, "method not allowed: "+r.Method)
		return
	}
	rt := rts[i]
	if !rt.tail {
		ctx, leave, ok := s.enter(r.Context())
		if !ok {
			fail(w, http.StatusServiceUnavailable, "the session is ending")
			return
		}
		defer leave()
		r = r.WithContext(ctx)
	}
	if rt.raw != nil {
		rt.raw(s, w, r)
		return
	}
	deadline := time.Now().Add(callTimeout)
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(deadline)
	rc.SetWriteDeadline(deadline)
	ctx, cancel := context.WithDeadline(r.Context(), deadline)
	defer cancel()
	v, err := s.call(ctx, rt, r)
	if err != nil {
		status := rt.failure
		if status == 0 {
			status = http.StatusInternalServerError
		}
		fail(w, statusOf(err, status), err.Error())
		return
	}
	reply(w, http.StatusOK, envelope{OK: true, Data: v})
}

// call turns a panic of the backend into an error: the supervisor is also the
// data path, and must not die of a question about it.
func (s *Server) call(ctx context.Context, rt route, r *http.Request) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, Errorf(http.StatusInternalServerError, "internal error in %s %s: %v", rt.method, rt.path, p)
		}
	}()
	// A body is read to its end also by calls that take none: its limit holds
	// everywhere, and the connection can be used again.
	if r.Method == http.MethodPost && !rt.body {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, Errorf(http.StatusRequestEntityTooLarge, "request body: %w", err)
		}
	}
	return rt.call(ctx, s.backend, r)
}

type envelope struct {
	OK    bool   `json:"ok"`
	Data  any    `json:"data,omitempty"`
	Error string `json:"error,omitempty"`
}

func fail(w http.ResponseWriter, status int, text string) {
	reply(w, status, envelope{Error: text})
}

func reply(w http.ResponseWriter, status int, e envelope) {
	b, err := json.Marshal(e)
	if err != nil {
		status = http.StatusInternalServerError
		b, _ = json.Marshal(envelope{Error: "encode the answer: " + err.Error()})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// A failed write is a client that has gone; there is nobody to tell.
	w.Write(append(b, '\n'))
}
