package integration

import (
	"strings"
	"testing"

	"outcall/integration/harness"
)

// Programs that change users fail with a single id, and the reason for that
// must not be a riddle: the banner has it, and only then.
func TestRootWithASingleIDIsTold(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox([]string{"--root"}, "cat", "/proc/self/uid_map").Must(t, 0)
	fields := strings.Fields(r.Stdout)
	single := len(fields) == 3 && fields[2] == "1"
	if told := strings.Contains(r.Stderr, "root inside has a single id"); told != single {
		t.Errorf("map %q, banner %q", r.Stdout, r.Stderr)
	}
	if r := b.Sandbox(nil, "true").Must(t, 0); strings.Contains(r.Stderr, "single id") {
		t.Errorf("without --root: %q", r.Stderr)
	}
}
