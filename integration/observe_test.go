package integration

import (
	"fmt"
	"strings"
	"testing"

	"outcall/integration/harness"
)

var observe = []string{"--mode", "observe"}

// verdicts counts the verdict lines of a session by layer and word.
func verdicts(t *testing.T, b *harness.Bed, session string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, e := range b.Events(t, session) {
		if e.Event == "verdict" {
			out[e.Layer+" "+e.Verdict]++
		}
	}
	return out
}

// Without any rule, observe lets TLS, plain HTTP and what is neither through,
// by name and by address, with and without the proxy; each is noted as what
// enforce would have denied, and both banner and summary say so.
func TestObserveLetsThroughWhatRulesDeny(t *testing.T) {
	b := harness.New(t)
	script := fmt.Sprintf(`set -e
curl -sS --max-time 20 https://evil.test/
curl -sS --max-time 20 http://evil.test/
%s tcp 'hello
' %s`, harness.Probe, at(b.V4(t, "evil.test"), b.Ports.Echo))
	for _, c := range []struct {
		name  string
		flags []string
		want  []string
	}{
		{"direct", []string{"--no-proxy"}, []string{"dns", "flow", "hello", "request"}},
		{"proxy", nil, []string{"connect", "hello", "request", "flow"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := b.Sandbox(append(c.flags, observe...), "sh", "-c", script).Must(t, 0)
			mustContain(t, "output", r.Stdout, "origin evil.test /", "hello")
			mustContain(t, "banner and summary", r.Stderr, "OBSERVE: what a rule would deny is let through", "0 rules",
				"would deny", "evil.test", "no rule allows it", "--allow evil.test")
			mustLack(t, "summary", r.Stderr, "outcall: denied")
			got := verdicts(t, b, r.Name)
			for _, layer := range c.want {
				if got[layer+" would_deny"] == 0 {
					t.Errorf("no would_deny at %s: %v", layer, got)
				}
			}
			for word, n := range got {
				if !strings.HasSuffix(word, " would_deny") {
					t.Errorf("%d × %s, though no rule is there", n, word)
				}
			}
			for _, e := range b.Events(t, r.Name) {
				if e.Verdict == "would_deny" && (e.Rule != "default policy" || e.Reason == "" || e.Structural || e.ID == "") {
					t.Errorf("would_deny without rule, reason or id, or structural: %s", e)
				}
			}
		})
	}
}

// What an explicit block denies passes, too, under the rule's name; what the
// rules allow stays an allow.
func TestObserveNamesTheRule(t *testing.T) {
	b := harness.New(t)
	rules := b.Rules("observe.yaml", "  - id: no-evil\n    condition: 'dns.query == \"evil.test\" || http.host == \"evil.test\"'\n    action: block\n"+
		allowRule("api.allowed.test"))
	for _, flags := range [][]string{{"--no-proxy"}, nil} {
		r := b.Sandbox(append(append(flags, observe...), "--rules", rules), "sh", "-c",
			"curl -sS https://evil.test/ && curl -sS https://api.allowed.test/").Must(t, 0)
		mustContain(t, "summary", r.Stderr, "would deny", "no-evil", "evil.test")
		mustLack(t, "summary", r.Stderr, "api.allowed.test")
		for _, e := range b.Events(t, r.Name) {
			about := e.Query + e.Host
			switch {
			case e.Event != "verdict":
			case about == "evil.test" && e.Verdict != "would_deny", about == "api.allowed.test" && e.Verdict != "allow",
				about == "evil.test" && e.Layer != "flow" && e.Rule != "no-evil": // a first packet has no Host yet
				t.Errorf("%s", e)
			}
		}
	}
}

// Structural denials hold in observe as ever: nothing of them arrives.
func TestObserveKeepsStructuralDenials(t *testing.T) {
	b := harness.New(t)
	api, evil := b.V4(t, "api.allowed.test"), b.V4(t, "evil.test")
	flags := append(harness.Allow("api.allowed.test"), observe...)
	flags = append(flags, "--no-proxy")

	// A name in the bytes that was not resolved to the address.
	for _, c := range [][]string{
		{"--resolve", "evil.test:443:" + api.String(), "https://evil.test/"},
		{"--resolve", "evil.test:443:" + evil.String(), "https://evil.test/"},
		{"-f", "-H", "Host: evil.test", "http://api.allowed.test/"},
	} {
		r := b.Sandbox(flags, curl(c...)...)
		if r.Code == 0 {
			t.Errorf("%v passed: %s", c, r.Stdout)
		}
		b.SomeDenial(t, r.Name, func(e harness.Event) bool { return e.Structural })
	}
	for _, q := range b.Origins.Requests() {
		if q.Host == "evil.test" {
			t.Errorf("a request arrived: %+v", q)
		}
	}
	for _, h := range b.Origins.Hellos() {
		if h.SNI == "evil.test" {
			t.Errorf("a ClientHello arrived: %+v", h)
		}
	}

	// Addresses that no mode opens.
	k := b.Canary(t)
	m := b.Mark()
	closed := []string{"169.254.169.254:80", "10.1.2.3:80", "10.200.0.1:22", "[fd00:ec2::254]:80", "127.0.0.2:22"}
	r, lines := b.Attempts(flags, append([]string{"udp", k.Word}, closed...)...)
	for _, l := range lines {
		if l.OK {
			t.Errorf("a restricted address answered over UDP: %+v", l)
		}
	}
	r2, lines := b.Attempts(flags, append([]string{"tcp", k.Word}, closed...)...)
	for _, l := range lines {
		if l.OK {
			t.Errorf("a restricted address answered: %+v", l)
		}
	}
	for _, name := range []string{r.Name, r2.Name} {
		b.SomeDenial(t, name, func(e harness.Event) bool { return e.Structural })
		if n := verdicts(t, b, name)["flow would_deny"]; n > 0 {
			t.Errorf("%d structural denials are told as would_deny", n)
		}
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
}

// The kernel passes every unrestricted address by one rule with a counter of
// its own, and the restricted ones stand in sets; enforce has neither.
func TestObserveTable(t *testing.T) {
	b := harness.New(t)
	addr := at(b.V4(t, "evil.test"), b.Ports.Echo)
	script := harness.Probe + " tcp x " + addr + "; echo ready; exec sleep 1000"
	p := b.StartSandbox(append([]string{"-q", "--no-proxy"}, observe...), "sh", "-c", script)
	p.WaitFor("ready")
	table := b.Outcall("bridge", "nft", "--session", p.Name).Must(t, 0).Stdout
	mustContain(t, "table", table, "counter observed", `counter name "observed" accept`, "169.254.0.0/16", "10.0.0.0/8")
	mustLack(t, "table: the counter of what passed", table, "counter observed {\n\t\tpackets 0 ")
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()

	p = b.StartSandbox([]string{"-q"}, "sh", "-c", "echo ready; exec sleep 1000")
	p.WaitFor("ready")
	mustLack(t, "table under enforce", b.Outcall("bridge", "nft", "--session", p.Name).Must(t, 0).Stdout, "observed")
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()
}

// A reload in observe keeps what passes, and an allow of the new rules is one.
func TestObserveReload(t *testing.T) {
	b := harness.New(t)
	rules := b.Rules("r.yaml", allowRule("api.allowed.test"))
	script := `curl -sS https://evil.test/; echo one; until [ -e go ]; do sleep 0.1; done; curl -sS https://evil.test/; echo two`
	p := b.StartSandbox(append([]string{"--rules", rules}, observe...), "sh", "-c", script)
	p.WaitFor("one")
	b.Rules("r.yaml", allowRule("evil.test"))
	b.Outcall("rules", "reload", "--session", p.Name).Must(t, 0)
	b.Write("work/go", "")
	r := p.Wait().Must(t, 0)
	mustContain(t, "output", r.Stdout, "one", "two")
	if got := verdicts(t, b, p.Name); got["connect would_deny"] == 0 || got["connect allow"] == 0 {
		t.Errorf("verdicts before and after the reload: %v", got)
	}
}
