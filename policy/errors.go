package policy

import (
	"fmt"
	"slices"
	"strings"
)

// A LoadError is one thing wrong with a rule file.
type LoadError struct {
	Path string
	Line int // in the file, from 1; 0 where the whole file is meant
	Msg  string
}

// Error returns "<path>:<line>: text".
func (e *LoadError) Error() string {
	if e.Line == 0 {
		return e.Path + ": " + e.Msg
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Msg)
}

// An ErrorList holds every finding of a load, in the order of files and lines.
type ErrorList []*LoadError

// Error returns one finding a line.
func (l ErrorList) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the findings.
func (l ErrorList) Unwrap() []error {
	out := make([]error, len(l))
	for i, e := range l {
		out[i] = e
	}
	return out
}

func (l *ErrorList) add(path string, line int, format string, args ...any) {
	*l = append(*l, &LoadError{path, line, fmt.Sprintf(format, args...)})
}

// sorted returns the findings in the order of files and lines, each once: a
// fault in a definition is found again by every rule that uses it.
func (l ErrorList) sorted(order map[string]int) ErrorList {
	slices.SortStableFunc(l, func(a, b *LoadError) int {
		if d := order[a.Path] - order[b.Path]; d != 0 {
			return d
		}
		return a.Line - b.Line
	})
	return slices.CompactFunc(l, func(a, b *LoadError) bool { return *a == *b })
}
