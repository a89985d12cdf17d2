package ruletest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"outcall/policy"
	"outcall/policy/escape"
	"outcall/policy/probe"
)

// A Result is one case and what became of it.
type Result struct {
	Path  string       `json:"path"`
	Line  int          `json:"line"`
	Name  string       `json:"name,omitempty"`
	Event string       `json:"event"`
	OK    bool         `json:"ok"`
	Want  Want         `json:"want"`
	Got   probe.Answer `json:"got"`
}

// A Want is what a case expects.
type Want struct {
	Verdict string `json:"verdict"`
	Rule    string `json:"rule,omitempty"`
}

// A Report tells of all cases of a run.
type Report struct {
	OK      bool     `json:"ok"`
	Cases   int      `json:"cases"`
	Wrong   int      `json:"wrong"`
	Results []Result `json:"results"`
}

// RunFiles runs test files, each against the rules that it names, or all of
// them against the given ones.
func RunFiles(rules []string, paths ...string) (*Report, error) {
	r := &Report{OK: true, Results: []Result{}}
	var errs []error
	for _, p := range paths {
		results, err := runFile(rules, p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, x := range results {
			r.Cases++
			if !x.OK {
				r.Wrong++
				r.OK = false
			}
			r.Results = append(r.Results, x)
		}
	}
	return r, joined(errs)
}

// joined keeps findings one list, so that each is told on a line of its own.
func joined(errs []error) error {
	var list policy.ErrorList
	for _, err := range errs {
		var more policy.ErrorList
		if !errors.As(err, &more) {
			return errors.Join(errs...)
		}
		list = append(list, more...)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

func runFile(rules []string, path string) ([]Result, error) {
	data, err := readTest(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	if len(rules) == 0 {
		for _, r := range f.Rules {
			if !filepath.IsAbs(r) {
				r = filepath.Join(filepath.Dir(path), r)
			}
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		return nil, policy.ErrorList{{Path: path, Line: 1, Msg: "rules is missing: name the rule files that the cases are about"}}
	}
	src, err := policy.ReadPaths(policy.Operator, rules...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	snap, err := policy.Load(src)
	if err != nil {
		return nil, err
	}
	return f.Run(snap)
}

// readTest reads a regular file.
func readTest(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("it is no regular file")}
	}
	if err != nil {
		return nil, fmt.Errorf("test file: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("test file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("test file: %w", err)
	}
	return data, nil
}

// Run asks the rules about every case.
func (f *File) Run(s *policy.Snapshot) ([]Result, error) {
	var out []Result
	var bad policy.ErrorList
	for _, c := range f.Cases {
		got, err := c.Event.Ask(s)
		if err != nil {
			bad = append(bad, &policy.LoadError{Path: f.Path, Line: c.Line, Msg: err.Error()})
			continue
		}
		out = append(out, Result{Path: f.Path, Line: c.Line, Name: c.Name, Event: c.Event.String(),
			OK:   got.Verdict == c.Verdict && (c.Rule == "" || c.Rule == got.Rule),
			Want: Want{c.Verdict, c.Rule}, Got: got})
	}
	if len(bad) > 0 {
		return nil, bad
	}
	return out, nil
}

// WriteText writes each wrong case as a difference, and the count.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, x := range r.Results {
		if !x.OK {
			x.write(&b)
		}
	}
	fmt.Fprintf(&b, "%d cases, %d wrong\n", r.Cases, r.Wrong)
	_, err := io.WriteString(w, b.String())
	return err
}

func (x *Result) write(b *strings.Builder) {
	line := func(format string, args ...any) { b.WriteString(escape.Text(fmt.Sprintf(format, args...)) + "\n") }
	name := x.Event
	if x.Name != "" {
		name = x.Name + ": " + x.Event
	}
	line("%s:%d: %s", x.Path, x.Line, name)
	differ := func(what, want, got string) {
		if want == got || want == "" {
			line("    %-9s %s", what+":", got)
			return
		}
		line("  - %-9s %s", what+":", want)
		line("  + %-9s %s", what+":", got)
	}
	differ("verdict", x.Want.Verdict, x.Got.Verdict)
	differ("rule", x.Want.Rule, x.Got.Rule)
	line("    %-9s %s", "reason:", x.Got.Reason)
	for _, d := range x.Got.Depends {
		line("    %-9s %s", "depends:", d)
	}
	for _, n := range x.Got.Near {
		line("    %s", n)
	}
}
