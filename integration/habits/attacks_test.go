package habits

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// attacks are the ids of what has been tried against the design. Each has a row
// of tests in SECURITY.md, or one among its residual risks that says what stays.
var attacks = strings.Fields(`
	K1 K2 K3 K4 K5 K6 K7 K8 K9 K10 K11 K12 K13 K14 K15 K16 K17 K18 K19 K20 K21 K22 K23 K24
	C1 C2 C3 C5 C6 C9 C10 C12 C13 C14 C15
	D1 D2 D3 D5 D6 D7 D8 D10 D11 D12 D14
	P1 P2 P3 P5 P7 P12 P13 P14 H1 H3 H5 H6 H10 H11 T1 T3 T4 T6 T8 T9 N1 N2 N4 N5 N7 N8 N10 N11 N12 N15 N16 H8 H9`)

// TestEachAttackIsTestedOrNamed also holds the rows to the tree: a test that is
// named there exists.
func TestEachAttackIsTestedOrNamed(t *testing.T) {
	tests := testNames(t)
	text, err := os.ReadFile(filepath.Join(root(t), "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	tried, residual, ok := strings.Cut(string(text), "\n## Residual risks\n")
	if !ok {
		t.Fatal("SECURITY.md has no residual risks")
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z]\d+) \|.*$`).FindAllStringSubmatch(tried, -1) {
		rows[m[1]] = m[0]
		named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(m[0], -1)
		if len(named) == 0 {
			t.Errorf("%s: a row without tests", m[1])
		}
		for _, n := range named {
			if !tests[n[1]] {
				t.Errorf("%s: there is no %s", m[1], n[1])
			}
		}
	}
	stays := strings.Join(regexp.MustCompile(`(?m)^\| [^|]+ \|`).FindAllString(residual, -1), "\n")
	for _, id := range attacks {
		if rows[id] == "" && !regexp.MustCompile(`\b`+id+`\b`).MatchString(stays) {
			t.Errorf("%s is neither tried nor a residual risk in SECURITY.md", id)
		}
	}
}

func testNames(t *testing.T) map[string]bool {
	t.Helper()
	tests := map[string]bool{}
	name := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, s := range sources(t) {
		for _, m := range name.FindAllSubmatch(s.text, -1) {
			tests[string(m[1])] = true
		}
	}
	return tests
}
