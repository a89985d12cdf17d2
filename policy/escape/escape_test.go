package escape

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"plain héllo 世界", "plain héllo 世界"},
		{"\x1b]0;owned\a", `\x1b]0;owned\a`},
		{"a\nb\tc\r", `a\nb\tc\r`},
		{"\x00\x7f", `\x00\x7f`},
		{"\u009b31m", `\u009b31m`}, // C1 CSI
		{"\x9b31m", `\x9b31m`},     // the same as a bare byte
		{"evil\u202etxt.exe", `evil\u202etxt.exe`},
		{"a\u200bb\u2066c\u061cd", `a\u200bb\u2066c\u061cd`},
		{"a\u2028b\u2029c", `a\u2028b\u2029c`},
		{"nb\u00a0sp", `nb\u00a0sp`},
		{"tag\U000e0041", `tag\U000e0041`},
		{"\ufeffbom", `\ufeffbom`},
		{"back\\slash", `back\slash`},
		{"\ufffd stays", "\ufffd stays"},
	} {
		if got := Text(tt.in); got != tt.want {
			t.Errorf("Text(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestBlockKeepsLines(t *testing.T) {
	if got := Block("a\n\t^\x1b[0m"); got != "a\n\t^\\x1b[0m" {
		t.Errorf("Block = %q", got)
	}
}

func TestJoinShowsBorders(t *testing.T) {
	if got, want := Join([]string{"sh", "-c", "it's\x1b", ""}), `sh -c 'it'\''s\x1b' ''`; got != want {
		t.Errorf("Join = %s, want %s", got, want)
	}
}

func FuzzText(f *testing.F) {
	f.Add("\x1b[31m\u202e\xff")
	f.Add("plain")
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if !utf8.ValidString(got) {
			t.Fatalf("Text(%q) is no UTF-8: %q", s, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Fatalf("Text(%q) has an unprintable character at %d: %q", s, i, got)
		}
		if Text(got) != got {
			t.Fatalf("Text is not stable on %q", got)
		}
	})
}
