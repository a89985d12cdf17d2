package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// String writes the explanation for a terminal. What came from outside is
// escaped.
func (x *Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (%s)\n", Escape(x.Target), x.Verdict, Escape(x.Reason))
	for _, r := range x.Routes {
		fmt.Fprintf(&b, "\n%s: %s\n", r.Via, r.Verdict)
		for _, st := range r.Steps {
			st.write(&b)
		}
	}
	if len(x.Depends) > 0 {
		b.WriteString("\ndepends on\n")
		for _, d := range x.Depends {
			fmt.Fprintf(&b, "  %s\n", Escape(d))
		}
	}
	switch {
	case x.Smallest != "" && strings.HasPrefix(x.Advice, "--allow"):
		fmt.Fprintf(&b, "\nwould be allowed by: %s\n", Escape(x.Advice))
	case x.Smallest != "":
		b.WriteString("\nwould be allowed by the rule file\n")
		for _, l := range strings.Split(strings.TrimSuffix(x.Smallest, "\n"), "\n") {
			fmt.Fprintf(&b, "  %s\n", Escape(l))
		}
	case x.Advice != "":
		fmt.Fprintf(&b, "\n%s\n", Escape(x.Advice))
	}
	return b.String()
}

func (st *ExplainedStep) write(b *strings.Builder) {
	fmt.Fprintf(b, "  %-8s %s → %s", st.Layer, st.Word, st.Action)
	if st.If != "" {
		fmt.Fprintf(b, " (if %s)", Escape(st.If))
	}
	fmt.Fprintf(b, ": %s", Escape(st.Reason))
	if st.File != "" {
		fmt.Fprintf(b, " (%s:%d)", Escape(st.File), st.Line)
	}
	b.WriteByte('\n')
	for _, k := range slices.Sorted(maps.Keys(st.Facts)) {
		fmt.Fprintf(b, "           %s = %s\n", k, Escape(fmt.Sprint(st.Facts[k])))
	}
	for _, k := range slices.Sorted(maps.Keys(st.Unknown)) {
		fmt.Fprintf(b, "           %s is %s\n", k, st.Unknown[k])
	}
	for _, n := range st.Near {
		fmt.Fprintf(b, "           not rule %s (%s:%d): %s\n", Escape(n.Rule), Escape(n.File), n.Line, Escape(n.Why))
	}
}

// Escape makes a text safe to print: control, format (bidi), separator and
// other invisible characters are written as \u escapes, a backslash is kept.
func Escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == unicode.ReplacementChar || r != ' ' && !unicode.IsGraphic(r) || r != ' ' && unicode.IsSpace(r) {
			if r > 0xffff {
				fmt.Fprintf(&b, `\U%08x`, r)
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
