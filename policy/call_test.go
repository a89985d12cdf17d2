package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseCall(t *testing.T) {
	for _, tt := range []struct {
		text   string
		proto  Proto
		target string // "" is an error
		host   string
		port   uint16
	}{
		{"https://API.test/p?q=1#f", TCP, "https://api.test:443/p?q=1", "api.test", 443},
		{"http://api.test:8080", TCP, "http://api.test:8080/", "api.test", 8080},
		{"HTTPS://api.test.", TCP, "https://api.test:443/", "api.test", 443},
		{"api.test", TCP, "https://api.test:443/", "api.test", 443},
		{"api.test:80", TCP, "http://api.test:80/", "api.test", 80},
		{"api.test:22", TCP, "tcp://api.test:22", "api.test", 22},
		{"api.test:53", UDP, "udp://api.test:53", "api.test", 53},
		{"[2001:db8::1]:22", TCP, "tcp://[2001:db8::1]:22", "2001:db8::1", 22},
		{"2001:db8::1", TCP, "https://[2001:db8::1]:443/", "2001:db8::1", 443},
		{"[2001:db8::1]", UDP, "udp://[2001:db8::1]:443", "2001:db8::1", 443},
		{"192.0.2.1:25", TCP, "tcp://192.0.2.1:25", "192.0.2.1", 25},
		{"https://u:p@api.test/", TCP, "", "", 0},
		{"ftp://api.test/", TCP, "", "", 0},
		{"tcp://api.test:22", TCP, "", "", 0},
		{"dns://api.test", TCP, "", "", 0},
		{"api.test:0", TCP, "", "", 0},
		{"api.test:65616", TCP, "", "", 0},
		{"https://api.test:0/", TCP, "", "", 0},
		{"api .test", TCP, "", "", 0},
		{"https://api.test/a b", TCP, "", "", 0},
		{"api.test\x00", TCP, "", "", 0},
		{"127.1:80", TCP, "", "", 0},
		{"https://0x7f.1/", TCP, "", "", 0},
		{"", TCP, "", "", 0},
		{strings.Repeat("a.", 130) + "test", TCP, "", "", 0},
	} {
		c, target, err := ParseCall(tt.text, tt.proto, "GET")
		if tt.target == "" {
			if err == nil {
				t.Errorf("%q was taken: %+v %s", tt.text, c, target)
			}
			continue
		}
		if err != nil || target != tt.target || c.Host != tt.host || c.Port != tt.port || c.Proto != tt.proto {
			t.Errorf("%q: %+v, %q, %v; want %s", tt.text, c, target, err, tt.target)
		}
	}
	c, _, err := ParseCall("http://api.test/p?q", TCP, "POST")
	if err != nil || c.HTTP == nil || c.HTTP.Method != "POST" || c.HTTP.Path != "/p" || c.HTTP.Query != "q" || c.Scheme != "http" {
		t.Errorf("%+v %v", c, err)
	}
}

func TestExplainAsksWithTheMethod(t *testing.T) {
	snap, err := Load([]Source{{Path: "r.yaml", Data: []byte("version: \"1\"\nrules:\n  - id: get\n    action: allow\n" +
		"    condition: 'dns.query == \"a.test\" || http.host == \"a.test\" && http.method == \"GET\"'\n")}})
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]string{"": VerdictAllow, "GET": VerdictAllow, "POST": VerdictDeny} {
		x, err := snap.Explain(ExplainQuery{Target: "http://a.test/", Method: method})
		if err != nil || x.Verdict != want {
			t.Errorf("method %q: %v, %v, want %s", method, x, err, want)
		}
	}
}

func TestSmallestRun(t *testing.T) {
	snap, err := Load([]Source{{Path: "r.yaml", Data: []byte("version: \"1\"\nrules:\n  - id: no-rm\n    action: block\n    condition: 'run.tool == \"rm\"'\n")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Run{{Tool: "git"}, {Tool: `it's "x"\`}, {Tool: "file", Args: []string{"/etc/o'clock"}}, {Tool: "é\x01\u2028"}} {
		rule, advice := snap.SmallestRun(Who{Agent: "a"}, r)
		with, err := Load([]Source{{Path: "x", Data: []byte(rule)}})
		if err != nil || advice != "a rule file" {
			t.Errorf("%q: %v, %q\n%s", r, err, advice, rule)
			continue
		}
		f := NewFacts(LayerRun, Who{})
		f.SetRun(r)
		if o := with.Step(f); o.Word != Allow {
			t.Errorf("%q is not allowed by\n%s", r, rule)
		}
	}
	if rule, advice := snap.SmallestRun(Who{}, Run{Tool: "rm"}); rule != "" || !strings.Contains(advice, "the block no-rm stands before it") {
		t.Errorf("%q %q", rule, advice)
	}
}

func TestCheckRequest(t *testing.T) {
	active, err := Load([]Source{{Path: "r.yaml", Data: []byte("version: \"1\"\nrules:\n  - id: here\n    action: allow\n    condition: 'dns.query == \"a.test\"'\n")}})
	if err != nil {
		t.Fatal(err)
	}
	rule := func(body string) string { return "version: \"1\"\nrules:\n  - id: new\n    action: allow\n" + body }
	good := rule("    condition: 'dns.query == \"b.test\" || http.host == \"b.test\"'\n")
	if _, err := CheckRequest([]byte(good), active); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"":                                  "version",
		"version: \"1\"\nrules: []\n":       "no rules",
		rule("    condition: 'nonsense'\n"): "undefined identifier",
		rule("    condition: 'true'\n    priority: -1\n"):                                                                         "negative priority",
		rule("    condition: 'process.exe == \"/x\"'\n"):                                                                          "process.*",
		rule("    condition: 'dns.query == \"b.test\"'\n    egress: {mode: direct_ip}\n"):                                         "direct_ip",
		rule("    condition: 'dns.query == \"b.test\"'\n    egress: {mode: proxy, allow_private_ips: true}\n"):                    "allow_private_ips",
		"version: \"1\"\nrules:\n  - id: here\n    action: allow\n    condition: 'dns.query == \"b.test\"'\n":                     "already active",
		"version: \"1\"\nrules:\n  - id: x\n    action: allow\n    priority: -2147483648\n    condition: 'true'\n":                "negative priority",
		rule("    condition: 'http.host == \"\u0430pple.test\"'\n"):                                                               `"\u0430pple.test" is not in punycode, and so never asked for: write xn--pple-43d.test`,
		"version: \"1\"\ndefinitions:\n  p: 'process.name == \"x\"'\nrules:\n  - id: x\n    action: allow\n    condition: '$p'\n": "process.*",
	} {
		if _, err := CheckRequest([]byte(text), active); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", text, err, want)
		}
	}
}

// A few lines of a request can define conditions that would take minutes
// and much memory to compile; an operator's own file may be as large.
func TestRequestExpands(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: \"1\"\ndefinitions:\n  a0: 'dns.query == \"x\"'\n")
	for i := 1; i < 13; i++ {
		fmt.Fprintf(&b, "  a%d: '$a%d || $a%d'\n", i, i-1, i-1)
	}
	b.WriteString("rules:\n")
	for i := range 16 {
		fmt.Fprintf(&b, "  - {id: r%d, condition: '$a12 && network.port == %d', action: allow}\n", i, i+1)
	}
	_, err := CheckRequest([]byte(b.String()), nil)
	if err == nil || !strings.Contains(err.Error(), "larger than 524288 bytes in all") || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("%d bytes of text: %v", b.Len(), err)
	}
}
