// Package rulecheck reads rule files as a session would and tells everything
// that is wrong or doubtful in them: for a person, for a program, and for the
// systems that show findings beside the lines of a change (SARIF).
//
// It decides nothing by itself: errors and warnings are those of
// policy.Load. Warnings do not make a check fail, unless it is asked to be
// strict.
package rulecheck

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"outcall/policy"
	"outcall/policy/escape"
)

// The levels of a finding.
const (
	LevelError   = "error"
	LevelWarning = "warning"
)

// The codes of errors; those of warnings are policy.WarningCodes.
const (
	CodeUnreadable = "unreadable"
	CodeYAML       = "yaml"
	CodeRuleFile   = "rule-file"
	CodeCondition  = "condition"
)

var errorCodes = map[string]string{
	CodeUnreadable: "a path that cannot be read as a rule file",
	CodeYAML:       "a file that is not YAML",
	CodeRuleFile:   "a file that is not a rule file",
	CodeCondition:  "a condition or definition that does not compile",
}

// A Finding is one thing to look at.
type Finding struct {
	Path    string `json:"path,omitempty"`
	Line    int    `json:"line,omitempty"`
	Level   string `json:"level"` // error | warning
	Code    string `json:"code"`
	Rule    string `json:"rule,omitempty"`
	Message string `json:"message"`
}

// A Report is what a check found.
type Report struct {
	OK          bool      `json:"ok"`
	FilesLoaded int       `json:"files_loaded"` // 0 where an error keeps the set from being loaded
	RulesLoaded int       `json:"rules_loaded"`
	Warnings    []string  `json:"warnings"`
	Findings    []Finding `json:"findings"`
}

// Check reads and compiles rule files and directories. strict makes errors of
// warnings.
func Check(strict bool, paths ...string) *Report {
	r := &Report{Warnings: []string{}, Findings: []Finding{}}
	src, err := policy.ReadPaths(policy.Operator, paths...)
	if err != nil {
		r.unreadable(paths, err)
		return r
	}
	snap, err := policy.Load(src)
	if err != nil {
		r.failed(err)
		return r
	}
	r.FilesLoaded, r.RulesLoaded = snap.Files(), len(snap.Rules())
	for _, w := range snap.Findings() {
		f := Finding{w.Path, w.Line, LevelWarning, w.Code, w.Rule, w.Msg}
		if strict {
			f.Level = LevelError
		}
		r.Findings = append(r.Findings, f)
		r.Warnings = append(r.Warnings, w.String())
	}
	r.OK = !strict || len(r.Findings) == 0
	return r
}

// unreadable tells each path that cannot be read; where each by itself can,
// it is all of them together that cannot.
func (r *Report) unreadable(paths []string, err error) {
	for _, p := range paths {
		if _, err := policy.ReadPaths(policy.Operator, p); err != nil {
			r.Findings = append(r.Findings, Finding{Path: p, Level: LevelError, Code: CodeUnreadable, Message: err.Error()})
		}
	}
	if len(r.Findings) == 0 {
		r.Findings = []Finding{{Level: LevelError, Code: CodeUnreadable, Message: err.Error()}}
	}
}

func (r *Report) failed(err error) {
	var list policy.ErrorList
	if !errors.As(err, &list) {
		r.Findings = append(r.Findings, Finding{Level: LevelError, Code: CodeRuleFile, Message: err.Error()})
		return
	}
	for _, e := range list {
		r.Findings = append(r.Findings, Finding{Path: e.Path, Line: e.Line, Level: LevelError, Code: codeOf(e), Message: e.Msg})
	}
}

func codeOf(e *policy.LoadError) string {
	switch {
	case strings.HasPrefix(e.Msg, "CEL parse error"):
		return CodeCondition
	case strings.HasPrefix(e.Msg, "YAML parse error"):
		return CodeYAML
	}
	return CodeRuleFile
}

// String returns the finding on one line, escaped for a terminal.
func (f Finding) String() string {
	place := ""
	switch {
	case f.Code == CodeUnreadable: // the message names the path
	case f.Line > 0:
		place = fmt.Sprintf("%s:%d: ", f.Path, f.Line)
	case f.Path != "":
		place = f.Path + ": "
	}
	if f.Level == LevelWarning {
		place += "warning: "
	}
	return escape.Text(place + f.Message)
}

// WriteText writes one finding a line and, where the set loads, how much it
// holds.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Findings {
		b.WriteString(f.String() + "\n")
	}
	if r.OK {
		fmt.Fprintf(&b, "%d files, %d rules\n", r.FilesLoaded, r.RulesLoaded)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
