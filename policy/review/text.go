package review

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"outcall/policy/escape"
)

// WriteDiff writes a rule file as what it would add: every line, so that what
// is read is what is approved. Letters that are not ASCII are told apart.
func WriteDiff(w io.Writer, file string) error {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(file, "\n"), "\n") {
		b.WriteString("+ " + escape.Text(line) + "\n")
		if foreign := strings.Map(notASCII, line); foreign != "" {
			fmt.Fprintf(&b, "! line %d has letters that are not ASCII: %+q\n", i+1, cut(foreign))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// notASCII keeps letters and the like; what is no letter is escaped anyway.
func notASCII(r rune) rune {
	if r > unicode.MaxASCII && unicode.IsPrint(r) {
		return r
	}
	return -1
}

func cut(s string) string {
	if r := []rune(s); len(r) > 16 {
		return string(r[:16]) + "…"
	}
	return s
}

const (
	maxLines = 20 // of each list
	maxUses  = 8  // of one target
)

// WriteText writes the review, a line for each finding.
func (r *Review) WriteText(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(escape.Text(fmt.Sprintf(format, args...)) + "\n") }
	for _, x := range r.Rules {
		line("%s %s, priority %d", x.Action, x.ID, x.Priority)
		for _, n := range x.Names {
			line("  %s", strings.Join(append([]string{n.Shown}, n.Notes...), " · "))
		}
		for _, n := range x.Notes {
			line("  %s", n)
		}
	}
	n := 0
	for _, a := range r.Allows {
		n += a.Count
	}
	line("would allow %d of the last %d denials", n, r.Denials)
	for _, a := range r.Allows[:min(len(r.Allows), maxLines)] {
		line("  %s (%d times, by rule %s)", a.Attempt, a.Count, a.Rule)
	}
	more(&b, len(r.Allows))
	if r.Judged < r.Denials {
		line("%d denials cannot be asked again from the log", r.Denials-r.Judged)
	}
	if len(r.Opens) == 0 {
		line("and opens nothing else that was tried")
	} else {
		line("and also opens")
	}
	for _, o := range r.Opens[:min(len(r.Opens), maxLines)] {
		uses := strings.Join(o.Uses[:min(len(o.Uses), maxUses)], ", ")
		if len(o.Uses) > maxUses {
			uses += fmt.Sprintf(" and %d more", len(o.Uses)-maxUses)
		}
		line("  %s: %s", o.Target, uses)
	}
	more(&b, len(r.Opens))
	if r.Left > 0 {
		line("%d more of what it opens is not told: read its rules", r.Left)
	}
	for _, t := range r.Warnings {
		line("warning: %s", t)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func more(b *strings.Builder, n int) {
	if n > maxLines {
		fmt.Fprintf(b, "  and %d more\n", n-maxLines)
	}
}
