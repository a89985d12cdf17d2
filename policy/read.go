package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ReadPaths reads rule files and directories (non-recursively, *.yaml and
// *.yml, regular files only) in the byte order of their paths, within the
// limits MaxFiles, MaxFileSize and MaxTotalSize. A file that a path names
// itself is read whatever it is called.
func ReadPaths(origin Origin, paths ...string) ([]Source, error) {
	var out []Source
	for _, p := range paths {
		d, err := openPlace(p)
		if err != nil {
			return nil, err
		}
		src, err := d.read(origin)
		d.close()
		if err != nil {
			return nil, err
		}
		out = append(out, src...)
	}
	return tidy(out)
}

// tidy sorts sources by path, drops what is named twice, and holds the limits
// of the whole.
func tidy(src []Source) ([]Source, error) {
	slices.SortStableFunc(src, func(a, b Source) int { return strings.Compare(a.Path, b.Path) })
	src = slices.CompactFunc(src, func(a, b Source) bool { return a.Path == b.Path })
	total := 0
	for _, s := range src {
		total += len(s.Data)
	}
	if len(src) > MaxFiles || total > MaxTotalSize {
		return nil, fmt.Errorf("read rules: %d files of %d bytes in all: at most %d files and %d bytes", len(src), total, MaxFiles, MaxTotalSize)
	}
	return src, nil
}

// A place is an open directory with rule files, or one file of it. What is
// put in the directory's stead later is not read.
type place struct {
	root *os.Root
	path string // of the directory, as the user wrote it
	file string // one file of it; "" means all rule files
}

// openPlace opens a rule file or a directory of them.
func openPlace(path string) (*place, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	p := &place{path: path}
	if !st.IsDir() {
		p.path, p.file = filepath.Dir(path), filepath.Base(path)
	}
	if p.root, err = os.OpenRoot(p.path); err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	return p, nil
}

func (p *place) close() { p.root.Close() }

// read reads the rule files as they are now.
func (p *place) read(origin Origin) ([]Source, error) {
	names := []string{p.file}
	if p.file == "" {
		var err error
		if names, err = ruleNames(p.root); err != nil {
			return nil, fmt.Errorf("read rules in %s: %w", p.path, err)
		}
	}
	var out []Source
	total := 0
	for _, n := range names {
		data, err := readRegular(p.root, n)
		if err != nil {
			return nil, fmt.Errorf("read rule file %s: %w", filepath.Join(p.path, n), err)
		}
		if total += len(data); total > MaxTotalSize {
			return nil, fmt.Errorf("read rules in %s: more than %d bytes in all", p.path, MaxTotalSize)
		}
		out = append(out, Source{Path: filepath.Join(p.path, n), Data: data, Origin: origin})
	}
	return out, nil
}

// ruleNames lists the rule files of a directory. A name that looks like a
// rule file and is none (a link, a pipe) is an error: a rule that the
// operator believes in must not be passed over.
func ruleNames(root *os.Root) ([]string, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var names []string
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			ext := filepath.Ext(e.Name())
			if ext != ".yaml" && ext != ".yml" || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			if names = append(names, e.Name()); len(names) > MaxFiles {
				return nil, fmt.Errorf("more than %d files", MaxFiles)
			}
		}
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// readRegular reads one file of a directory. It must be a regular file before
// it is opened (a pipe would wait) and the same one after.
func readRegular(root *os.Root, name string) ([]byte, error) {
	before, err := root.Lstat(name)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if !before.Mode().IsRegular() {
		return nil, fmt.Errorf("it is no regular file but %s", kindOf(before.Mode()))
	}
	f, err := root.OpenFile(name, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !os.SameFile(before, st) {
		return nil, errors.New("it was replaced while it was opened")
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxFileSize)
	}
	return data, nil
}

func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
