package policy

import (
	"cmp"
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
	var files []string
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
		if !st.IsDir() {
			files = append(files, p)
			continue
		}
		root, err := os.OpenRoot(p)
		if err != nil {
			return nil, fmt.Errorf("read rules: %w", err)
		}
		names, err := ruleNames(root)
		root.Close()
		if err != nil {
			return nil, fmt.Errorf("read rules in %s: %w", p, err)
		}
		for _, n := range names {
			files = append(files, filepath.Join(p, n))
		}
	}
	slices.Sort(files)
	files = slices.Compact(files)
	if len(files) > MaxFiles {
		return nil, fmt.Errorf("read rules: %d files, more than %d", len(files), MaxFiles)
	}
	var out []Source
	total := 0
	for _, p := range files {
		data, err := readRuleFile(p)
		if err != nil {
			return nil, err
		}
		if total += len(data); total > MaxTotalSize {
			return nil, fmt.Errorf("read rules: more than %d bytes in all", MaxTotalSize)
		}
		out = append(out, Source{Path: p, Data: data, Origin: origin})
	}
	return out, nil
}

// ReadDir reads the rule files of an open directory, as ReadPaths does; the
// sources are named as if the directory stood at path. A reload uses it with
// the directory that was opened at the start, so that nothing put in its
// place counts.
func ReadDir(origin Origin, root *os.Root, path string) ([]Source, error) {
	names, err := ruleNames(root)
	if err != nil {
		return nil, fmt.Errorf("read rules in %s: %w", path, err)
	}
	if len(names) > MaxFiles {
		return nil, fmt.Errorf("read rules in %s: %d files, more than %d", path, len(names), MaxFiles)
	}
	var out []Source
	total := 0
	for _, n := range names {
		f, err := root.OpenFile(n, os.O_RDONLY|openFlags, 0)
		if err != nil {
			return nil, fmt.Errorf("read rule file: %w", err)
		}
		data, err := readRegular(f, filepath.Join(path, n))
		if err != nil {
			return nil, err
		}
		if total += len(data); total > MaxTotalSize {
			return nil, fmt.Errorf("read rules in %s: more than %d bytes in all", path, MaxTotalSize)
		}
		out = append(out, Source{Path: filepath.Join(path, n), Data: data, Origin: origin})
	}
	slices.SortFunc(out, func(a, b Source) int { return cmp.Compare(a.Path, b.Path) })
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
			if !e.Type().IsRegular() {
				return nil, fmt.Errorf("%s is not a regular file", e.Name())
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

func readRuleFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, fmt.Errorf("read rule file: %w", err)
	}
	return readRegular(f, path)
}

// readRegular reads and closes one file. It looks at what was opened, not at
// what the name led to before.
func readRegular(f fs.File, path string) ([]byte, error) {
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read rule file %s: %w", path, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read rule file %s: it is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read rule file %s: %w", path, err)
	}
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("read rule file %s: it is larger than %d bytes", path, MaxFileSize)
	}
	return data, nil
}
