package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// C9: what outcall-agent fetch says of a target is what the wire then does,
// under random rules, with and without the proxy. A denial may also say that it
// depends: on bytes that the question does not tell, or on which of several
// addresses a client takes.
func TestC9ShimAgreesWithTheWire(t *testing.T) {
	b := harness.New(t)
	names := []string{"four.allowed.test", "many.allowed.test", "evil.test"}
	ips := []string{b.V4(t, names[0]).String(), b.V4(t, names[2]).String(), b.V6(t, names[2]).String()}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	passed, refused, depends := 0, 0, 0
	// An allow that needs what a question lacks stands before a block that does not.
	text := fmt.Sprintf(`  - {id: a, priority: 1, action: allow, condition: 'dns.query == "evil.test" || network.hostname == "evil.test" && network.ip == "%s"'}
  - {id: b, priority: 2, action: block, condition: 'http.scheme == "https" && network.port == 443'}
`, ips[1])
	for round := range 7 {
		// process.* is the asking shim's own there, and curl's on the wire.
		if round > 0 {
			text = strings.ReplaceAll(randomRules(r, names, ips), `process.name == "curl"`, `network.port == 443`)
		}
		flags := []string{"-q", "--rules", b.Rules("random.yaml", text)}
		if round%2 == 0 {
			flags = append(flags, "--no-proxy")
		}
		var targets []string
		var script strings.Builder
		for _, n := range names {
			for _, target := range []string{"https://" + n + "/p", "http://" + n + "/p", "http://" + n + "/q?x=1", n + ":" + port(b.Ports.Echo)} {
				wire := "curl -sS -f -o /dev/null --max-time 10 " + target
				if !strings.Contains(target, "://") {
					wire = harness.Probe + " bytes " + target + " 45484c4f20780d0a | grep -q '\"ok\":true'"
				}
				targets = append(targets, target)
				fmt.Fprintf(&script, "say=$(outcall-agent fetch %s 2>&1); c=$?; %s 2>/dev/null; w=$?; echo \"$c $((w != 0)) $say\"\n", target, wire)
			}
		}
		res := b.Sandbox(flags, "sh", "-c", script.String()).Must(t, 0)
		lines := strings.Split(strings.TrimSpace(res.Stdout), "\n")
		if len(lines) != len(targets) {
			t.Fatalf("%d answers: %q %s", len(lines), lines, res.Stderr)
		}
		for i, target := range targets {
			said, rest, _ := strings.Cut(lines[i], " ")
			wire, why, _ := strings.Cut(rest, " ")
			switch {
			case strings.Contains(why, "it depends on"):
				depends++
				continue
			case wire == "0":
				passed++
			default:
				refused++
			}
			if said != wire {
				t.Errorf("seed %d, %v: %s: the shim ended with %s (%s), the wire with %s\n%s", seed, flags, target, said, why, wire, text)
			}
		}
	}
	t.Logf("seed %d: %d passed, %d refused, %d depended", seed, passed, refused, depends)
	if refused == 0 || passed+depends == 0 {
		t.Errorf("seed %d: nothing was decided: %d passed, %d refused, %d depended", seed, passed, refused, depends)
	}
}
