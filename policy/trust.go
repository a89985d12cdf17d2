package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A TrustStore remembers which rules of which project the user has trusted:
// one record per project directory, so that a new trust replaces the old.
// The directory is the user's own, mode 0700, and unreachable for the agent.
type TrustStore struct {
	Dir string
}

// A TrustRecord is one entry of the store.
type TrustRecord struct {
	Path   string `json:"path"`   // of the project directory, links resolved
	SHA256 string `json:"sha256"` // of its rules, see HashSources
}

// HashSources returns the hash of rule files: names (relative to their
// directory) and contents, in the byte order of the names, each with its
// length before it.
func HashSources(src []Source) string {
	h := sha256.New()
	var n [8]byte
	put := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for _, s := range src {
		put([]byte(filepath.Base(s.Path)))
		put(s.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// file is where the record of a project stands.
func (t TrustStore) file(project string) string {
	sum := sha256.Sum256([]byte(project))
	return filepath.Join(t.Dir, hex.EncodeToString(sum[:])+".json")
}

// Trusted reports whether exactly these rules were trusted for this project.
// A record that is missing or cannot be understood is no trust.
func (t TrustStore) Trusted(project string, src []Source) (bool, error) {
	path, err := canonicalDir(project)
	if err != nil {
		return false, err
	}
	data, err := os.ReadFile(t.file(path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the trust store: %w", err)
	}
	var rec TrustRecord
	if json.Unmarshal(data, &rec) != nil {
		return false, nil
	}
	return rec == TrustRecord{path, HashSources(src)}, nil
}

// Trust remembers these rules as trusted for this project. The store's
// directory is made where it is missing.
func (t TrustStore) Trust(project string, src []Source) (TrustRecord, error) {
	path, err := canonicalDir(project)
	if err != nil {
		return TrustRecord{}, err
	}
	rec := TrustRecord{path, HashSources(src)}
	data, err := json.Marshal(rec)
	if err != nil {
		return rec, err
	}
	if err := os.MkdirAll(t.Dir, 0o700); err != nil {
		return rec, fmt.Errorf("make the trust store: %w", err)
	}
	if err := replaceFile(t.file(path), append(data, '\n')); err != nil {
		return rec, fmt.Errorf("write the trust store: %w", err)
	}
	return rec, nil
}

// Forget removes a project's record; a missing one is no error.
func (t TrustStore) Forget(project string) error {
	path, err := canonicalDir(project)
	if err != nil {
		return err
	}
	if err := os.Remove(t.file(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write the trust store: %w", err)
	}
	return nil
}

func canonicalDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("project directory: %w", err)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", fmt.Errorf("project directory: %w", err)
	}
	return abs, nil
}

// replaceFile writes a file so that a reader sees the old or the new content.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), strings.TrimSuffix(filepath.Base(path), ".json")+"-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
