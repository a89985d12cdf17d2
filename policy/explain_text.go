package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"outcall/policy/escape"
)

// String writes the explanation for a terminal. What came from outside is
// escaped.
func (x *Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (%s)\n", escape.Text(x.Target), x.Verdict, escape.Text(x.Reason))
	for _, r := range x.Routes {
		fmt.Fprintf(&b, "\n%s: %s\n", r.Via, r.Verdict)
		for _, st := range r.Steps {
			st.write(&b)
		}
	}
	if len(x.Depends) > 0 {
		b.WriteString("\ndepends on\n")
		for _, d := range x.Depends {
			fmt.Fprintf(&b, "  %s\n", escape.Text(d))
		}
	}
	switch {
	case x.Smallest != "" && strings.HasPrefix(x.Advice, "--allow"):
		fmt.Fprintf(&b, "\nwould be allowed by: %s\n", escape.Text(x.Advice))
	case x.Smallest != "":
		b.WriteString("\nwould be allowed by the rule file\n")
		for _, l := range strings.Split(strings.TrimSuffix(x.Smallest, "\n"), "\n") {
			fmt.Fprintf(&b, "  %s\n", escape.Text(l))
		}
	case x.Advice != "":
		fmt.Fprintf(&b, "\n%s\n", escape.Text(x.Advice))
	}
	return b.String()
}

func (st *ExplainedStep) write(b *strings.Builder) {
	fmt.Fprintf(b, "  %-8s %s → %s", st.Layer, st.Word, st.Action)
	if st.If != "" {
		fmt.Fprintf(b, " (if %s)", escape.Text(st.If))
	}
	fmt.Fprintf(b, ": %s", escape.Text(st.Reason))
	if st.File != "" {
		fmt.Fprintf(b, " (%s:%d)", escape.Text(st.File), st.Line)
	}
	b.WriteByte('\n')
	for _, k := range slices.Sorted(maps.Keys(st.Facts)) {
		fmt.Fprintf(b, "           %s = %s\n", k, escape.Text(fmt.Sprint(st.Facts[k])))
	}
	for _, k := range slices.Sorted(maps.Keys(st.Unknown)) {
		fmt.Fprintf(b, "           %s is %s\n", k, st.Unknown[k])
	}
	for _, v := range st.Values {
		fmt.Fprintf(b, "           %s is %s\n", escape.Text(v.Text), v.Value)
	}
	for _, n := range st.Near {
		fmt.Fprintf(b, "           not rule %s (%s:%d): %s\n", escape.Text(n.Rule), escape.Text(n.File), n.Line, escape.Text(n.Why))
	}
}
