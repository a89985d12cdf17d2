package policy

import (
	"strings"
	"unicode/utf8"
)

// Bounds of what is told of a process, in bytes; the arguments count together,
// with one more for each.
const (
	MaxExe  = 256
	MaxArgs = 1 << 10
)

// CutMark ends a value that was cut. No rule is asked about such a one:
// SetProcess hides it, wherever it comes from.
const CutMark = "…"

// Bounded returns the process with its texts cut to their bounds, for people
// to read.
func (p *Process) Bounded() *Process {
	if p == nil {
		return nil
	}
	return &Process{PID: p.PID, Exe: Cut(p.Exe, MaxExe), Args: cutArgs(p.Args)}
}

// Cut shortens s to at most n bytes, at the start of a character and with the
// mark.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return prefix(s, n-len(CutMark)) + CutMark
}

func prefix(s string, n int) string {
	n = max(n, 0)
	for n > 0 && n < len(s) && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:min(n, len(s))])
}

// cutArgs keeps the first arguments; the last that is kept has the mark.
func cutArgs(args []string) []string {
	size := 0
	for _, a := range args {
		size += len(a) + 1
	}
	if size <= MaxArgs {
		return args
	}
	left := MaxArgs - len(CutMark) - 1
	var out []string
	for _, a := range args {
		if len(a)+1 > left {
			return append(out, prefix(a, left-1)+CutMark)
		}
		left -= len(a) + 1
		out = append(out, a)
	}
	return append(out, CutMark)
}

// isCut says that a value is not the whole one.
func isCut(s string) bool { return strings.HasSuffix(s, CutMark) }
