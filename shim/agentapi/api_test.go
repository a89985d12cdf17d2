package agentapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/policy"
)

func check(action, target string, meta ...string) string {
	m := map[string]string{}
	for i := 0; i+1 < len(meta); i += 2 {
		m[meta[i]] = meta[i+1]
	}
	b, _ := json.Marshal(map[string]any{"action_type": action, "target": target, "metadata": m})
	return string(b)
}

func TestCheckin(t *testing.T) {
	b := serve(t, nil)
	status, body, _ := b.do("POST", "/v1/checkin", " {} ")
	if status != 200 || !regexp.MustCompile(`^\{"container_id":"sess","session_token":"tok-[0-9a-f]{32}","context_keys":\["action_type","target","metadata"\]\}$`).MatchString(body) {
		t.Errorf("%d %s", status, body)
	}
	if _, again, _ := b.do("POST", "/v1/checkin", "{}"); again != body {
		t.Errorf("another token: %s, %s", body, again)
	}
	for _, bad := range []string{"", "[]", "null", `{"x":1}`, "{}{}", "{} x", `"x"`, "\xff"} {
		b.must("POST", "/v1/checkin", bad, 400, "invalid request: malformed JSON body")
	}
	b.must("POST", "/v1/checkin", "{"+strings.Repeat(" ", MaxBody)+"}", 413, "request body exceeds 65536 bytes")
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("no random numbers") }

func TestNoRandomNumbersIsNoToken(t *testing.T) {
	b := serve(t, func(o *Options) { o.Random = broken{} })
	b.must("POST", "/v1/checkin", "{}", 500, "no session token")
	b.token = "tok-" + strings.Repeat("0", 32)
	b.must("POST", "/v1/permissions/check", check(ToolExec, "git"), 401, "invalid or missing session token")
}

func TestTokens(t *testing.T) {
	b := serve(t, nil)
	paths := map[string]string{"/v1/permissions/check": check(ToolExec, "git"), "/v1/requests/rules": `{"rule_file":"x"}`}
	tokens := []string{"", "x", "tok-" + strings.Repeat("0", 32)}
	for _, tok := range append(tokens, "after check-in") {
		if tok == "after check-in" {
			b.checkin()
			tok = strings.ToUpper(b.token)
		}
		b.token = tok
		for path, body := range paths {
			b.must("POST", path, body, 401, "invalid or missing session token")
		}
		b.must("GET", "/v1/denials", "", 401, "invalid")
		b.must("GET", "/v1/requests/rules/rr-000000000000", "", 401, "invalid")
	}
	if len(b.fake.asked) != 0 {
		t.Errorf("%d questions were judged without a token", len(b.fake.asked))
	}
}

func TestCheck(t *testing.T) {
	b := serve(t, nil).checkin()
	for _, tt := range []struct{ body, want string }{
		{check(ToolExec, "git"), `^\{"allowed":true,"matched_rule":"r","reason":null\}$`},
		{check(ToolExec, "no"), `^\{"allowed":false,"matched_rule":"r","reason":"blocked by rule r \(d-[0-9a-f]{8}\)"\}$`},
		{check(ShellExec, "default"), `^\{"allowed":false,"matched_rule":null,"reason":"no rule allows it \(d-[0-9a-f]{8}\)"\}$`},
		{check(FileAccess, "would"), `^\{"allowed":true,"matched_rule":null,"reason":"observe: it would be denied: no rule allows it \(d-[0-9a-f]{8}\)"\}$`},
		{check(ToolExec, "panic"), `^\{"allowed":false,"matched_rule":null,"reason":"policy evaluation unavailable \(d-[0-9a-f]{8}\)"\}$`},
		{`{"action_type":"tool_exec","target":"git"}`, `"allowed":true`},
	} {
		status, body, _ := b.do("POST", "/v1/permissions/check", tt.body)
		if status != 200 || !regexp.MustCompile(tt.want).MatchString(body) {
			t.Errorf("%s: %d %s, want %s", tt.body, status, body, tt.want)
		}
	}
	if len(b.fake.recorded) != 6 {
		t.Errorf("%d lines of the audit for 6 checks", len(b.fake.recorded))
	}
}

// An evaluation that does not end is a denial, and has its line.
func TestEvaluationTimeout(t *testing.T) {
	b := serve(t, func(o *Options) { o.evalTimeout = 20 * time.Millisecond }).checkin()
	status, body, _ := b.do("POST", "/v1/permissions/check", check(ToolExec, "hang"))
	if status != 200 || !regexp.MustCompile(`^\{"allowed":false,"matched_rule":null,"reason":"evaluation timeout \(d-[0-9a-f]{8}\)"\}$`).MatchString(body) {
		t.Errorf("%d %s", status, body)
	}
	if len(b.fake.recorded) != 1 || b.fake.recorded[0].Allowed {
		t.Errorf("recorded %v", b.fake.recorded)
	}
}

func TestCheckRefuses(t *testing.T) {
	b := serve(t, nil).checkin()
	many, _ := json.Marshal(make([]string, MaxArgs+1))
	for body, status := range map[string]int{
		"": 400, "[]": 400, `{"target":1}`: 400, `{"x":1}`: 400, `{"metadata":{"a":1}}`: 400,
		check("", "x"): 422, check("run", "x"): 422, check(ToolExec, ""): 422, check(ToolExec, "a\x00"): 422,
		check(ToolExec, "x", "args_json", "nope"): 422, check(ToolExec, "x", "args_json", "null"): 422,
		check(ToolExec, "x", "args_json", `[1]`): 422, check(ToolExec, "x", "args_json", string(many)): 422,
		check(ToolExec, "x", "args_json", `["a\u0000"]`):                           422,
		check(ToolExec, "x", "args_json", `["`+strings.Repeat("a", maxArg+1)+`"]`): 422,
		check(NetworkCall, "https://u@h/"):                                         422,
		check(NetworkCall, "ftp://h/"):                                             422,
		check(NetworkCall, "h h"):                                                  422,
		check(NetworkCall, "h:0"):                                                  422,
		check(NetworkCall, "h", "method", "G3T"):                                   422,
		check(NetworkCall, "h", "method", strings.Repeat("A", 33)):                 422,
		check(NetworkCall, "h", "protocol", "icmp"):                                422,
		check(NetworkCall, strings.Repeat("a", 254)):                               422,
		check(ToolExec, strings.Repeat("x", MaxBody)):                              413,
		check(ToolExec, "x", "args", strings.Repeat("x", maxArg+1)):                422,
	} {
		got, text, _ := b.do("POST", "/v1/permissions/check", body)
		if got != status {
			t.Errorf("%.80s: %d %s, want %d", body, got, text, status)
		}
	}
	if len(b.fake.asked) != 0 {
		t.Errorf("%d of them were judged", len(b.fake.asked))
	}
}

func TestQuestions(t *testing.T) {
	b := serve(t, nil).checkin()
	ask := func(body string) *Question {
		b.must("POST", "/v1/permissions/check", body, 200, "allowed")
		return b.fake.asked[len(b.fake.asked)-1]
	}
	q := ask(check(ToolExec, "git", "args_json", `["push","-f","-","--all"]`, "args", "x", "cwd", "/w", "target", "evil", "action_type", "evil"))
	if fmt.Sprintf("%s %v %v %s", q.Run.Tool, q.Run.Args, q.Run.Flags, q.Run.Cwd) != "git [push -f - --all] [-f --all] /w" {
		t.Errorf("%+v", q.Run)
	}
	if q.Run.Context["target"] != "git" || q.Run.Context["action_type"] != ToolExec || q.Run.Context["metadata"].(map[string]any)["target"] != "evil" {
		t.Errorf("context %v", q.Run.Context)
	}
	if q := ask(check(ShellExec, "ls", "args", "-l /tmp")); fmt.Sprint(q.Run.Args) != "[-l /tmp]" || len(q.Run.Flags) != 1 {
		t.Errorf("%+v", q.Run)
	}
	if q := ask(check(FileAccess, "/etc/passwd", "mode", "write")); q.Run.Tool != "file" || q.Run.Args[0] != "/etc/passwd" || q.Run.Context["mode"] != "write" {
		t.Errorf("%+v", q.Run)
	}
	q = ask(check(NetworkCall, "https://H.test/p", "method", "post"))
	if q.Run.Tool != "network_call" || q.Call.Host != "h.test" || q.Method != "POST" || q.Explain != "https://h.test:443/p" {
		t.Errorf("%+v %+v", q, q.Call)
	}
	if q := ask(check(NetworkCall, "h.test:53", "protocol", "udp")); q.Explain != "udp://h.test:53" || q.Call.Proto != policy.UDP {
		t.Errorf("%+v", q)
	}
}

func TestRateLimits(t *testing.T) {
	b := serve(t, nil).checkin()
	for i := range CheckCount {
		b.must("POST", "/v1/permissions/check", check(ToolExec, fmt.Sprint(i)), 200, "true")
	}
	b.advance(500 * time.Millisecond)
	b.must("POST", "/v1/permissions/check", "{", 400, "") // a body is read first, and counts nothing
	status, text, h := b.do("POST", "/v1/permissions/check", check(ToolExec, "x"))
	if status != 429 || h.Get("Retry-After") != "10" || !strings.Contains(text, "rate limit exceeded for session sess") {
		t.Errorf("%d %s Retry-After %q", status, text, h.Get("Retry-After"))
	}
	b.advance(9500 * time.Millisecond)
	b.must("POST", "/v1/permissions/check", check(ToolExec, "x"), 200, "true")
	for i := range RuleCount {
		b.must("POST", requestsPath, fmt.Sprintf(`{"rule_file":"f%d"}`, i), 201, "")
	}
	if status, _, h := b.do("POST", requestsPath, `{"rule_file":"z"}`); status != 429 || h.Get("Retry-After") != "60" {
		t.Errorf("%d %s", status, h.Get("Retry-After"))
	}
	for range DenialCount {
		b.must("GET", "/v1/denials", "", 200, `{"denials":[]}`)
	}
	b.must("GET", "/v1/denials", "", 429, "")
	if b.fake.limited != 3 {
		t.Errorf("%d calls beyond a limit were told of, not 3", b.fake.limited)
	}
}

func TestPolicy(t *testing.T) {
	b := serve(t, nil)
	b.must("GET", "/v1/policy", "", 401, "invalid or missing session token")
	b.checkin().must("GET", "/v1/policy", "", 200, `{"text":"what is reachable"}`)
}

func TestRequests(t *testing.T) {
	b := serve(t, nil).checkin()
	status, body, _ := b.do("POST", requestsPath, `{"rule_file":"good"}`)
	if status != 201 || !regexp.MustCompile(`^\{"id":"rr-[0-9a-f]{12}","status":"pending","reason":null\}$`).MatchString(body) {
		t.Fatalf("%d %s", status, body)
	}
	var r requestBody
	json.Unmarshal([]byte(body), &r)
	b.must("POST", requestsPath, `{"rule_file":"good"}`, 201, r.ID)
	b.must("GET", requestsPath+"/"+r.ID, "", 200, body)
	b.must("POST", requestsPath, `{"rule_file":"bad"}`, 422, "invalid request: rule file: rule_file:3: CEL parse error")
	b.must("POST", requestsPath, `{"rule_file":"x","status":"approved"}`, 400, "malformed")
	for _, id := range []string{"rr-000000000000", "rr-x", "..", "%2e%2e%2fcheckin", r.ID + "/approve", r.ID + "%00"} {
		b.must("GET", requestsPath+"/"+id, "", 404, notFound)
		b.must("POST", requestsPath+"/"+id, "{}", map[bool]int{true: 405, false: 404}[id == "rr-000000000000"], "")
	}
	if len(b.fake.proposed) != 1 {
		t.Errorf("%d proposals were told", len(b.fake.proposed))
	}
	kept := b.opt.Requests.(*memory)
	for i := len(kept.list); i < maxMemory; i++ {
		if _, err := kept.Add(t.Context(), Request{ID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	b.must("POST", requestsPath, `{"rule_file":"one more"}`, 503, "rule request capacity reached")
}

// What the operator did is seen by who polls; what went wrong with the store
// is not.
func TestRequestsThatWereAnswered(t *testing.T) {
	b := serve(t, nil).checkin()
	kept := b.opt.Requests.(*memory)
	kept.Add(t.Context(), Request{ID: "rr-0123456789ab", Status: Pending, File: "f"})
	kept.answer("rr-0123456789ab", Rejected, "not that host")
	want := `{"id":"rr-0123456789ab","status":"rejected","reason":"not that host"}`
	b.must("GET", requestsPath+"/rr-0123456789ab", "", 200, want)
	b.must("POST", requestsPath, `{"rule_file":"f"}`, 201, want)
	kept.answer("rr-0123456789ab", Approved, "")
	b.must("GET", requestsPath+"/rr-0123456789ab", "", 200, `"status":"approved","reason":null`)
	kept.mu.Lock()
	kept.broken = errors.New("/home/secret/store.json: corrupt")
	kept.mu.Unlock()
	for _, method := range []string{"GET " + requestsPath + "/rr-0123456789ab", "POST " + requestsPath} {
		method, path, _ := strings.Cut(method, " ")
		status, body, _ := b.do(method, path, `{"rule_file":"new"}`)
		if status != 503 || strings.Contains(body, "secret") || !strings.Contains(body, "tell the operator") {
			t.Errorf("%s: %d %s", method, status, body)
		}
	}
}

func TestNoRequestsAreTaken(t *testing.T) {
	b := serve(t, func(o *Options) { o.Requests = nil }).checkin()
	b.must("POST", requestsPath, `{"rule_file":"good"}`, 501, "takes no rule requests")
	b.must("GET", requestsPath+"/rr-000000000000", "", 404, notFound)
}

func TestDenials(t *testing.T) {
	b := serve(t, nil).checkin()
	for i := range MaxDenials + 44 {
		b.opt.Denials.Add(policy.Event{Event: "verdict", Verdict: "deny", ID: fmt.Sprintf("d-%08d", i), Time: time.Unix(int64(i), 0),
			Layer: "connect", Host: "evil.test", Port: 443, Rule: "default policy", Reason: "no rule allows it"})
	}
	b.opt.Denials.Add(policy.Event{Event: "verdict", Verdict: "allow", ID: "d-x", Time: time.Now()})
	status, body, _ := b.do("GET", "/v1/denials", "")
	var out struct{ Denials []denialBody }
	if err := json.Unmarshal([]byte(body), &out); err != nil || status != 200 || len(out.Denials) != maxDenials || out.Denials[maxDenials-1].ID != "d-00000299" {
		t.Fatalf("%d %s", status, body)
	}
	if d := out.Denials[0]; d.Target != "evil.test:443" || d.Rule != "default policy" || d.Reason != "no rule allows it" || d.Smallest == "" || d.Advice == "" {
		t.Errorf("%+v", d)
	}
	since := time.Unix(297, 0).UTC().Format(time.RFC3339)
	if _, body, _ := b.do("GET", "/v1/denials?since="+since, ""); strings.Count(body, `"id"`) != 2 {
		t.Errorf("since: %s", body)
	}
	b.must("GET", "/v1/denials?id=d-00000100", "", 200, "d-00000100")
	b.must("GET", "/v1/denials?id=d-00000001", "", 200, `{"denials":[]}`)
	b.must("GET", "/v1/denials?since=yesterday", "", 422, "since")
	b.opt.Denials.Add(policy.Event{Event: "verdict", Verdict: "deny", ID: "d-0000000p", Layer: "run", Path: "panic", Time: time.Now()})
	b.must("GET", "/v1/denials?id=d-0000000p", "", 200, reasonFailed)
}

func TestNothingElseIsServed(t *testing.T) {
	b := serve(t, nil).checkin()
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/checkin/", "//v1/checkin", "/v1/../v1/checkin", "/V1/checkin", "/v1/check%69n", "/metrics",
		"/debug/pprof/", "/api/v1/session", "/api/v1/rules/reload", "/api/v1/requests/rules", "/v1/sessions"} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			b.must(method, path, "", 404, "")
		}
	}
	for path, allow := range map[string]string{"/v1/checkin": "POST", "/v1/permissions/check": "POST", requestsPath: "POST", "/v1/denials": "GET", "/v1/policy": "GET"} {
		for _, m := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "APPROVE"} {
			if m == allow {
				continue
			}
			if status, _, h := b.do(m, path, ""); status != 405 || h.Get("Allow") != allow {
				t.Errorf("%s %s: %d, Allow %q", m, path, status, h.Get("Allow"))
			}
		}
	}
}

func raw(t *testing.T, b *bed, text string) (net.Conn, func() string) {
	t.Helper()
	c, err := net.Dial("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(c, text)
	return c, func() string {
		out, _ := io.ReadAll(c)
		return string(out)
	}
}

func TestHeads(t *testing.T) {
	b := serve(t, nil)
	_, read := raw(t, b, "POST /v1/checkin HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", maxHeader+8<<10)+"\r\n\r\n")
	if got := read(); !strings.HasPrefix(got, "HTTP/1.1 431 ") {
		t.Errorf("a long head: %.100q", got)
	}
	b = serve(t, func(o *Options) { o.headerTimeout = 50 * time.Millisecond })
	_, read = raw(t, b, "POST /v1/checkin HTTP/1.1\r\nHost: x\r\n")
	if got := read(); strings.Contains(got, "200 OK") { // cut off after headerTimeout
		t.Errorf("half a head: %.100q", got)
	}
}

// Beyond MaxConns a client waits; when one goes, it is served.
func TestConnectionsAreBounded(t *testing.T) {
	b := serve(t, nil)
	var held []net.Conn
	for range MaxConns {
		c, _ := raw(t, b, "POST /v1/checkin HTTP/1.1\r\n")
		held = append(held, c)
	}
	time.Sleep(100 * time.Millisecond) // until they are accepted
	c, err := net.Dial("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /v1/checkin HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one too many was answered: %d, %v", n, err)
	}
	held[0].Close()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if out, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(out), "HTTP/1.1 200") {
		t.Errorf("after another had gone: %.100q %v", out, err)
	}
}

// A descriptor that is sent along is closed unread: the other end of its pipe
// sees that nobody holds it any more, while the connection lives on.
func TestDescriptorsAreClosedUnread(t *testing.T) {
	b := serve(t, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := net.Dial("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	msg := "POST /v1/checkin HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
	if _, _, err := c.(*net.UnixConn).WriteMsgUnix([]byte(msg), unix.UnixRights(int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := c.Read(make([]byte, 4096)); n == 0 {
		t.Fatal(err)
	}
	r.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the descriptor is still held: %v", err)
	}
}

func FuzzQuestion(f *testing.F) {
	f.Add(check(NetworkCall, "https://h.test/p?q", "method", "POST"))
	f.Add(check(ToolExec, "git", "args_json", `["-x"]`))
	for _, target := range []string{"h:443", "[::1]:80", "http://h.test:80/%2e?q=%00", "h.test.:65535", "https://xn--a/", "//h", "https://h\\@e/", "127.1:0x50"} {
		f.Add(check(NetworkCall, target, "protocol", "udp"))
	}
	f.Add(check(FileAccess, "/a\x00", "mode", "write"))
	f.Add(check(ShellExec, "sh", "args_json", `["\ud800"]`, "cwd", "\u202e"))
	f.Fuzz(func(t *testing.T, body string) {
		var in checkBody
		if decode(strings.NewReader(body), &in) != nil {
			return
		}
		q, err := in.question()
		if err != nil {
			return
		}
		if q.Run.Tool == "" || q.Run.Context["target"] != in.Target || (q.Call != nil) != (in.ActionType == NetworkCall) {
			t.Errorf("%+v", q)
		}
		if q.Call != nil && (q.Call.Host == "" || q.Call.Port == 0 || strings.ContainsAny(q.Call.Host, " /\\@\x00")) {
			t.Errorf("%+v", q.Call)
		}
	})
}

func FuzzServer(f *testing.F) {
	b := serve(f, nil)
	f.Add("POST", "/v1/checkin", "{}")
	f.Add("GET", "/v1/denials?since=x", "")
	for _, seed := range [][3]string{
		{"POST", "/v1/permissions/check", check(NetworkCall, "https://h.test/")},
		{"POST", requestsPath, `{"rule_file":"version: \"1\"\n"}`},
		{"GET", requestsPath + "/rr-000000000000", ""},
		{"GET", "/v1/denials?id=d-00000000&id=x", ""},
		{"GET", "/v1/denials?since=0000-00-00T00:00:00Z", ""},
		{"GET", "http://x/v1/policy", ""},
		{"POST", "/v1/checkin HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX:", "2\r\n{}\r\n0\r\n\r\n"},
		{"CONNECT", "x:443", ""}, {"PRI", "*", "SM\r\n\r\n"}, {"GET", "/v1/%2e%2e/checkin", "{}"},
		{"POST", "/v1/checkin", strings.Repeat("[", 70_000)},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, path, body string) {
		c, err := net.Dial("unix", b.path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
		c.(*net.UnixConn).CloseWrite()
		out, _ := io.ReadAll(c)
		if strings.HasPrefix(string(out), "HTTP/1.1 500") {
			t.Errorf("%q %q %q: %s", method, path, body, out)
		}
	})
}
