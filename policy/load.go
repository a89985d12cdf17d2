package policy

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"cel.dev/cel-go/cel"
)

// Load compiles rule files into a snapshot. On any error nothing is loaded;
// the error is an ErrorList with every finding. The files are taken in the
// byte order of their paths, --allow targets last.
func Load(sources []Source) (*Snapshot, error) { return load(sources, maxExpanded) }

// load is Load with a limit for the conditions with their definitions in them.
func load(sources []Source, limit int) (*Snapshot, error) {
	sources = slices.Clone(sources)
	slices.SortStableFunc(sources, func(a, b Source) int {
		if (a.Origin == CLI) != (b.Origin == CLI) {
			return cmp.Compare(a.Origin, b.Origin)
		}
		return cmp.Compare(a.Path, b.Path)
	})
	l := &loader{order: map[string]int{}, limit: limit}
	if err := l.parse(sources); err != nil {
		return nil, err
	}
	rules, err := l.compile()
	if err != nil {
		return nil, err
	}
	if len(l.errs) > 0 {
		return nil, l.errs.sorted(l.order)
	}
	s := newSnapshot(ordered(rules), len(sources))
	s.ix.prepare()
	s.warnings = l.warnings(s.rules)
	return s, nil
}

// newSnapshot indexes rules that are in order.
func newSnapshot(rules []*Rule, files int) *Snapshot {
	return &Snapshot{rules: rules, files: files, ix: newIndex(rules)}
}

// A loader gathers files, rules and findings of one load.
type loader struct {
	files []*ruleFile
	order map[string]int // place of each path, for the order of findings
	errs  ErrorList
	limit int // bytes of all conditions with their definitions in them
}

// parse reads all files and checks what can be said before any condition is
// compiled. An error means that nothing more should be tried.
func (l *loader) parse(sources []Source) error {
	total := 0
	for _, s := range sources {
		total += len(s.Data)
	}
	if len(sources) > MaxFiles || total > MaxTotalSize {
		return ErrorList{{sources[len(sources)-1].Path, 0, fmt.Sprintf(
			"%d rule files of %d bytes in all: at most %d files and %d bytes can be loaded",
			len(sources), total, MaxFiles, MaxTotalSize)}}
	}
	first := map[string]*fileRule{}
	count := 0
	files := parseAll(sources)
	for i, s := range sources {
		if _, ok := l.order[s.Path]; !ok {
			l.order[s.Path] = i
		}
		f := files[i]
		l.files = append(l.files, f)
		l.errs = append(l.errs, f.errs...)
		for _, r := range f.rules {
			if old := first[r.ID]; old != nil {
				l.errs.add(s.Path, r.line, "duplicate rule id '%s' (first seen in %s:%d)", r.ID, old.File, old.line)
				continue
			}
			first[r.ID] = r
			if count++; count == MaxRules+1 {
				l.errs.add(s.Path, r.line, "more than %d rules", MaxRules)
				return l.errs.sorted(l.order)
			}
		}
	}
	return nil
}

// A job is one text to compile: a condition, or a definition by itself.
type job struct {
	file  *ruleFile
	rule  *fileRule // nil: a definition
	text  scalar
	block bool
	c     *compiled
	bad   []finding
}

// compile expands and compiles every definition and condition. Equal texts
// are compiled once.
func (l *loader) compile() ([]*Rule, error) {
	env, err := newEnv()
	if err != nil {
		return nil, fmt.Errorf("set up the CEL environment: %w", err)
	}
	jobs, ok := l.jobs()
	if !ok {
		return nil, l.errs.sorted(l.order)
	}
	compileAll(env, jobs)
	var rules []*Rule
	for _, j := range jobs {
		for _, b := range j.bad {
			l.errs.add(j.file.src.Path, j.text.marks.line(b.off), "CEL parse error: %s", b.msg)
		}
		if j.rule != nil && len(j.bad) == 0 {
			r := j.rule.Rule
			r.c = j.c
			r.allowed, r.blocked = "allowed by rule "+r.ID, "blocked by rule "+r.ID
			rules = append(rules, &r)
		}
	}
	return rules, nil
}

// jobs expands all texts of all files; false is too much of them.
func (l *loader) jobs() (jobs []*job, ok bool) {
	total := 0
	for _, f := range l.files {
		add := func(r *fileRule, s scalar, block bool) {
			if total > l.limit {
				return
			}
			text, bad := f.expand(s)
			if bad != nil {
				l.errs.add(f.src.Path, s.marks.line(bad.off), "%s", bad.msg)
				return
			}
			if total += len(text.text); total > l.limit {
				l.errs.add(f.src.Path, text.marks.line(0), "the conditions with their definitions are larger than %d bytes in all", l.limit)
				return
			}
			jobs = append(jobs, &job{file: f, rule: r, text: text, block: block})
		}
		for _, r := range f.rules {
			add(r, r.text, r.Block)
		}
		used := map[string]bool{}
		for name, d := range f.defs {
			used[name] = d.used
		}
		for _, name := range f.order {
			add(nil, f.defs[name].scalar, false)
		}
		for name, d := range f.defs {
			d.used = used[name] // what only other unused definitions use is unused, too
		}
	}
	return jobs, total <= l.limit
}

// compileAll runs the jobs on all processors, equal texts once. It returns
// when all are done.
func compileAll(env *cel.Env, jobs []*job) {
	type key struct {
		text        string
		block, defn bool
	}
	groups := map[key][]*job{}
	var order []key
	for _, j := range jobs {
		k := key{j.text.text, j.block, j.rule == nil}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], j)
	}
	ts := newTemplates(env)
	onAll(order, func(_ int, k key) {
		c, bad := compileOne(ts, k.text, k.block, k.defn)
		for _, j := range groups[k] {
			j.c, j.bad = c, bad
		}
	})
}

// parseAll reads the files on all processors.
func parseAll(sources []Source) []*ruleFile {
	files := make([]*ruleFile, len(sources))
	onAll(sources, func(i int, s Source) { files[i] = parseFile(s) })
	return files
}

// onAll calls f for each item, on all processors, and returns when all is done.
func onAll[T any](items []T, f func(i int, item T)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(items)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(items)); i = next.Add(1) - 1 {
				f(int(i), items[i])
			}
		})
	}
	wg.Wait()
}

// compileOne compiles one text. A fault of the library is a finding about
// this text, not the end of the program.
func compileOne(ts *templates, text string, block, definition bool) (c *compiled, bad []finding) {
	defer func() {
		if p := recover(); p != nil {
			c, bad = nil, []finding{{0, fmt.Sprintf("the condition cannot be compiled: %v", p)}}
		}
	}()
	if definition {
		_, bad = check(ts.env, text)
		return nil, bad
	}
	return ts.compile(text, block)
}

// ordered sorts by priority. What is not the operator's own stands after all
// blocks of the operator; what an agent has asked for, after all blocks that it
// did not ask for.
func ordered(rules []*Rule) []*Rule {
	slices.SortStableFunc(rules, func(a, b *Rule) int { return cmp.Compare(a.Priority, b.Priority) })
	rules = behind(rules, func(r *Rule) bool { return r.Origin != Operator })
	return behind(rules, func(r *Rule) bool { return r.Origin == Request })
}

// behind moves the rules of some origins after the last block of the others.
func behind(rules []*Rule, moves func(*Rule) bool) []*Rule {
	last := -1
	for i, r := range rules {
		if r.Block && !moves(r) {
			last = i
		}
	}
	out := make([]*Rule, 0, len(rules))
	var moved []*Rule
	for _, r := range rules[:last+1] {
		if moves(r) {
			moved = append(moved, r)
		} else {
			out = append(out, r)
		}
	}
	return append(append(out, moved...), rules[last+1:]...)
}
