package policy

import (
	"strings"
	"testing"
)

func TestRemedy(t *testing.T) {
	for _, c := range []struct {
		target, rule string
		structural   bool
		want         string
	}{
		{"a.test", DefaultPolicy, false, "to allow it: --allow a.test"},
		{"a.test:443", DefaultPolicy, false, "to allow it: --allow a.test"},
		{"a.test:80", DefaultPolicy, false, "to allow it: --allow a.test"},
		{"a.test:22", DefaultPolicy, false, "to allow it: --allow a.test:22"},
		{"93.184.216.34:22", DefaultPolicy, false, "to allow it: --allow 93.184.216.34:22"},
		{"[2606:2800::1]:22", DefaultPolicy, false, "to allow it: --allow [2606:2800::1]:22"},
		{"2606:2800::1", DefaultPolicy, false, "to allow it: --allow 2606:2800::1"},
		{"127.0.0.1:22", DefaultPolicy, true, "no --allow opens it: outcall explain 127.0.0.1:22 tells why"},
		{"a.test", "no-a", false, "outcall explain a.test shows what rule no-a decides"},
	} {
		got := Remedy(c.target, c.rule, c.structural)
		if got != c.want {
			t.Errorf("Remedy(%q, %q, %v) = %q, want %q", c.target, c.rule, c.structural, got, c.want)
		}
		if target, ok := strings.CutPrefix(got, "to allow it: --allow "); ok {
			src, err := AllowTargets([]string{target})
			if err == nil {
				_, err = Load([]Source{src})
			}
			if err != nil {
				t.Errorf("the remedy %q cannot be followed: %v", got, err)
			}
		}
	}
}
