package ask

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const token = "tok-0123456789abcdef0123456789abcdef"

// serve answers a check-in, and everything else by h.
func serve(t *testing.T, h func(w http.ResponseWriter, r *http.Request)) Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/checkin" {
			io.WriteString(w, `{"session_token":"`+token+`"}`)
			return
		}
		if got := r.Header.Get("Authorization"); got != "Bearer "+token {
			t.Errorf("Authorization %q", got)
		}
		h(w, r)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return Client{Socket: path}
}

func TestCalls(t *testing.T) {
	var got, body string
	answer, status := "", 200
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r.Method+" "+r.RequestURI, string(b)
		w.WriteHeader(status)
		io.WriteString(w, answer)
	})
	ctx := t.Context()

	answer = `{"denials":[{"id":"d-00000001","layer":"dns","target":"x A","matched_rule":"r","reason":"why","advice":"a"}]}`
	if list, err := c.Denials(ctx); err != nil || len(list) != 1 || list[0].Advice != "a" || got != "GET /v1/denials" || body != "" {
		t.Errorf("%v %v, %s %q", list, err, got, body)
	}
	if d, ok, err := c.Denial(ctx, "d-1&since=x"); err != nil || !ok || d.ID != "d-00000001" || got != "GET /v1/denials?id=d-1%26since%3Dx" {
		t.Errorf("%v %v %v, %s", d, ok, err, got)
	}
	answer = `{"denials":[]}`
	if _, ok, err := c.Denial(ctx, "d-2"); ok || err != nil {
		t.Errorf("an id that is not known: %v %v", ok, err)
	}

	answer, status = `{"id":"rr-1","status":"pending","reason":null}`, 201
	if r, err := c.Propose(ctx, "version: \"1\"\n"); err != nil || r.ID != "rr-1" || got != "POST /v1/requests/rules" || body != `{"rule_file":"version: \"1\"\n"}` {
		t.Errorf("%v %v, %s %s", r, err, got, body)
	}
	answer, status = `{"id":"rr-1","status":"rejected","reason":"no"}`, 200
	if r, err := c.Request(ctx, "../x"); err != nil || *r.Reason != "no" || got != "GET /v1/requests/rules/..%2Fx" {
		t.Errorf("%v %v, %s", r, err, got)
	}
	answer = `{}`
	if _, err := c.Request(ctx, "rr-1"); err == nil {
		t.Error("an answer without a request was taken")
	}
}

func TestRefusal(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(429)
		io.WriteString(w, `{"error":"rate limit exceeded"}`)
	})
	q, _ := Fetch("h", "")
	_, err := c.Check(t.Context(), q)
	var r *Refusal
	if !errors.As(err, &r) || r.Status != 429 || r.Retry != "7" || !strings.Contains(err.Error(), "again in 7 s") {
		t.Errorf("%v", err)
	}
}

func TestPing(t *testing.T) {
	c := serve(t, nil)
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if err := c.Ping(ctx); err == nil || err.Error() != "time-out" {
		t.Errorf("after its time: %v", err)
	}
	c.Socket += "x"
	if err := c.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "unreachable ("+c.Socket) {
		t.Errorf("no socket: %v", err)
	}
}

func TestFromEnv(t *testing.T) {
	c, d, err := FromEnv(nil)
	if err != nil || c.Socket != DefaultSocket || d != 30*time.Second {
		t.Errorf("%v %v %v", c, d, err)
	}
	c, d, err = FromEnv([]string{"OUTCALL_AGENT_SOCK=/a", "OUTCALL_TIMEOUT_SECS=300", "OUTCALL_AGENT_SOCK=/b", "XOUTCALL_AGENT_SOCK=/c"})
	if err != nil || c.Socket != "/b" || d != 300*time.Second {
		t.Errorf("%v %v %v", c, d, err)
	}
	for _, bad := range []string{"0", "301", "-1", "+5", "5s", "05", " 5", "1e2", "99999999999999999999"} {
		if _, _, err := FromEnv([]string{"OUTCALL_TIMEOUT_SECS=" + bad}); err == nil || !strings.Contains(err.Error(), "want 1 to 300") {
			t.Errorf("OUTCALL_TIMEOUT_SECS=%s: %v", bad, err)
		}
	}
}
