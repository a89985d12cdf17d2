package requests

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Store is the requests of one project. It is safe for concurrent use, by
// several processes, too.
type Store struct {
	Project string // the working directory, links resolved, as JSON can write it
	dir     string // of the files of all projects
	base    string // name of this project's files in it, less their endings
	now     func() time.Time

	mu   sync.Mutex
	seen identity // of the file that list was read from
	list []Request
}

// Open returns the store of a project's directory in dir, which is made where
// it is missing and must be the user's own, 0700.
func Open(dir, project string) (*Store, error) {
	abs, err := filepath.Abs(project)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, fmt.Errorf("rule requests: project directory: %w", err)
	}
	if err := privateDir(dir); err != nil {
		return nil, fmt.Errorf("rule requests: %w", err)
	}
	sum := sha256.Sum256([]byte(abs))
	return &Store{Project: strings.ToValidUTF8(abs, "?"), dir: dir, base: hex.EncodeToString(sum[:]), now: time.Now}, nil
}

// Path is the file.
func (s *Store) Path() string { return filepath.Join(s.dir, s.base+".json") }

// List returns all requests, the oldest first. An approval whose time is up is
// Expired, whether or not that has been written.
func (s *Store) List(context.Context) ([]Request, error) {
	list, err := s.read()
	if err != nil {
		return nil, err
	}
	s.expire(list)
	return list, nil
}

func (s *Store) expire(list []Request) {
	now := s.now()
	for i := range list {
		if list[i].due(now) {
			list[i].end(Expired, "", now)
		}
	}
}

// Get returns one request, or ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (Request, error) {
	return s.first(ctx, func(r Request) bool { return r.ID == id })
}

// Find returns the request of a text that waits, is in force or was rejected,
// or ErrNotFound.
func (s *Store) Find(ctx context.Context, text string) (Request, error) {
	return s.first(ctx, sameText(Hash(text)))
}

// sameText finds a request that answers for another of its text. One whose
// time is up does not: it may be asked for again.
func sameText(hash string) func(Request) bool {
	return func(r Request) bool { return r.SHA256 == hash && r.Status != Expired }
}

func (s *Store) first(ctx context.Context, match func(Request) bool) (Request, error) {
	list, err := s.List(ctx)
	if err != nil {
		return Request{}, err
	}
	if i := slices.IndexFunc(list, match); i >= 0 {
		return list[i], nil
	}
	return Request{}, ErrNotFound
}

// Add keeps a new request. Where its text has one by now, that is returned.
func (s *Store) Add(ctx context.Context, r Request) (out Request, err error) {
	r.Status, r.SHA256, r.Submitted = Pending, Hash(r.Text), s.now().UTC()
	if err := r.check(); err != nil {
		return Request{}, fmt.Errorf("rule requests: %w", err)
	}
	err = s.change(ctx, func(list []Request) ([]Request, error) {
		if i := slices.IndexFunc(list, sameText(r.SHA256)); i >= 0 {
			out = list[i]
			return nil, nil
		}
		if err := room(list, Pending, maxPending, len(r.Text)); err != nil {
			return nil, err
		}
		out = r
		return append(list, r), nil
	})
	return out, err
}

// room finds whether one more can be in a status, with so many bytes more.
func room(list []Request, status string, most, bytes int) error {
	n := 0
	for _, r := range list {
		if r.Status == status {
			n++
		}
		bytes += len(r.Text)
	}
	if n >= most {
		return fmt.Errorf("%w: %d are %s", ErrFull, n, status)
	}
	if bytes > maxTexts {
		return fmt.Errorf("%w: their texts have more than %d bytes", ErrFull, maxTexts)
	}
	return nil
}

// Approve puts a request that waits in force: until a time, or for good where
// that is zero. Its text must have the hash of what was shown.
func (s *Store) Approve(ctx context.Context, id, hash string, until time.Time) (Request, error) {
	return s.one(ctx, id, Pending, func(list []Request, r *Request) error {
		if r.SHA256 != hash {
			return ErrChanged
		}
		if err := room(list, Approved, maxApproved, 0); err != nil {
			return err
		}
		r.Status, r.Answered, r.Expires = Approved, s.now().UTC(), until.UTC()
		if until.IsZero() {
			r.Expires = time.Time{}
		}
		return nil
	})
}

// Undo makes a request that was just approved wait again: its rules could not
// be put in force.
func (s *Store) Undo(ctx context.Context, id string) error {
	_, err := s.one(ctx, id, Approved, func(_ []Request, r *Request) error {
		r.Status, r.Answered, r.Expires = Pending, time.Time{}, time.Time{}
		return nil
	})
	return err
}

// Reject ends a request that waits, with a reason for the agent.
func (s *Store) Reject(ctx context.Context, id, reason string) (Request, error) {
	return s.reject(ctx, id, Pending, reason)
}

// Revoke takes an approval back.
func (s *Store) Revoke(ctx context.Context, id, reason string) (Request, error) {
	return s.reject(ctx, id, Approved, reason)
}

func (s *Store) reject(ctx context.Context, id, from, reason string) (Request, error) {
	if err := CheckReason(reason); err != nil {
		return Request{}, err
	}
	return s.one(ctx, id, from, func(_ []Request, r *Request) error {
		r.end(Rejected, reason, s.now().UTC())
		return nil
	})
}

// Expire writes down which approvals have come to the end of their time.
func (s *Store) Expire(ctx context.Context) error {
	return s.change(ctx, func(list []Request) ([]Request, error) { return list, nil })
}

// one changes one request that is in a status.
func (s *Store) one(ctx context.Context, id, from string, do func(list []Request, r *Request) error) (out Request, err error) {
	err = s.change(ctx, func(list []Request) ([]Request, error) {
		i := slices.IndexFunc(list, func(r Request) bool { return r.ID == id })
		if i < 0 {
			return nil, ErrNotFound
		}
		if list[i].Status != from {
			return nil, &StatusError{id, list[i].Status}
		}
		if err := do(list, &list[i]); err != nil {
			return nil, err
		}
		out = list[i]
		return list, nil
	})
	return out, err
}

// change reads, changes and writes the list under the lock. do returns nil to
// leave the file as it is.
func (s *Store) change(ctx context.Context, do func(list []Request) ([]Request, error)) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return fmt.Errorf("rule requests: %w", err)
	}
	defer unlock()
	list, err := s.List(ctx)
	if err != nil {
		return err
	}
	if list, err = do(list); err != nil || list == nil {
		return err
	}
	if err := s.write(prune(list, s.now())); err != nil {
		return fmt.Errorf("write rule requests: %w", err)
	}
	return nil
}

// prune leaves out what was answered long ago, or is too much.
func prune(list []Request, now time.Time) []Request {
	ended := 0
	for _, r := range list {
		if r.ended() {
			ended++
		}
	}
	return slices.DeleteFunc(list, func(r Request) bool {
		if !r.ended() || ended <= maxAnswered && now.Sub(r.Submitted) < keepFor {
			return false
		}
		ended--
		return true
	})
}

// corrupt is what a file that no store has written is called.
func (s *Store) corrupt(why error) error {
	return fmt.Errorf("rule requests: %s is corrupt: %w (nothing in it is in force; remove it to begin anew)", s.Path(), why)
}

// missing reports that nothing was ever kept.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
