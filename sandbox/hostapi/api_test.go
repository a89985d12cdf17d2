package hostapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// hash64 is a hash.
var hash64 = strings.Repeat("0123456789abcdef", 4)

// The table of the API: what is asked, what comes back, word for word.
func TestAPITable(t *testing.T) {
	b := &fakeBackend{explain: map[string]string{"verdict": "deny"}, lines: [][]byte{[]byte(`{"seq":1}`), []byte(`{"seq":2}`)}}
	_, path := serve(t, b)
	hc := plainHTTP(path)
	for _, tt := range []struct {
		method, url, body string
		status            int
		want              string // substring of the answer
		call              string // what the backend was asked; "" = nothing
	}{
		{"GET", "/session", "", 200, `{"ok":true,"data":{"name":"s","agent":"","pid":7,"command":["true"]`, "session"},
		{"GET", "/bridge", "", 200, `{"ok":true,"data":{"name":"outcall0","up":true,"index":2,"nftables_active":true}}`, "bridge"},
		{"POST", "/bridge/up", "", 200, `{"ok":true}`, "up"},
		{"POST", "/bridge/down", "", 200, `{"ok":true}`, "down"},
		{"GET", "/bridge/down", "", 405, `{"ok":false,"error":"method not allowed: GET"}`, ""},
		{"GET", "/bridge/nft", "", 200, `"data":{"text":"table inet outcall {\n}\n"}`, "nft"},
		{"GET", "/rules", "", 200, `"data":[{"id":"a"`, "rules"},
		{"GET", "/rules/a", "", 200, `"condition":"true"`, "rule a"},
		{"GET", "/rules/none", "", 404, `{"ok":false,"error":"rule not found: \"none\""}`, ""},
		{"GET", "/rules/panic", "", 500, `"ok":false,"error":"internal error in GET /rules/{id}: broken"`, ""},
		{"GET", "/rules/counters", "", 200, `"nxdomain":3`, "counters"},
		{"GET", "/rules/active", "", 200, `"destination":"192.0.2.1"`, "active"},
		{"POST", "/rules/flush", "", 200, `{"removed":4}`, "flush"},
		{"GET", "/rules/flush", "", 405, `method not allowed`, ""},
		{"POST", "/rules/reload", "", 200, `{"ok":true,"data":{"files_loaded":1,"rules_loaded":3,"warnings":[]}}`, "reload false"},
		{"POST", "/rules/reload?dry_run=true", "", 200, `"dry_run":true`, "reload true"},
		{"POST", "/rules/reload?dry_run=yes", "", 400, `dry_run=\"yes\": want true or false`, ""},
		{"POST", "/explain", `{"target":"dns://x"}`, 200, `"data":{"verdict":"deny"}`, "explain dns://x"},
		{"POST", "/explain", `{"target":"x","typo":1}`, 400, `unknown field`, ""},
		{"POST", "/explain", `{}`, 400, `target is missing`, ""},
		{"POST", "/explain", `{"target":"x"} {}`, 400, `more than one value`, ""},
		{"POST", "/explain", ``, 400, `invalid request`, ""},
		{"GET", "/requests/rules", "", 200, `"data":[{"id":"rr-0123456789ab","status":"pending","container_id":"s"`, "requests false"},
		{"GET", "/requests/rules?all=true", "", 200, `"rr-0123456789ab"`, "requests true"},
		{"GET", "/requests/rules?all=1", "", 400, `all=\"1\"`, ""},
		{"GET", "/requests/rules/rr-0123456789ab", "", 200, `"review":{"judged":3}`, "request rr-0123456789ab"},
		{"GET", "/requests/rules/rr-000000000000", "", 404, `rule request not found: \"rr-000000000000\"`, ""},
		{"GET", "/requests/rules/x", "", 400, `is no id of a rule request`, ""},
		{"GET", "/requests/rules/rr-0123456789aB", "", 400, `is no id of a rule request`, ""},
		{"POST", "/requests/rules", "{}", 405, `method not allowed`, ""},
		{"POST", "/requests/rules/rr-0123456789ab", "{}", 405, `method not allowed`, ""},
		{"GET", "/requests/rules/rr-0123456789ab/approve", "", 405, `method not allowed`, ""},
		{"POST", "/requests/rules/rr-0123456789ab/approve", `{"sha256":"` + hash64 + `","for":"10m"}`, 200,
			`{"id":"rr-0123456789ab","rules_loaded":2,"warnings":[]}`, "approve rr-0123456789ab 10m"},
		{"POST", "/requests/rules/rr-0123456789ab/approve", `{"sha256":"` + strings.Repeat("0", 64) + `"}`, 409, `not the one that was shown`, ""},
		{"POST", "/requests/rules/rr-0123456789ab/approve", `{}`, 400, `sha256 is missing`, ""},
		{"POST", "/requests/rules/rr-0123456789ab/approve", ``, 400, `invalid request`, ""},
		{"POST", "/requests/rules/rr-0123456789ab/approve", `{"sha256":"` + hash64 + `","priority":1}`, 400, `unknown field`, ""},
		{"POST", "/requests/rules/..%2fx/approve", `{"sha256":"` + hash64 + `"}`, 400, `is no id`, ""},
		{"POST", "/requests/rules/rr-0123456789ab/reject", `{"reason":"no"}`, 200, `"id":"rr-0123456789ab"`, "reject rr-0123456789ab no"},
		{"POST", "/requests/rules/rr-0123456789ab/reject", `{}`, 422, `the reason is blank`, ""},
		{"POST", "/requests/rules/rr-0123456789ab/reject", ``, 400, `invalid request`, ""},
		{"POST", "/requests/rules/rr-0123456789ab/revoke", `{"reason":"no"}`, 200, `"flows_closed":1`, "revoke rr-0123456789ab no"},
		{"GET", "/dns", "", 200, `"running":true,"listen_address":"","listen_port":53`, "dns"},
		{"GET", "/dns/cache", "", 200, `"data":{"stats":{"entries":1`, "cache false"},
		{"GET", "/dns/cache?entries=true", "", 200, `"entries":[{"hostname":"h"`, "cache true"},
		{"POST", "/dns/cache/flush", "", 200, `{"removed":1}`, "dnsflush"},
		{"POST", "/dns/test", `{"name":"x"}`, 200, `"rcode":"NXDOMAIN"`, "dnstest x"},
		{"GET", "/proxy", "", 200, `"running":true`, "proxy"},
		{"GET", "/flows", "", 200, `"id":"f-1"`, "flows"},
		{"DELETE", "/flows/f-1", "", 200, `{"ok":true}`, "kill f-1"},
		{"DELETE", "/flows/f-2", "", 404, `flow not found`, ""},
		{"GET", "/events", "", 200, "{\"seq\":1}\n{\"seq\":2}\n", "events false"},
		{"GET", "/events?follow=1", "", 400, `follow=\"1\"`, ""},
		{"POST", "/exec", `{"where":"agent","command":["true"]}`, 426, `exec needs Upgrade`, ""},
		{"POST", "/exec", `{"where":"host"`, 400, `invalid request`, ""},
		{"POST", "/stop", "", 200, `{"ok":true}`, "stop"},
		{"GET", "/../../etc/passwd", "", 404, `no such endpoint`, ""},
		{"GET", "/nothing", "", 404, `no such endpoint`, ""},
		{"POST", "/explain", `{"target":"` + strings.Repeat("x", MaxBody) + `"}`, 413, `request body exceeds 1048576 bytes`, ""},
		{"POST", "/stop", strings.Repeat("x", MaxBody+1), 413, `request body`, ""},
	} {
		before := len(b.noted())
		req, err := http.NewRequest(tt.method, "http://outcall/api/v1"+tt.url, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Path = strings.SplitN("/api/v1"+tt.url, "?", 2)[0]
		resp, err := hc.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.url, err)
			continue
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || !strings.Contains(string(got), tt.want) {
			t.Errorf("%s %.40s %.40s: %d %s\nwant %d %s", tt.method, tt.url, tt.body, resp.StatusCode, got, tt.status, tt.want)
		}
		calls := b.noted()[before:]
		if tt.call == "" && len(calls) > 0 || tt.call != "" && !slices.Equal(calls, []string{tt.call}) {
			t.Errorf("%s %s: the backend was asked %q, want %q", tt.method, tt.url, calls, tt.call)
		}
	}
}

func TestErrorStatus(t *testing.T) {
	b := &fakeBackend{err: errors.New("/etc/outcall/rules.d/agent.yaml:5: CEL parse error: undefined identifier 'http_host'")}
	_, path := serve(t, b)
	c := NewClient(path)
	for _, tt := range []struct {
		what   string
		err    error
		status int
	}{
		{"reload", func() error { _, err := c.Reload(t.Context(), false); return err }(), 422},
		{"session", func() error { _, err := c.Session(t.Context()); return err }(), 500},
		{"events", c.Events(t.Context(), false, func([]byte) error { return nil }), 500},
	} {
		e, ok := errors.AsType[*StatusError](tt.err)
		if !ok || e.Status != tt.status || e.Text != b.err.Error() {
			t.Errorf("%s: %v (%T), want status %d with the text", tt.what, tt.err, tt.err, tt.status)
		}
	}
}

func TestClientCalls(t *testing.T) {
	b := &fakeBackend{explain: "x"}
	_, path := serve(t, b)
	c, ctx := NewClient(path), t.Context()
	if br, err := c.Bridge(ctx); err != nil || *br.Index != 2 {
		t.Errorf("Bridge = %+v, %v", br, err)
	}
	if r, err := c.Reload(ctx, true); err != nil || r.RulesLoaded != 3 || !r.DryRun {
		t.Errorf("Reload = %+v, %v", r, err)
	}
	if r, err := c.Rule(ctx, "a"); err != nil || r.Condition != "true" {
		t.Errorf("Rule = %+v, %v", r, err)
	}
	if _, err := c.Rule(ctx, "a/../counters"); err == nil {
		t.Error("an id with a slash reached another endpoint")
	}
	if err := c.KillFlow(ctx, "f-1"); err != nil {
		t.Errorf("KillFlow: %v", err)
	}
	if err := c.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "host.sock")
	_, err := NewClient(path).Session(t.Context())
	want := "daemon unreachable (" + path + ": no such file or directory)"
	if err == nil || err.Error() != want {
		t.Errorf("absent socket: %v, want %s", err, want)
	}
	long := "/tmp/" + strings.Repeat("x", 110)
	if _, err := NewClient(long).Session(t.Context()); err == nil || !strings.Contains(err.Error(), "daemon unreachable") {
		t.Errorf("long path: %v", err)
	}
	if _, err := Listen(long); err == nil {
		t.Error("Listen took a path that the kernel cuts")
	}
}

func TestFollow(t *testing.T) {
	b := &fakeBackend{lines: [][]byte{[]byte("1")}, more: make(chan []byte)}
	s, path := serve(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- NewClient(path).Events(ctx, true, func(l []byte) error { got <- string(l); return nil })
	}()
	if l := <-got; l != "1" {
		t.Errorf("first line %q", l)
	}
	b.more <- []byte("2") // each line arrives when it is written, not at the end
	if l := <-got; l != "2" {
		t.Errorf("second line %q", l)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("cancelled follow: %v", err)
	}
	// A follower is told what is written while the session ends, and ends with
	// the record.
	go func() {
		done <- NewClient(path).Events(t.Context(), true, func(l []byte) error { got <- string(l); return nil })
	}()
	<-got
	late, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := NewClient(path).Session(t.Context()); err != nil { // late has been taken, too
		t.Error(err)
	}
	s.Stop(t.Context())
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("a server that has stopped takes clients")
	}
	io.WriteString(late, "GET /api/v1/session HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, _ := io.ReadAll(late); strings.HasPrefix(string(answer), "HTTP/1.1 200 ") { // it is cut off, or told 503
		t.Errorf("a call after the stop: %s", answer)
	}
	go func() { b.more <- []byte("stop"); close(b.more) }()
	if l := <-got; l != "stop" {
		t.Errorf("last line %q", l)
	}
	s.Close(t.Context())
	if err := <-done; err != nil {
		t.Errorf("follow at the end of the session: %v", err)
	}
}

// A follower that does not end, or does not read, does not hold the end up.
func TestCloseEndsFollowers(t *testing.T) {
	b := &fakeBackend{lines: [][]byte{bytes.Repeat([]byte("x"), 4<<20)}, more: make(chan []byte)}
	s, path := serve(t, b)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /api/v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil { // it is in the midst of the first line
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() { s.Close(context.Background()); close(closed) }()
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Fatal("a follower that does not read holds Close up")
	}
}

// With MaxConns streams open a further client waits, and is served when one
// ends.
func TestConnectionBound(t *testing.T) {
	b := &fakeBackend{lines: [][]byte{[]byte("1")}, more: make(chan []byte)}
	_, path := serve(t, b)
	var cancels []context.CancelFunc
	var ended sync.WaitGroup
	got := make(chan struct{})
	for range MaxConns {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cancels = append(cancels, cancel)
		ended.Go(func() {
			NewClient(path).Events(ctx, true, func([]byte) error { got <- struct{}{}; return nil })
		})
		<-got
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := NewClient(path).Session(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a client beyond MaxConns got %v, want to wait", err)
	}
	cancels[0]()
	if _, err := NewClient(path).Session(t.Context()); err != nil {
		t.Errorf("after a stream ended: %v", err)
	}
	for _, c := range cancels {
		c()
	}
	ended.Wait()
}

func TestListenerSlots(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ln := newListener(l)
	for range MaxConns {
		ln.slots <- struct{}{}
	}
	done := make(chan error, 1)
	go func() { _, err := ln.Accept(); done <- err }()
	ln.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept with all slots taken returned %v, want it to wait and end with Close", err)
	}
}

func TestSocketModeAndDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	if err := CheckDir(path); err != nil {
		t.Errorf("own 0700 directory: %v", err)
	}
	defer syscall.Umask(syscall.Umask(0))
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if fi, _ := os.Lstat(path); fi.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v", fi.Mode())
	}
	if _, err := Listen(path); err == nil {
		t.Error("a live socket was replaced")
	}
	for _, mode := range []os.FileMode{0o755, 0o770, 0o701, 0o1777} {
		os.Chmod(dir, mode)
		if mode == 0o1777 {
			os.Chmod(dir, 0o777|os.ModeSticky)
		}
		if err := CheckDir(path); err == nil {
			t.Errorf("directory mode %v was taken", mode)
		}
	}
	os.Chmod(dir, 0o700)
	link := filepath.Join(t.TempDir(), "link")
	os.Symlink(dir, link)
	if err := CheckDir(filepath.Join(link, "s")); err == nil {
		t.Error("a symlink was taken for a directory")
	}
	if os.Geteuid() == 0 {
		os.Chown(dir, 65534, 65534)
		if err := CheckDir(path); err == nil {
			t.Error("another user's directory was taken")
		}
	}
}
