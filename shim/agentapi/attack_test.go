package agentapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"outcall/policy"
)

// told are the keys that an answer of each endpoint may have, and no other: a
// key that is added here tells a hostile agent something.
var told = map[string][]string{
	"/v1/checkin":           {"container_id", "context_keys", "error", "session_token"},
	"/v1/permissions/check": {"allowed", "error", "matched_rule", "reason"},
	requestsPath:            {"error", "id", "reason", "status"},
	"/v1/denials":           {"denials", "error"},
	"/v1/policy":            {"error", "text"},
	"denial":                {"advice", "id", "layer", "matched_rule", "reason", "smallest_rule", "target", "time"},
}

func mayTell(t *testing.T, endpoint, body string) {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Errorf("%s: %v: %s", endpoint, err, body)
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(told[endpoint], k) {
			t.Errorf("%s tells %q: %s", endpoint, k, body)
		}
	}
	list, _ := m["denials"].([]any)
	for _, d := range list {
		for k := range d.(map[string]any) {
			if !slices.Contains(told["denial"], k) {
				t.Errorf("a denial tells %q: %s", k, body)
			}
		}
	}
}

// C1, C2: every answer, refusals included, has only the keys that it may have;
// of a denial the process, its arguments and the host's side are left out.
func TestC2OnlyWhatMayBeTold(t *testing.T) {
	b := serve(t, nil)
	b.opt.Denials.Add(policy.Event{Event: "verdict", Verdict: "deny", ID: "d-00000001", Time: time.Now(), Layer: "flow", Session: "sess", Agent: "a",
		IP: "192.0.2.1", Port: 443, Protocol: "tcp", Rule: "r", Reason: "no", Prev: "hash", Seq: 7, Via: "nft",
		Process: &policy.Process{PID: 4711, Exe: "/home/secret/exe", Args: []string{"--token=secret"}}})
	for range 2 { // without a token, and with one
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/v1/checkin", "{}"}, {"POST", "/v1/checkin", "x"}, {"GET", "/v1/checkin", ""},
			{"POST", "/v1/permissions/check", check(ToolExec, "git")}, {"POST", "/v1/permissions/check", check(ToolExec, "no")},
			{"POST", "/v1/permissions/check", check(ToolExec, "panic")}, {"POST", "/v1/permissions/check", "{}"},
			{"POST", requestsPath, `{"rule_file":"good"}`}, {"POST", requestsPath, `{"rule_file":"bad"}`}, {"POST", requestsPath, "{}"},
			{"GET", "/v1/denials", ""}, {"GET", "/v1/denials?id=d-00000001", ""}, {"GET", "/v1/denials?since=x", ""},
			{"GET", "/v1/policy", ""},
		} {
			_, body, h := b.do(c.method, c.path, c.body)
			path, _, _ := strings.Cut(c.path, "?")
			mayTell(t, path, body)
			for _, secret := range []string{"4711", "secret", "hash", "nft"} {
				if strings.Contains(body, secret) {
					t.Errorf("%s %s tells %q: %s", c.method, c.path, secret, body)
				}
			}
			for k := range h {
				if !slices.Contains([]string{"Allow", "Content-Length", "Content-Type", "Date", "Retry-After", "X-Content-Type-Options"}, k) {
					t.Errorf("%s %s: header %s", c.method, c.path, k)
				}
			}
		}
		b.checkin()
	}
}

// C2: another session's token, and the ids of its requests and denials, are
// worth nothing here.
func TestC2OtherSessions(t *testing.T) {
	a, b := serve(t, nil).checkin(), serve(t, nil).checkin()
	_, body, _ := a.do("POST", requestsPath, `{"rule_file":"good"}`)
	var r struct{ ID string }
	if err := json.Unmarshal([]byte(body), &r); err != nil || r.ID == "" {
		t.Fatal(body)
	}
	a.opt.Denials.Add(policy.Event{Event: "verdict", Verdict: "deny", ID: "d-0000000a", Time: time.Now()})
	a.must("GET", requestsPath+"/"+r.ID, "", 200, r.ID)
	b.must("GET", requestsPath+"/"+r.ID, "", 404, notFound)
	b.must("GET", "/v1/denials?id=d-0000000a", "", 200, `{"denials":[]}`)
	b.must("GET", "/v1/denials", "", 200, `{"denials":[]}`)
	b.token = a.token
	b.must("POST", "/v1/permissions/check", check(ToolExec, "git"), 401, "invalid or missing session token")
	b.must("GET", requestsPath+"/"+r.ID, "", 401, "")
}

// C2: verbs that decide, and methods written into headers, are no endpoints.
func TestC2Verbs(t *testing.T) {
	b := serve(t, nil).checkin()
	_, body, _ := b.do("POST", requestsPath, `{"rule_file":"good"}`)
	var r struct{ ID string }
	if json.Unmarshal([]byte(body), &r); r.ID == "" {
		t.Fatal(body)
	}
	for _, verb := range []string{"approve", "allow", "reject", "grant"} {
		for _, path := range []string{requestsPath + "/" + r.ID + "/" + verb, "/v1/" + verb, "/api/v1/requests/rules/" + r.ID + "/" + verb, requestsPath + "/" + verb} {
			b.must("POST", path, `{"sha256":"x"}`, 404, "")
		}
	}
	for _, head := range []string{"X-HTTP-Method-Override: PUT", "X-Original-URL: /api/v1/rules/reload", "Upgrade: h2c", "Expect: 100-continue"} {
		_, read := raw(t, b, fmt.Sprintf("GET %s/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n%s\r\n\r\n", requestsPath, r.ID, b.token, head))
		if got := read(); !strings.Contains(got, `"status":"pending"`) {
			t.Errorf("%s: %q", head, got)
		}
	}
	b.must("GET", requestsPath+"/"+r.ID, "", 200, `"status":"pending"`)
}

// C3: ten thousand proposals: ten are kept in a window, the others are counted,
// and nothing grows.
func TestC3Flood(t *testing.T) {
	const n = 10_000
	b := serve(t, nil).checkin()
	kept, refused := 0, 0
	for i := range n {
		switch status, body, h := b.do("POST", requestsPath, fmt.Sprintf(`{"rule_file":"f%d"}`, i)); {
		case status == 201:
			kept++
		case status == 429 && h.Get("Retry-After") == "60":
			refused++
		default:
			t.Fatalf("%d %s", status, body)
		}
	}
	if kept != RuleCount || refused != n-RuleCount || b.fake.limited != refused {
		t.Errorf("%d kept, %d refused, %d told of", kept, refused, b.fake.limited)
	}
	b.must("POST", requestsPath, `{"rule_file":"`+strings.Repeat("x", 1<<20)+`"}`, 413, "request body exceeds 65536 bytes")
}
