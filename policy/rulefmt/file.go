package rulefmt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"outcall/policy"
)

// Files formats rule files and directories in their place and returns the
// paths of those that changed. With check nothing is written. A file that
// cannot be formatted is an error and keeps the others from nothing.
func Files(check bool, paths ...string) (changed []string, err error) {
	src, err := policy.ReadPaths(policy.Operator, paths...)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, s := range src {
		out, err := Source(s.Data)
		if err == nil && !bytes.Equal(out, s.Data) {
			if !check {
				err = replace(s.Path, out)
			}
			if err == nil {
				changed = append(changed, s.Path)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("format %s: %w", s.Path, err))
		}
	}
	return changed, errors.Join(errs...)
}

// replace writes a file so that a reader, such as a reload, sees the old or
// the new content and never a part.
func replace(path string, data []byte) (err error) {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	// The name is no rule file's, should the write be interrupted.
	f, err := os.CreateTemp(filepath.Dir(path), ".outcall-fmt-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(st.Mode().Perm()), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
