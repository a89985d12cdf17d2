package policy

import (
	"strings"
	"testing"
)

// What cannot be evaluated is told, whatever the word is: an allow does not
// match by it, a block does (C5, C6).
func TestC5FailureIsTold(t *testing.T) {
	const bomb = `http.path.split("").all(a, http.path.split("").all(b, http.path.split("").all(c, a == b || b == c || a == c)))`
	long := HTTP{Host: "a.test", Method: "GET", Path: "/" + strings.Repeat("x", 60_000), Headers: map[string]string{}}
	short := HTTP{Host: "a.test", Method: "GET", Path: "/x", Headers: map[string]string{}}
	for _, c := range []struct {
		name  string
		rules []string
		head  HTTP
		word  Word
		rule  string // that failed, "" for none
		limit bool
	}{
		{"an allow that fails", []string{`allow http.headers["k"] == "v"`, `allow http.host == "a.test"`}, short, Allow, "r0", false},
		{"a block that fails", []string{`block http.headers["k"] == "v"`, `allow true`}, short, Deny, "r0", false},
		{"a block that fails behind a name that is another", []string{`block http.host == "b.test" && http.headers["k"] == "v"`, `allow true`}, short, Allow, "", false},
		{"division by zero", []string{`allow 1 / http.body_size == 1`}, short, Deny, "r0", false},
		{"a list's end", []string{`allow http.path.split("/")[7] == "x"`}, short, Deny, "r0", false},
		{"a cost bomb as an allow", []string{`allow ` + bomb}, long, Deny, "r0", true},
		{"a cost bomb as a block", []string{`block ` + bomb, `allow true`}, long, Deny, "r0", true},
		{"a pattern over a long path", []string{`allow http.path.matches("` + strings.Repeat("x?", 200) + `y")`}, long, Deny, "r0", true},
		{"a failing allow after the one that decides", []string{`allow true`, `allow http.headers["k"] == "v"`}, short, Allow, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := rules(t, c.rules...).Step(requestFacts(pub, 80, c.head))
			if o.Word != c.word || (o.Failed == nil) != (c.rule == "") {
				t.Fatalf("got %s (%s), failed %+v", o.Word, o.Reason, o.Failed)
			}
			if o.Failed == nil {
				return
			}
			if o.Failed.Rule.ID != c.rule || o.Failed.Limit != c.limit || o.Failed.Why == "" {
				t.Errorf("failed %s, limit %v: %s", o.Failed.Rule.ID, o.Failed.Limit, o.Failed.Why)
			}
			e := FailureEvent(LayerRequest, o.Failed)
			if e.Event != "policy" || e.Rule != c.rule || e.Layer != "request" || len(e.Reason) > maxWhy+100 {
				t.Errorf("the event is %+v", e)
			}
		})
	}
}

// A panic in CEL's reach is an error of the rule, not the end of the program.
func TestPanicIsAFailure(t *testing.T) {
	s := rules(t, `allow http.headers["k"] == "v"`)
	f := requestFacts(pub, 80, HTTP{Host: "a.test", Method: "GET", Path: "/"})
	f.val[HTTPHeaders] = nil // as no setter leaves it
	if o := s.Step(f); o.Word != Deny || o.Failed == nil {
		t.Errorf("got %s, failed %+v", o.Word, o.Failed)
	}
}

// Expressions are counted while they run only where their input can make them
// dear.
func TestCostIsEstimated(t *testing.T) {
	env, err := newEnv()
	if err != nil {
		t.Fatal(err)
	}
	many := `size([` + strings.Repeat(`http.path == tls.sni, `, 40) + `true]) > 3`
	for text, want := range map[string]bool{
		`http.headers["k"] == "v"`:                 false,
		`http.host == tls.sni`:                     false,
		`"-k" in process.args`:                     false,
		`http.path.matches("^/x")`:                 true,
		`process.args.exists(a, a == "-k")`:        true,
		`http.path.replace("a", "b") == http.host`: true,
		many: true,
	} {
		native, bad := checkCondition(env, text)
		if bad != nil {
			t.Fatalf("%s: %v", text, bad)
		}
		if got := needsLimit(native.Expr()); got != want {
			t.Errorf("%s: under the limit %v, want %v", text, got, want)
		}
	}
}
