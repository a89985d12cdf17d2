package policy

import "testing"

// A denied question is told of the rules that speak of its name, not of those
// that wait for another one.
func TestQuestionReason(t *testing.T) {
	const (
		cli   = "  - {id: cli, action: allow, condition: 'dns.query == \"a.test\" || network.hostname == \"a.test\" || http.host == \"a.test\" && network.port == 443'}\n"
		later = "  - {id: later, action: allow, condition: 'tls.sni == \"b.test\" && network.port == 443'}\n"
		whole = "  - {id: whole, action: allow, condition: 'network.hostname == \"b.test\"'}\n"
		port  = "  - {id: port, action: allow, condition: 'network.port == 443'}\n"
		stop  = "  - {id: stop, action: block, condition: 'domain(dns.query, \"test\")'}\n"
	)
	for _, tt := range []struct{ rules, query, want string }{
		{cli, "b.test", "no rule allows it"},
		{cli + stop, "b.test", "blocked by rule stop"},
		{cli + later, "b.test", "rule later can allow it only once network.port, tls.sni is known"},
		{cli + whole, "b.test", "rule whole can allow it only once network.hostname is known"},
		{whole + stop, "b.test", "rule whole can allow it only once network.hostname is known"},
		{cli + port, "c.test", "rule port can allow it only once network.port is known"},
		{cli + later + whole, "c.test", "no rule allows it"},
	} {
		s, err := Load([]Source{{Path: "r.yaml", Data: []byte("version: \"1\"\nrules:\n" + tt.rules)}})
		if err != nil {
			t.Fatal(err)
		}
		f := NewFacts(LayerDNS, who)
		f.SetQuestion(tt.query, "A")
		if o := s.Step(f); o.Reason != tt.want || o.Word == Allow {
			t.Errorf("%s of\n%s: %v, %q, want %q", tt.query, tt.rules, o.Word, o.Reason, tt.want)
		}
	}
}
