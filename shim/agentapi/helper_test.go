package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outcall/policy"
)

// fake is a session without a policy: the tool says what is answered.
type fake struct {
	mu       sync.Mutex
	asked    []*Question
	recorded []Verdict
	proposed []Request
	limited  int
	block    chan struct{} // the tool "hang" waits for it
}

func (f *fake) Judge(_ context.Context, q *Question) Verdict {
	f.mu.Lock()
	f.asked = append(f.asked, q)
	f.mu.Unlock()
	switch q.Target {
	case "panic":
		panic("broken")
	case "hang":
		<-f.block
	case "no":
		return Verdict{Rule: "r", Reason: "blocked by rule r"}
	case "would":
		return Verdict{Allowed: true, Would: true, Rule: policy.DefaultPolicy, Reason: "no rule allows it"}
	case "default":
		return Verdict{Rule: policy.DefaultPolicy, Reason: "no rule allows it"}
	}
	return Verdict{Allowed: true, Rule: "r"}
}

func (f *fake) Record(_ *Question, v Verdict) Verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recorded = append(f.recorded, v)
	return v
}

func (f *fake) Remedy(_ context.Context, e policy.Event) (string, string) {
	if e.Path == "panic" {
		panic("broken")
	}
	return "version: \"1\"\n", "a rule file"
}

func (f *fake) Validate(_ context.Context, file string) error {
	if strings.Contains(file, "bad") {
		return errors.New("rule_file:3: CEL parse error")
	}
	return nil
}

func (f *fake) Policy(context.Context) string { return "what is reachable" }

func (f *fake) Limited() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limited++
}

func (f *fake) Proposed(r Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proposed = append(f.proposed, r)
}

// A bed is a server on a socket.
type bed struct {
	t      testing.TB
	fake   *fake
	opt    Options
	path   string
	client *http.Client
	token  string
	clock  time.Time
	mu     sync.Mutex
}

func serve(t testing.TB, change func(*Options)) *bed {
	t.Helper()
	b := &bed{t: t, fake: &fake{block: make(chan struct{})}, path: filepath.Join(t.TempDir(), "s"), clock: time.Unix(1000, 0)}
	b.opt = Options{Session: "sess", Backend: b.fake, Denials: &Denials{}, Requests: &memory{},
		Now: func() time.Time { b.mu.Lock(); defer b.mu.Unlock(); return b.clock }}
	if change != nil {
		change(&b.opt)
	}
	l, err := net.Listen("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	s := New(b.opt)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	b.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.path)
	}}}
	t.Cleanup(func() {
		close(b.fake.block)
		b.client.CloseIdleConnections()
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return b
}

func (b *bed) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

// do sends one request with the session's token, if there is one.
func (b *bed) do(method, path, body string) (int, string, http.Header) {
	b.t.Helper()
	req, err := http.NewRequest(method, "http://outcall"+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if b.token != "" {
		req.Header.Set("Authorization", "bearer "+b.token)
	}
	res, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/json" || !json.Valid(text) || len(text) > MaxBody+1 {
		b.t.Errorf("%s %s: %s, %d bytes: %.200s", method, path, ct, len(text), text)
	}
	return res.StatusCode, string(bytes.TrimSpace(text)), res.Header
}

func (b *bed) checkin() *bed {
	b.t.Helper()
	status, body, _ := b.do("POST", "/v1/checkin", "{}")
	var in struct {
		Token string `json:"session_token"`
	}
	if err := json.Unmarshal([]byte(body), &in); err != nil || status != 200 {
		b.t.Fatalf("check-in: %d %s", status, body)
	}
	b.token = in.Token
	return b
}

func (b *bed) must(method, path, body string, status int, want string) {
	b.t.Helper()
	got, text, _ := b.do(method, path, body)
	if got != status || !strings.Contains(text, want) {
		b.t.Errorf("%s %s %.120s: %d %.300s, want %d %s", method, path, body, got, text, status, want)
	}
}

// memory is a store of requests; broken makes every call fail.
type memory struct {
	mu     sync.Mutex
	list   []Request
	broken error
}

const maxMemory = 64

func (m *memory) first(match func(Request) bool) (Request, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.IndexFunc(m.list, match); i >= 0 && m.broken == nil {
		return m.list[i], true, nil
	}
	return Request{}, false, m.broken
}

func (m *memory) Find(_ context.Context, file string) (Request, bool, error) {
	return m.first(func(r Request) bool { return r.File == file })
}

func (m *memory) Get(_ context.Context, id string) (Request, bool, error) {
	return m.first(func(r Request) bool { return r.ID == id })
}

func (m *memory) Add(_ context.Context, r Request) (Request, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.list) >= maxMemory {
		return Request{}, ErrFull
	}
	m.list = append(m.list, r)
	return r, m.broken
}

// answer is what the operator does.
func (m *memory) answer(id, status, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.list {
		if m.list[i].ID == id {
			m.list[i].Status, m.list[i].Reason = status, reason
		}
	}
}
