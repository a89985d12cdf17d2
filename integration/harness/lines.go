package harness

import (
	"encoding/json"
	"strings"
	"testing"
)

// A Line is one attempt of the probe.
type Line struct {
	Op     string  `json:"op"`
	Target string  `json:"target"`
	OK     bool    `json:"ok"`
	Err    string  `json:"err"`
	Errno  int     `json:"errno"`
	MS     float64 `json:"ms"`
	Data   string  `json:"data"`
}

// Lines reads what the probe printed.
func (r Result) Lines(t testing.TB) []Line {
	t.Helper()
	var out []Line
	for text := range strings.Lines(r.Stdout) {
		var l Line
		if !strings.HasPrefix(text, "{") {
			continue
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Errorf("probe line %q: %v", text, err)
			continue
		}
		out = append(out, l)
	}
	return out
}

// Attempts runs the probe in a sandbox and returns its attempts, at least one.
func (b *Bed) Attempts(flags []string, args ...string) (Result, []Line) {
	b.t.Helper()
	r := b.Sandbox(flags, append([]string{Probe}, args...)...)
	lines := r.Lines(b.t)
	if len(lines) == 0 {
		b.t.Fatalf("probe %v printed nothing: code %d\nstdout: %s\nstderr: %s", args, r.Code, clip(r.Stdout), clip(r.Stderr))
	}
	return r, lines
}

// Refused demands that no attempt was answered and that each was refused, not
// left without an answer, within ms.
func Refused(t testing.TB, lines []Line, ms float64) {
	t.Helper()
	for _, l := range lines {
		if l.OK {
			t.Errorf("%s %s was let through: %q", l.Op, l.Target, l.Data)
		}
		if l.MS > ms {
			t.Errorf("%s %s took %.1f ms to be refused (%s)", l.Op, l.Target, l.MS, l.Err)
		}
	}
}
