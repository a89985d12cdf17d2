package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"outcall/policy/review"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/requests"
	"outcall/sandbox/session"
)

// askedFor is a rule file that an agent could send.
const askedFor = "version: \"1\"\nrules:\n  - {id: new, action: allow, condition: 'dns.query == \"new.test\"', description: \"\u202e\x1b]0;owned\a\"}\n"

const requestID = "rr-0123456789ab"

// now is the request of the fake session: whoever approves must send its hash.
func (f *fakeSession) now() hostapi.RuleRequest {
	text := askedFor
	for _, l := range f.lines {
		text += l
	}
	return hostapi.RuleRequest{ID: requestID, Status: requests.Pending, Session: hostile, Agent: "a", Submitted: time.Unix(1, 0).UTC(), SHA256: requests.Hash(text), File: text}
}

func (f *fakeSession) Requests(_ context.Context, all bool) ([]hostapi.RuleRequest, error) {
	rejected := hostapi.RuleRequest{ID: "rr-00000000000a", Status: requests.Rejected, Reason: hostile}
	granted := hostapi.RuleRequest{ID: "rr-00000000000b", Status: requests.Approved, Problem: "duplicate rule id 'x'"}
	return []hostapi.RuleRequest{f.now(), rejected, granted}, nil
}

func (f *fakeSession) Request(_ context.Context, id string) (hostapi.RuleRequestDetail, error) {
	if id != requestID {
		return hostapi.RuleRequestDetail{}, hostapi.NotFound("rule request", id)
	}
	return hostapi.RuleRequestDetail{RuleRequest: f.now(), Review: &review.Review{Denials: 3, Judged: 3,
		Rules: []review.Rule{{ID: "new", Action: "allow", Names: []review.Name{{Name: "new.test", Shown: "[new.test]"}}}}}}, nil
}

func (f *fakeSession) Approve(_ context.Context, id string, a hostapi.Approval) (hostapi.Approved, error) {
	if a.SHA256 != f.now().SHA256 {
		return hostapi.Approved{}, hostapi.Errorf(409, "the rule request is not the one that was shown")
	}
	f.kept = append(f.kept, "approve "+id+" "+a.For)
	return hostapi.Approved{ID: id, RulesLoaded: 1}, nil
}

func (f *fakeSession) Reject(_ context.Context, id, reason string) error {
	f.kept = append(f.kept, "reject "+id+" "+reason)
	return nil
}

func (f *fakeSession) Revoke(_ context.Context, id, reason string) (hostapi.Revoked, error) {
	f.kept = append(f.kept, "revoke "+id+" "+reason)
	return hostapi.Revoked{ID: id, FlowsClosed: 2}, nil
}

func TestRequestsCommands(t *testing.T) {
	env := testEnv(t)
	f, _ := startSession(t, env, "one")
	hash := f.now().SHA256
	for _, tt := range []struct {
		args string
		code int
		want string // in the output of both streams
		done string
	}{
		{"requests", 2, "a command is missing", ""},
		{"requests list", 0, requestID + "  evil\\x1b]0;owned\\a\\u202etest\\n  pending", ""},
		{"requests list", 0, "not in force: duplicate rule id 'x'", ""},
		{"requests list --all", 0, "rr-00000000000a", ""},
		{"requests list --all --json", 0, `"container_id"`, ""},
		{"requests show " + requestID, 0, "sha256 " + hash, ""},
		{"requests show " + requestID, 0, `description: "\u202e\x1b]0;owned\a"`, ""},
		{"requests show " + requestID, 0, "would allow 0 of the last 3 denials", ""},
		{"requests show " + requestID + " --json", 0, `"shown": "[new.test]"`, ""},
		{"requests show rr-000000000000", 1, "rule request not found", ""},
		{"requests show x", 1, "is no id of a rule request", ""},
		{"requests show", 2, "ID is missing", ""},
		{"requests approve " + requestID, 2, "standard input is no terminal", ""},
		{"requests approve " + requestID + " --yes --for 0s", 2, "at least 1s", ""},
		{"requests approve " + requestID + " --for 10", 2, "--for", ""},
		{"requests approve " + requestID + " --yes --for 10m", 0, "approved for 10m0s; 1 rule(s) loaded", "approve " + requestID + " 10m0s"},
		{"requests approve " + requestID + " --sha256 " + strings.ToUpper(hash), 0, "approved for good", "approve " + requestID + " "},
		{"requests approve " + requestID + " --sha256 " + strings.Repeat("0", 64), 1, "not the one that was shown", ""},
		{"requests approve " + requestID + " --sha256 0", 1, "sha256 is missing or no hash", ""},
		{"requests reject " + requestID, 2, "the reason is blank", ""},
		{"requests reject " + requestID + " --reason no", 0, "rejected.", "reject " + requestID + " no"},
		{"requests revoke " + requestID, 0, "2 flow(s) closed", "revoke " + requestID + " the approval was taken back"},
		{"__complete requests approve ", 0, requestID + "\tpending\nrr-00000000000b\tapproved\n", ""},
	} {
		f.kept = nil
		args := strings.Fields(tt.args)
		if strings.HasSuffix(tt.args, " ") {
			args = append(args, "")
		}
		code, out, errOut := call(t, env, args...)
		if code != tt.code || !strings.Contains(out+errOut, tt.want) {
			t.Errorf("%s: code %d, want %d with %q:\n%s%s", tt.args, code, tt.code, tt.want, out, errOut)
		}
		if got := strings.Join(f.kept, ","); got != tt.done {
			t.Errorf("%s: %q was done, want %q", tt.args, got, tt.done)
		}
		if !strings.HasSuffix(tt.args, "--json") { // JSON keeps what it holds
			harmless(t, tt.args, out+errOut)
		}
	}
	if code, _, errOut := call(t, env, "requests", "reject", requestID, "--reason", "a\nb"); code != 2 || !strings.Contains(errOut, "control characters") {
		t.Errorf("code %d, %s", code, errOut)
	}
}

// At a terminal approve shows the request and asks; only a yes approves, and
// what has changed meanwhile is not approved.
func TestApproveAsks(t *testing.T) {
	env := testEnv(t)
	f, _ := startSession(t, env, "one")
	for _, tt := range []struct {
		answer string
		change bool
		code   int
		want   string
	}{
		{"y\n", false, 0, "approved for 10m0s"}, {"YES\n", false, 0, "approved"}, {"n\n", false, 1, "still waits"}, {"\n", false, 1, "still waits"},
		{"yeah\n", false, 1, "still waits"}, {"\x04", false, 1, "still waits"}, {"y\n", true, 1, "not the one that was shown"},
	} {
		f.lines, f.kept = nil, nil
		code, text := atTerminal(t, env, func() { // when it was asked
			if tt.change {
				f.lines = []string{"# more\n"}
			}
		}, tt.answer, "requests", "approve", requestID, "--for", "10m")
		if code != tt.code || !strings.Contains(text, tt.want) || !strings.Contains(text, "[new.test]") || !strings.Contains(text, "Approve for 10m0s? [y/N] ") {
			t.Errorf("%q: code %d\n%s", tt.answer, code, text)
		}
		if done := len(f.kept) > 0; done != (tt.code == 0) {
			t.Errorf("%q: done %v", tt.answer, f.kept)
		}
	}
}

// asking is standard error; it calls back when a question comes.
type asking struct {
	text  bytes.Buffer
	asked func()
}

func (a *asking) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("[y/N]")) {
		a.asked()
	}
	return a.text.Write(p)
}

func atTerminal(t *testing.T, env session.Env, asked func(), answer string, args ...string) (int, string) {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	fmt.Fprint(master, answer)
	out := &asking{asked: asked}
	a := &app{io: stdio{slave, out, out}, env: env}
	root := a.root()
	root.SetArgs(args)
	code := a.finish(root.ExecuteContext(t.Context()))
	return code, out.text.String()
}
