package mcp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outcall/shim/ask"
)

// serve stands in for a session's agent socket.
func serve(t *testing.T) *Server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.URL.Path == "/v1/checkin":
			io.WriteString(w, `{"session_token":"tok-0123456789abcdef0123456789abcdef"}`)
		case r.URL.Path == "/v1/permissions/check" && strings.Contains(string(body), `"git"`):
			fmt.Fprintf(w, `{"allowed":true,"matched_rule":"r"}`)
		case r.URL.Path == "/v1/permissions/check":
			fmt.Fprintf(w, `{"allowed":false,"matched_rule":"no","reason":"why\u001b[0m (d-00000001)"}`)
		case r.URL.Path == "/v1/denials" && r.URL.Query().Get("id") == "d-00000009":
			io.WriteString(w, `{"denials":[]}`)
		case r.URL.Path == "/v1/denials":
			io.WriteString(w, `{"denials":[{"id":"d-00000001","layer":"dns","target":"x.test A","matched_rule":"no","reason":"why","advice":"a","smallest_rule":"version: \"1\"\n"}]}`)
		case r.Method == "POST":
			w.WriteHeader(201)
			io.WriteString(w, `{"id":"rr-0123456789ab","status":"pending","reason":null}`)
		default:
			io.WriteString(w, `{"id":"rr-0123456789ab","status":"rejected","reason":"no"}`)
		}
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return &Server{Client: ask.Client{Socket: path}, Timeout: 10 * time.Second, Version: "v1", Dir: "/project"}
}

// talk hands over lines and returns the answers.
func talk(t *testing.T, s *Server, lines ...string) []map[string]any {
	t.Helper()
	var out bytes.Buffer
	if err := s.Serve(t.Context(), strings.NewReader(strings.Join(lines, "\n")+"\n"), &out); err != nil {
		t.Fatal(err)
	}
	var answers []map[string]any
	for line := range strings.Lines(out.String()) {
		var a map[string]any
		if err := json.Unmarshal([]byte(line), &a); err != nil || a["jsonrpc"] != "2.0" {
			t.Fatalf("%q: %v", line, err)
		}
		answers = append(answers, a)
	}
	return answers
}

func TestHandshake(t *testing.T) {
	s := serve(t)
	for asked, want := range map[string]string{"2024-11-05": "2024-11-05", "2025-06-18": "2025-06-18", "2031-01-01": versions[0], "": versions[0]} {
		a := talk(t, s, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"`+asked+`","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`,
			`{"jsonrpc":"2.0","method":"notifications/initialized"}`, `{"jsonrpc":"2.0","id":"p","method":"ping"}`)
		if len(a) != 2 || a[0]["result"].(map[string]any)["protocolVersion"] != want || a[1]["id"] != "p" || a[1]["result"] == nil {
			t.Errorf("%s: %v", asked, a)
		}
	}
	a := talk(t, s, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	var names []string
	for _, tool := range a[0]["result"].(map[string]any)["tools"].([]any) {
		m := tool.(map[string]any)
		names = append(names, m["name"].(string))
		if schema := m["inputSchema"].(map[string]any); schema["type"] != "object" || schema["required"] == nil {
			t.Errorf("%v", schema)
		}
	}
	if got := strings.Join(names, " "); got != "check why request_rule policy" {
		t.Errorf("tools %s", got)
	}
}

func TestTools(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct {
		name, args, want string
		failed           bool
	}{
		{"check", `{"action":"shell_exec","target":"git","args":["push"]}`, "allowed by r", false},
		{"check", `{"action":"network_call","target":"https://x.test/","method":"post"}`, `denied by no: why\x1b[0m (d-00000001)`, false},
		{"check", `{"action":"file_access","target":"x","mode":"write"}`, "denied by no", false},
		{"check", `{"action":"file_access","target":"x","mode":"exec"}`, "want read or write", true},
		{"check", `{"action":"else","target":"x"}`, "want network_call", true},
		{"check", `{"action":"tool_exec","target":""}`, "a command is missing", true},
		{"why", `{"id":"d-00000001"}`, "d-00000001: x.test A (dns) was denied by no: why\na\nThe smallest rule", false},
		{"why", `{}`, "d-00000001", false},
		{"why", `{"id":"d-00000009"}`, "knows no denial", true},
		{"request_rule", `{"rule_file":"version: \"1\"\n"}`, "rr-0123456789ab: pending", false},
		{"request_rule", `{"id":"rr-0123456789ab"}`, "rr-0123456789ab: rejected: no", false},
		{"request_rule", `{}`, "want either", true},
		{"request_rule", `{"id":"a","rule_file":"b"}`, "want either", true},
	} {
		a := talk(t, s, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"`+tt.name+`","arguments":`+tt.args+`}}`)
		r, ok := a[0]["result"].(map[string]any)
		if !ok {
			t.Errorf("%s %s: %v", tt.name, tt.args, a)
			continue
		}
		text := r["content"].([]any)[0].(map[string]any)["text"].(string)
		if !strings.Contains(text, tt.want) || r["isError"] != tt.failed {
			t.Errorf("%s %s: %q, error %v; want %q, %v", tt.name, tt.args, text, r["isError"], tt.want, tt.failed)
		}
	}
	// No session: the tool says so, the server goes on.
	s.Client.Socket += ".gone"
	a := talk(t, s, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"check","arguments":{"action":"tool_exec","target":"git"}}}`,
		`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"policy"}}`)
	for _, x := range a {
		if r := x["result"].(map[string]any); r["isError"] != true || !strings.Contains(fmt.Sprint(r["content"]), "unreachable") {
			t.Errorf("no session: %v", x)
		}
	}
}

// What is no request is answered as JSON-RPC says, and the next one still is.
func TestMalformed(t *testing.T) {
	s := serve(t)
	ping := `{"jsonrpc":"2.0","id":7,"method":"ping"}`
	for line, code := range map[string]float64{
		`{`:    parseError,
		`x`:    parseError,
		`[]`:   invalidRequest,
		`"x"`:  invalidRequest,
		`null`: invalidRequest,
		`{"jsonrpc":"1.0","id":1,"method":"ping"}`:                                                       invalidRequest,
		`{"jsonrpc":"2.0","id":{},"method":"ping"}`:                                                      invalidRequest,
		`{"jsonrpc":"2.0","id":null,"method":"ping"}`:                                                    invalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"resources/list"}`:                                             noMethod,
		`{"jsonrpc":"2.0","id":1,"method":"initialize"}`:                                                 invalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`:                                                 invalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`:                           invalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"check","arguments":{}}}`:        invalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"why","arguments":{"id":1}}}`:    invalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"why","arguments":{"x":"y"}}}`:   invalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"` + strings.Repeat("x", maxLine) + `"}}`: parseError,
		`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"check"}}`:                              0,
		`{"jsonrpc":"2.0","id":9,"result":{}}`:                                                           0,
		``:                                                                                               0,
	} {
		a := talk(t, s, line, ping)
		if last := a[len(a)-1]; last["id"] != 7.0 || last["error"] != nil {
			t.Errorf("after %.80s: %v", line, last)
		}
		if code == 0 {
			if len(a) != 1 {
				t.Errorf("%.80s was answered: %v", line, a)
			}
			continue
		}
		if len(a) != 2 || a[0]["error"] == nil || a[0]["error"].(map[string]any)["code"] != code {
			t.Errorf("%.80s: %v, want %v", line, a, code)
		}
	}
}

func FuzzServe(f *testing.F) {
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`)
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"check","arguments":{"action":"file_access","target":"x"}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		s := &Server{Client: ask.Client{Socket: "/nonexistent/s"}, Timeout: time.Second, Dir: "/"}
		var out bytes.Buffer
		if err := s.Serve(t.Context(), strings.NewReader(text), &out); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if !json.Valid([]byte(line)) {
				t.Fatalf("%q", line)
			}
		}
	})
}
