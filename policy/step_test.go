package policy

import "testing"

const pub = "93.184.216.34"

func TestStepWords(t *testing.T) {
	get := HTTP{Host: "a.test", Method: "GET", Path: "/x", BodySize: 0}
	for _, c := range []struct {
		name  string
		rules []string
		f     *Facts
		want  Word
	}{
		{"the empty set denies", nil, dnsFacts("a.test", "A"), Deny},
		{"a true allow", []string{`allow dns.query == "a.test"`}, dnsFacts("a.test", "A"), Allow},
		{"another name", []string{`allow dns.query == "a.test"`}, dnsFacts("b.test", "A"), Deny},
		{"an allow that waits is open", []string{`allow http.host == "a.test"`}, flowFacts(pub, 443, TCP), Open},
		{"an allow on an absent field is no match", []string{`allow dns.query != "x"`}, flowFacts(pub, 443, TCP), Deny},
		{"!= on an absent field does not allow", []string{`allow http.host != "evil.test"`}, rawFacts(pub, 443, TCP, ""), Deny},
		{"has() on an absent field does not allow", []string{`allow !has(http.host)`}, rawFacts(pub, 443, TCP, ""), Deny},
		{"a waiting block makes it provisional", []string{`block tls.sni == "evil.test"`, `allow network.port == 443`}, flowFacts(pub, 443, TCP), Provisional},
		{"a block after the allow is not asked", []string{`allow network.port == 443`, `block tls.sni == "evil.test"`}, flowFacts(pub, 443, TCP), Allow},
		{"an absent field is empty in a block", []string{`block tls.sni == ""`, `allow true`}, rawFacts(pub, 443, TCP, ""), Deny},
		{"a block on an absent field does not match", []string{`block dns.query == "a.test"`, `allow true`}, rawFacts(pub, 443, TCP, ""), Allow},
		{"a hidden field matches in a block", []string{`block http.path == "/x"`, `allow true`}, helloFacts(pub, 443, "a.test"), Deny},
		{"a hidden field behind a false one does not", []string{`block http.host == "b.test" && http.path == "/x"`, `allow true`}, helloFacts(pub, 443, "a.test"), Allow},
		{"parts of a block are blocks of their own", []string{`block process.exe == "/x" || tls.sni == "y"`, `allow true`}, flowFacts(pub, 443, TCP), Deny},
		{"an error is a match for a block", []string{`block http.headers["x"] == "1"`, `allow true`}, requestFacts(pub, 80, get), Deny},
		{"an error is no match for an allow", []string{`allow http.headers["x"] != "1"`}, requestFacts(pub, 80, get), Deny},
		{"an open allow before a true block", []string{`allow tls.sni == "a.test"`, `block true`}, flowFacts(pub, 443, TCP), Open},
		{"a true block before an open allow", []string{`block true`, `allow tls.sni == "a.test"`}, flowFacts(pub, 443, TCP), Deny},
		{"ports bind at flow", []string{`allow network.ip == "93.184.216.34" @ ports: [443]`}, flowFacts(pub, 22, TCP), Deny},
		{"ports do not bind at dns", []string{`allow dns.query == "a.test" @ ports: [443]`}, dnsFacts("a.test", "A"), Allow},
		{"ICMP is on no port", []string{`allow true @ ports: [443]`}, flowFacts(pub, 0, ICMP), Deny},
		{"ICMP without ports", []string{`allow network.protocol == "icmp"`}, flowFacts(pub, 0, ICMP), Allow},
		{"an unusual DNS type needs a rule on types", []string{`allow dns.query == "a.test"`}, dnsFacts("a.test", "TXT"), Deny},
		{"a rule on types", []string{`allow dns.query == "a.test" && dns.record_type == "TXT"`}, dnsFacts("a.test", "TXT"), Allow},
		{"domain on label boundaries", []string{`allow domain(dns.query, "a.test")`}, dnsFacts("evila.test", "A"), Deny},
		{"domain below", []string{`allow domain(dns.query, "a.test")`}, dnsFacts("x.a.test", "A"), Allow},
		{"cidr", []string{`allow cidr("93.184.216.0/24").contains(network.ip)`}, flowFacts(pub, 1, UDP), Allow},
		{"cidr elsewhere", []string{`allow cidr("93.184.216.0/24").contains(network.ip)`}, flowFacts("8.8.8.8", 1, UDP), Deny},
		{"unknown in an empty list stays unknown", []string{`allow !(http.host in [])`}, rawFacts(pub, 1, TCP, ""), Deny},
		{"http.path at request", []string{`allow http.path.startsWith("/x")`}, requestFacts(pub, 80, get), Allow},
		{"http.headers may be asked for by has", []string{`block has(http.headers.x)`, `allow true`}, requestFacts(pub, 80, get), Allow},
	} {
		t.Run(c.name, func(t *testing.T) {
			if o := rules(t, c.rules...).Step(c.f); o.Word != c.want {
				t.Errorf("got %s (%s), want %s", o.Word, o.Reason, c.want)
			}
		})
	}
}
