package netstack

import (
	"bufio"
	"strings"
	"testing"

	"outcall/policy"
)

// A rule that cannot be evaluated blocks, is told beside the verdict, and
// nothing of the request arrives.
func TestFailureIsTold(t *testing.T) {
	b, srv, dst := webBed(t, rule("broken", "block", `http.headers["x-none"] == "v"`)+rule("a", "allow", allowA))
	c := b.connect(dst)
	if code, _, _ := ask(t, c, bufio.NewReader(c), "GET", "GET /canary HTTP/1.1\r\nHost: a.test\r\n\r\n"); code != 403 {
		t.Errorf("answered %d, want 403", code)
	}
	if got := srv.text(); strings.Contains(got, "canary") {
		t.Errorf("arrived: %q", got)
	}
	if _, n, _ := b.log.find(func(e policy.Event) bool { return e.Event == "policy" && e.Rule == "broken" && e.Layer == "request" }); n == 0 {
		t.Error("no event tells of the rule")
	}
}
