package policy

import "testing"

// A block that the wire judges, too, does not decide about a network call at
// the run layer: there an allow that stands before it may lack facts that the
// wire has.
func TestStepCall(t *testing.T) {
	const early = "  - id: early\n    priority: 0\n    action: allow\n    condition: 'network.hostname == \"a.test\" && network.ip == \"93.184.216.34\"'\n"
	block := func(condition string) string {
		return "version: \"1\"\nrules:\n" + early + "  - id: b\n    priority: 1\n    action: block\n    condition: '" + condition + "'\n"
	}
	for condition, denied := range map[string]bool{
		`http.scheme == "https"`:     false,
		`network.port == 443`:        false,
		`dns.query != "b.test"`:      false,
		`true`:                       false,
		`run.tool == "network_call"`: true,
		`run.tool != "git"`:          true,
		`run.context == {}`:          true,
		`"https://a.test/" in run.args && network.port == 443`:     true,
		`process.name == "curl"`:                                   true,
		`process.name != "git" && http.host == "a.test"`:           true,
		`run.tool == "git"`:                                        false,
		`http.scheme == "https" || run.cwd.startsWith("/secrets")`: true,
	} {
		s, err := Load([]Source{{Path: "r.yaml", Data: []byte(block(condition))}})
		if err != nil {
			t.Fatal(err)
		}
		f := NewFacts(LayerRun, who)
		f.SetRun(Run{Tool: "network_call", Args: []string{"https://a.test/"}})
		f.SetCall(Call{Host: "a.test", Port: 443, Proto: TCP, Scheme: "https", HTTP: &HTTP{Method: "GET", Path: "/"}})
		f.SetProcess(&Process{Exe: "/usr/bin/curl"})
		if o := s.StepCall(f); (o.Word == Deny && o.Rule != nil) != denied {
			t.Errorf("%s: %v by %q, want denied %v", condition, o.Word, o.RuleID(), denied)
		}
	}
}
