package habits

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// attacks are the ids of what has been tried against the design. Each is the
// beginning of a test's name, or a row of SECURITY.md that says what stays.
var attacks = strings.Fields(`
	K1 K2 K3 K4 K5 K6 K7 K8 K9 K10 K11 K12 K13 K14 K15 K16 K17 K18 K19 K20 K21 K22 K23 K24
	P1 P2 P3 P5 P7 P12 P13 P14 T1 T3 T9 N15 N16 H8 H9`)

// elsewhere names the tests of attacks that are the same as another.
var elsewhere = map[string][]string{
	"K6": {"TestRootIsNotRootInside"},
	"P7": {"TestK3TypedFromInside", "TestK20Escapes"},
}

func TestEachAttackIsTestedOrNamed(t *testing.T) {
	tests := map[string]bool{}
	name := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, s := range sources(t) {
		for _, m := range name.FindAllSubmatch(s.text, -1) {
			tests[string(m[1])] = true
		}
	}
	security, err := os.ReadFile(filepath.Join(root(t), "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| [^|]+ \|`).FindAllString(string(security), -1)
	for _, id := range attacks {
		word := regexp.MustCompile(`\b` + id + `\b`)
		known := word.MatchString(strings.Join(rows, "\n"))
		begins := regexp.MustCompile(`^Test` + id + `([A-Z]|$)`)
		for test := range tests {
			known = known || begins.MatchString(test)
		}
		if other, ok := elsewhere[id]; ok {
			known = true
			for _, test := range other {
				known = known && tests[test]
			}
		}
		if !known {
			t.Errorf("%s is neither a test nor a row of SECURITY.md", id)
		}
	}
}
