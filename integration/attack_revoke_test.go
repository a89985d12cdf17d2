package integration

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// keptSpecs are a connection of each kind to a name, over each family, as the
// probe's keep wants them.
func keptSpecs(b *harness.Bed, name string) []string {
	var specs []string
	for _, family := range []string{"4", "6"} {
		for kind, p := range map[string]uint16{"raw": b.Ports.Echo, "http": 80, "https": 443, "ws": 80} {
			specs = append(specs, fmt.Sprintf("%s,%s,%s,%d", kind, family, name, p))
		}
	}
	for kind, p := range map[string]uint16{"absolute": 80, "tunnel": 443, "tunnelraw": b.Ports.Echo} {
		specs = append(specs, fmt.Sprintf("%s,,%s,%d", kind, name, p))
	}
	return specs
}

// A keeper is a session with open connections.
type keeper struct {
	*harness.Proc
	t    *testing.T
	in   io.WriteCloser
	told int // lines read so far
}

// keep opens one connection for each spec; all must be had.
func keep(t *testing.T, b *harness.Bed, flags, specs []string) *keeper {
	t.Helper()
	cmd, name := b.SandboxCommand(flags, append([]string{harness.Probe, "keep"}, specs...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{Proc: b.Start(cmd), t: t, in: in}
	k.Name = name
	k.WaitFor("kept\n")
	for _, l := range k.lines() {
		if !l.OK {
			t.Fatalf("not opened: %+v", l)
		}
	}
	return k
}

// lines returns the attempts since the last call.
func (k *keeper) lines() []harness.Line {
	all := harness.Result{Stdout: k.Output()}.Lines(k.t)
	fresh := all[k.told:]
	k.told = len(all)
	return fresh
}

// do has every connection do one thing, and returns what came of it.
func (k *keeper) do(what string) map[string]harness.Line {
	k.t.Helper()
	fmt.Fprintln(k.in, what)
	k.WaitFor("did " + what + "\n")
	out := map[string]harness.Line{}
	for _, l := range k.lines() {
		out[l.Target] = l
	}
	return out
}

// end closes all.
func (k *keeper) end() {
	k.in.Close()
	k.Wait()
}

// mustLive demands that exactly the connections that shall live do, and that
// nothing of a dead one gets out.
func (k *keeper) mustLive(b *harness.Bed, round int, live func(spec string) bool) {
	k.t.Helper()
	m, word := b.Mark(), fmt.Sprintf("Round-%d", round)
	closed, sent := k.do("closed"), k.do("send "+word)
	for spec, l := range closed {
		if l.OK == live(spec) {
			k.t.Errorf("%s: shall live: %v; waiting for its end gave %+v", spec, live(spec), l)
		}
		own := word + "." + strings.ReplaceAll(spec, ",", ".")
		if s := sent[spec]; s.OK != live(spec) || s.OK && !strings.Contains(s.Data, own) {
			k.t.Errorf("%s: shall live: %v; an exchange gave %+v", spec, live(spec), s)
		}
		for _, f := range b.Since(k.t, m) {
			if !live(spec) && strings.Contains(string(f.Payload), own) {
				k.t.Errorf("%s is dead, and this got out: %s", spec, f)
			}
		}
	}
}

// denied counts the denials by reload since the lines before, which are all
// with the rule and the process.
func (k *keeper) denied(b *harness.Bed, rule string, before int) int {
	k.t.Helper()
	all := b.Denials(k.t, k.Name, nil)
	// A busy machine may be too slow to find a process while its SYN waits.
	nameless := map[string]bool{}
	for _, e := range b.Events(k.t, k.Name) {
		if e.Verdict == "allow" && e.Process == nil {
			nameless[e.ID] = true
		}
	}
	ids := map[string]bool{}
	for _, e := range all[before:] {
		known := e.Process != nil && strings.HasSuffix(e.Process.Exe, "/probe") || nameless[e.ID]
		if e.Rule != rule || !known || !strings.Contains(e.Reason, "rules were reloaded") || e.Count > 1 || ids[e.ID] {
			k.t.Errorf("denial after the reload: %s", e)
		}
		ids[e.ID] = true
	}
	return len(all)
}

// Invariant 7: a flow that a reload denies is closed, on every way, and one
// that it allows lives on.
func TestRevocationClosesLiveFlows(t *testing.T) {
	b := harness.New(t)
	const dying, living = "git.allowed.test", "api.allowed.test"
	file := b.Rules("r.yaml", allowRule(dying)+allowRule(living))
	specs := append(keptSpecs(b, dying), keptSpecs(b, living)...)
	k := keep(t, b, []string{"-q", "--rules", file}, specs)
	all := func(string) bool { return true }
	k.mustLive(b, 1, all)
	reload := func(items string) {
		t.Helper()
		b.Rules("r.yaml", items)
		b.Outcall("--session", k.Name, "rules", "reload").Must(t, 0)
	}
	reload(allowRule(living) + allowRule(dying))
	k.mustLive(b, 2, all)
	if n := k.denied(b, "", 0); n != 0 {
		t.Errorf("%d denials by an equal set", n)
	}

	reload(blockRule(dying) + allowRule(living) + allowRule(dying))
	k.mustLive(b, 3, func(spec string) bool { return strings.Contains(spec, living) })
	n := k.denied(b, "not-that", 0)
	if want := len(specs) / 2; n != want {
		t.Errorf("%d denials of %d flows", n, want)
	}

	// A block on what only some of the bytes had ends those flows alone.
	reload("  - id: not-tls\n    priority: 1\n    condition: 'tls.sni == \"" + living + "\"'\n    action: block\n" + allowRule(living))
	isTLS := func(spec string) bool { return strings.HasPrefix(spec, "https") || strings.HasPrefix(spec, "tunnel,") }
	k.mustLive(b, 4, func(spec string) bool { return strings.Contains(spec, living) && !isTLS(spec) })
	if n2 := k.denied(b, "not-tls", n); n2 != n+3 {
		t.Errorf("%d denials of 3 flows", n2-n)
	}

	// And without its allow nothing lives.
	n = len(b.Denials(t, k.Name, nil))
	reload(allowRule("evil.test"))
	k.mustLive(b, 5, func(string) bool { return false })
	k.denied(b, "default policy", n)
	k.end()
	ended := map[string]int{}
	for _, e := range b.Events(t, k.Name) {
		if e.Event == "end" {
			ended[e.ID]++
		}
	}
	for _, e := range b.Denials(t, k.Name, nil) {
		if ended[e.ID] != 1 {
			t.Errorf("%d end lines of the revoked flow %s", ended[e.ID], e)
		}
	}
}

// Flows that are relayed unread, by a literal address and by direct_ip, have
// no bytes to be judged again by; the reload closes them all the same.
func TestRevocationOfUnreadFlows(t *testing.T) {
	b := harness.New(t)
	const granted, living = "git.allowed.test", "api.allowed.test"
	echo := port(b.Ports.Echo)
	a4, a6 := b.V4(t, "evil.test"), b.V6(t, "evil.test")
	literal := fmt.Sprintf("  - id: literal\n    condition: 'network.ip in [%q, %q] && network.port == %s'\n    action: allow\n", a4, a6, echo)
	direct := fmt.Sprintf("  - id: direct\n    condition: 'dns.query == %q'\n    action: allow\n    egress: {mode: direct_ip, ports: [%s]}\n", granted, echo)
	file := b.Rules("r.yaml", literal+direct+allowRule(living))
	var specs []string
	for family, addr := range map[string]string{"4": a4.String(), "6": a6.String()} {
		for _, host := range []string{addr, granted, living} {
			specs = append(specs, fmt.Sprintf("raw,%s,%s,%s", family, host, echo))
		}
		specs = append(specs, "tunnelraw,,"+addr+","+echo)
	}
	k := keep(t, b, []string{"-q", "--rules", file}, specs)
	is := func(host string) func(string) bool {
		return func(spec string) bool { return strings.Contains(spec, host) }
	}
	k.mustLive(b, 1, func(string) bool { return true })

	b.Rules("r.yaml", literal+allowRule(living))
	b.Outcall("--session", k.Name, "rules", "reload").Must(t, 0)
	k.mustLive(b, 2, func(spec string) bool { return !is(granted)(spec) })
	n := k.denied(b, "default policy", 0)

	b.Rules("r.yaml", "  - id: not-there\n    priority: 1\n    condition: '!domain(network.hostname, \"allowed.test\")'\n    action: block\n"+literal+allowRule(living))
	b.Outcall("--session", k.Name, "rules", "reload").Must(t, 0)
	k.mustLive(b, 3, is(living))
	if n2 := k.denied(b, "not-there", n); n != 2 || n2 != 2+4 {
		t.Errorf("%d and %d denials, not 2 and 4", n, n2-n)
	}
	k.end()
}
