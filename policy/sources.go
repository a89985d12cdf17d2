package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"outcall/policy/escape"
)

// projectRules is where a project keeps its rules.
const projectRules = ".outcall/rules"

// Places says where a session's rules may come from (contract 2.1).
type Places struct {
	Rules   []string   // --rules: files and directories; where given, nothing else is read
	Allow   []string   // --allow targets, beside any of the others
	WorkDir string     // its .outcall/rules, where trusted
	UserDir string     // ${XDG_CONFIG_HOME:-~/.config}/outcall: its rules.d
	SysDir  string     // /etc/outcall: its rules.d, where the user has no rules
	Trust   TrustStore // which project rules are trusted
}

// Sources are the opened places of one session. They are opened once, before
// the agent starts; each Read reads what stands in those very directories.
type Sources struct {
	places  Places
	given   []*place // --rules
	project *os.Root // the working directory
	user    dirOrUp
	system  dirOrUp
}

// dirOrUp is a rules.d, or, where it did not exist, the directory that it may
// be made in; both are nil where neither existed.
type dirOrUp struct {
	path    string
	dir, up *os.Root
}

// Open opens the places. Missing ones are no error, except those that --rules
// names.
func (p Places) Open() (*Sources, error) {
	s := &Sources{places: p}
	for _, path := range p.Rules {
		d, err := openPlace(path)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.given = append(s.given, d)
	}
	if len(p.Rules) > 0 {
		return s, nil
	}
	err := errors.Join(openIf(p.WorkDir, &s.project), s.user.open(p.UserDir), s.system.open(p.SysDir))
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("read rules: %w", err)
	}
	return s, nil
}

// openIf opens a directory; a missing one stays nil.
func openIf(path string, root **os.Root) error {
	if path == "" {
		return nil
	}
	r, err := os.OpenRoot(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	*root = r
	return nil
}

func (d *dirOrUp) open(parent string) error {
	if parent == "" {
		return nil
	}
	d.path = filepath.Join(parent, "rules.d")
	if err := openIf(d.path, &d.dir); err != nil || d.dir != nil {
		return err
	}
	return openIf(parent, &d.up)
}

// read returns the rule files of the directory, if it exists by now.
func (d *dirOrUp) read() ([]Source, error) {
	root := d.dir
	if root == nil && d.up != nil {
		r, err := d.up.OpenRoot("rules.d")
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read rules in %s: %w", d.path, err)
		}
		defer r.Close()
		root = r
	}
	if root == nil {
		return nil, nil
	}
	return (&place{root: root, path: d.path}).read(Operator)
}

// Close closes the directories.
func (s *Sources) Close() {
	for _, d := range s.given {
		d.close()
	}
	for _, r := range []*os.Root{s.project, s.user.dir, s.user.up, s.system.dir, s.system.up} {
		if r != nil {
			r.Close()
		}
	}
}

// Read reads the rule files as they are now. notes are lines for the user,
// such as project rules that are there and not trusted.
func (s *Sources) Read() (src []Source, notes []string, err error) {
	for _, d := range s.given {
		more, err := d.read(Operator)
		if err != nil {
			return nil, nil, err
		}
		src = append(src, more...)
	}
	if len(s.places.Rules) == 0 {
		if src, notes, err = s.found(); err != nil {
			return nil, notes, err
		}
	}
	if src, err = tidy(src); err != nil {
		return nil, notes, err
	}
	if len(s.places.Allow) > 0 {
		cli, err := AllowSources(s.places.Allow)
		if err != nil {
			return nil, notes, err
		}
		src = append(src, cli...)
	}
	return src, notes, nil
}

// found reads the places that hold without --rules.
func (s *Sources) found() (src []Source, notes []string, err error) {
	src, note, err := s.trusted()
	if note != "" {
		notes = append(notes, note)
	}
	if err != nil {
		return nil, notes, err
	}
	user, err := s.user.read()
	if err != nil {
		return nil, notes, err
	}
	if src = append(src, user...); len(src) > 0 {
		return src, notes, nil
	}
	src, err = s.system.read()
	return src, notes, err
}

// trusted returns the project's rules if the user has trusted exactly them.
// Whatever else stands there, a broken directory included, is not loaded and
// gives a note: a project must not be able to stop a session.
func (s *Sources) trusted() (src []Source, note string, err error) {
	if s.project == nil {
		return nil, "", nil
	}
	dir := filepath.Join(s.places.WorkDir, projectRules)
	src, err = readProject(s.project, dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(src) == 0 {
		return nil, "", nil
	}
	if err != nil {
		return nil, "the project's rules are not loaded: " + escape.Text(err.Error()), nil
	}
	ok, err := s.places.Trust.Trusted(s.places.WorkDir, src)
	if err != nil {
		return nil, "", err
	}
	if !ok {
		return nil, fmt.Sprintf("%s is not loaded: its content is not trusted (look at it, then: outcall trust)", escape.Text(dir)), nil
	}
	return src, "", nil
}

func readProject(work *os.Root, dir string) ([]Source, error) {
	root, err := work.OpenRoot(projectRules)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return (&place{root: root, path: dir}).read(Project)
}

// ReadProject reads the rules of a project directory, for the user to look at
// and to trust. No rules are an error.
func ReadProject(dir string) ([]Source, error) {
	work, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read the project's rules: %w", err)
	}
	defer work.Close()
	src, err := readProject(work, filepath.Join(dir, projectRules))
	if err == nil && len(src) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read the rules in %s: %w", filepath.Join(dir, projectRules), err)
	}
	return tidy(src)
}
