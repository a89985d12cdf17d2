package integration

import (
	"os"
	"slices"
	"testing"

	"outcall/integration/harness"
)

// A session inside a session: both policies hold, and the inner one needs no
// more than the outer gives.
func TestAllowedInsideSession(t *testing.T) {
	b := harness.New(t)
	inner := append([]string{harness.Outcall, "run", "-q"}, allowAPI...)
	inner = append(append(inner, "--"), curl("https://api.allowed.test/")...)
	r := b.Sandbox(allowAPI, inner...).Must(t, 0)
	if r.Stdout != apiBody {
		t.Errorf("body %q", r.Stdout)
	}
	// The outer one still denies what the inner one allows.
	inner = append([]string{harness.Outcall, "run", "-q", "--allow", "evil.test", "--"}, curl("https://evil.test/")...)
	if r := b.Sandbox(allowAPI, inner...); r.Code == 0 {
		t.Errorf("an inner session widened the outer: %q", r.Stdout)
	}
}

// A user has one file, outcall, and inside a session its copy is found by name.
func TestAllowedInsideSessionByName(t *testing.T) {
	b := harness.New(t)
	alone := b.Home + "/bin/outcall"
	data, err := os.ReadFile(harness.Outcall)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(alone, string(data))
	if err := os.Chmod(alone, 0o755); err != nil {
		t.Fatal(err)
	}
	b.Setenv("PATH=/usr/local/bin:/usr/bin:/bin")
	outer := append([]string{"run", "-q", "--name", b.NewName()}, allowAPI...)
	inner := append(append([]string{"outcall", "run", "-q"}, allowAPI...), "--")
	r := b.Start(b.Program(alone, slices.Concat(outer, []string{"--"}, inner, curl("https://api.allowed.test/"))...)).Wait().Must(t, 0)
	if r.Stdout != apiBody {
		t.Errorf("body %q\n%s", r.Stdout, r.Stderr)
	}
}

// K5: a cgroup namespace of its own would let the agent mount the delegated
// cgroup that it shares with host processes, writable.
func TestK5CgroupNamespace(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox(nil, "sh", "-c", "unshare -Ur true && echo user; unshare -UrC true && echo cgroup; true").Must(t, 0)
	if r.Stdout != "user\n" {
		t.Errorf("namespaces that could be made: %q\n%s", r.Stdout, r.Stderr)
	}
}
