package integration

import (
	"os"
	"testing"

	"outcall/integration/harness"
)

// K7: two sessions in one directory. The second knows nothing of the first
// one's --rules, and must not write them all the same.
func TestK7RulesOfAnotherSession(t *testing.T) {
	b := harness.New(t)
	mine := b.Write("work/policy.yaml", "version: \"1\"\nrules:\n"+allowRule("api.allowed.test"))
	dir := b.Write("work/more/b.yaml", "version: \"1\"\nrules: []\n")
	files := []string{mine, dir}
	before := hashes(t, files)
	p := b.StartSandbox([]string{"-q", "--rules", "policy.yaml", "--rules", "more"}, "sh", "-c", "echo ready; exec sleep 1000")
	p.WaitFor("ready")
	b.Sandbox(allowAPI, append([]string{harness.Probe, "write"}, files...)...)
	same(t, before, hashes(t, files))
	b.Sandbox(allowAPI, append([]string{harness.Probe, "replace"}, files...)...)
	same(t, before, hashes(t, files))
	if entries, err := os.ReadDir(b.Work + "/more"); err != nil || len(entries) != 1 {
		t.Errorf("K7: more holds %v %v", entries, err)
	}
	b.Outcall("rules", "--session", p.Name, "reload").Must(t, 0)
	if r := b.Outcall("rules", "--session", p.Name, "list"); r.Code != 0 {
		t.Errorf("rules list: %s", r.Stderr)
	} else {
		mustContain(t, "rules", r.Stdout, "api.allowed.test")
	}
	b.Outcall("stop", p.Name).Must(t, 0)
	p.Wait()
}
