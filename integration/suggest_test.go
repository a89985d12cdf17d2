package integration

import (
	"fmt"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// uses is a run with several kinds of use; each fails by itself.
func uses(b *harness.Bed, t *testing.T) []string {
	return []string{
		"curl -sS --max-time 20 -o /dev/null https://api.allowed.test/",
		"curl -sS --max-time 20 -f -o /dev/null http://one.wild.test/",
		fmt.Sprintf("curl -sS --max-time 20 -o /dev/null https://two.wild.test:%d/", b.Ports.HTTPS),
		// A server that speaks first, by name; then an address that no name has.
		fmt.Sprintf("%s tcp 'x\n' git.allowed.test:%d | grep -q SSH-2.0-world", harness.Probe, b.Ports.Greet),
		fmt.Sprintf("%s tcp 'x\n' %s | grep -q '\"ok\":true'", harness.Probe, at(b.V4(t, "www.evil.test"), b.Ports.Echo)),
		harness.Probe + " dns udp 10.200.0.1:53 TXT four.allowed.test | grep -q NOERROR",
	}
}

// What is suggested from an observed run carries that run under enforce, on
// every way, without a denial; and no rule of it can be left out.
func TestSuggestedRulesCarryTheRun(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
	}{{"direct", []string{"-q", "--no-proxy"}}, {"proxy", []string{"-q"}}} {
		t.Run(c.name, func(t *testing.T) {
			b := harness.New(t)
			script := "set -e\n" + strings.Join(uses(b, t), "\n")
			seen := b.Sandbox(append(c.flags, observe...), "sh", "-c", script).Must(t, 0)
			suggested := b.Outcall("suggest", seen.Name, "--would-deny").Must(t, 0).Stdout
			mustContain(t, "suggestion", suggested, "0 of ", " attempts change verdict")
			path := b.Write("suggested.yaml", suggested)
			check := b.Outcall("rules", "check", path).Must(t, 0)
			mustLack(t, "rules check", check.Stdout+check.Stderr, "warning")

			run := b.Sandbox(append(c.flags, "--rules", path), "sh", "-c", script)
			if run.Code != 0 {
				t.Fatalf("the run fails under\n%s\n%s", suggested, run.Stderr)
			}
			for _, e := range b.Denials(t, run.Name, nil) {
				t.Errorf("denied: %s", e)
			}
			// What was allowed gives the same rules again, now by right.
			again := b.Outcall("suggest", run.Name).Must(t, 0).Stdout
			if n, m := strings.Count(again, "- id:"), strings.Count(suggested, "- id:"); n != m || n == 0 || strings.Contains(again, "observed") {
				t.Errorf("%d rules from the enforced run, %d from the observed one:\n%s\n%s", n, m, again, suggested)
			}
			rules := strings.Split(suggested, "  - id:")
			for i := 1; i < len(rules); i++ {
				less := strings.Join(append(append([]string{}, rules[:i]...), rules[i+1:]...), "  - id:")
				r := b.Sandbox(append(c.flags, "--rules", b.Write("less.yaml", less)), "sh", "-c", script)
				if r.Code == 0 {
					t.Errorf("the run needs no rule%s", rules[i])
				}
			}
		})
	}
}

// A log of allowed and denied attempts gives rules that keep both, for the
// program as for its replay.
func TestSuggestKeepsDenials(t *testing.T) {
	b := harness.New(t)
	script := "curl -sS -o /dev/null https://one.wild.test/; curl -sS -o /dev/null https://evil.test/; curl -sS -o /dev/null https://api.allowed.test/"
	first := b.Sandbox(harness.Allow(".wild.test", "api.allowed.test"), "sh", "-c", script).Must(t, 0)
	out := b.Outcall("suggest", first.Name).Must(t, 0).Stdout
	mustContain(t, "suggestion", out, "0 of 3 attempts change verdict", `"one.wild.test"`, "connect evil.test:443 by /usr/bin/curl")
	mustLack(t, "suggestion", out, `domain(`, `== "evil.test"`)
	m := b.Mark()
	second := b.Sandbox([]string{"-q", "--rules", b.Write("s.yaml", out)}, "sh", "-c",
		"curl -sS -o /dev/null https://two.wild.test/; curl -sS -o /dev/null https://evil.test/")
	for _, name := range []string{"two.wild.test", "evil.test"} {
		b.OneDenial(t, second.Name, "/curl", func(e harness.Event) bool { return e.Host == name })
	}
	b.MustBeQuiet(t, m, nil)
}
