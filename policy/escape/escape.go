// Package escape makes text that came from inside a sandbox, or off the
// network, harmless on a terminal. Names, arguments, header values, reasons
// and file paths can carry escape sequences that retitle a window, write the
// clipboard or hide a line, and bidirectional marks that make one host name
// look like another.
//
// Everything that outcall prints of such texts goes through this package. It
// is not an encoding for machines (JSON output is encoded by encoding/json),
// and it does not protect against look-alike letters.
package escape

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s on one line with every character that is not printable
// replaced by its Go escape: control characters (ESC, C1 included), format
// characters (bidi marks, zero-width), line and paragraph separators, spaces
// other than U+0020, private use, and bytes that are no UTF-8. A text without
// any of these is returned as it is.
func Text(s string) string { return convert(s, false) }

// Block is Text for texts of several lines, such as a compiler's message with
// a caret: newline and tab stay.
func Block(s string) string { return convert(s, true) }

// Join is Text for a command line: each argument is escaped, and quoted where
// it is empty or holds a space or a quote, so that the borders are seen.
func Join(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		e := Text(a)
		if e == "" || strings.ContainsAny(e, " '\"\\") {
			e = "'" + strings.ReplaceAll(e, "'", `'\''`) + "'"
		}
		out[i] = e
	}
	return strings.Join(out, " ")
}

func convert(s string, block bool) string {
	keep := func(r rune) bool {
		return unicode.IsPrint(r) || block && (r == '\n' || r == '\t')
	}
	i := 0
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || !keep(r) {
			break
		}
		i += n
	}
	if i == len(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	b.WriteString(s[:i])
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			const hex = "0123456789abcdef"
			b.WriteString(`\x`)
			b.WriteByte(hex[s[i]>>4])
			b.WriteByte(hex[s[i]&15])
		case keep(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}
