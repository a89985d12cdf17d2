package session

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"outcall/sandbox/view"
)

// List returns the live sessions of the user, oldest first, and removes what
// dead ones have left.
func List(ctx context.Context, e Env) ([]Info, error) {
	root := e.Root()
	if _, err := os.Lstat(root); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err := CheckPrivateDir(root, e.UID); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("session directory: %w", err)
	}
	unlock, err := lockRoot(ctx, root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	return sweep(root)
}

// sweep reads all sessions under the root's lock and removes the stale ones.
// The error is the first thing that could not be removed; the list is whole
// all the same.
func sweep(root string) ([]Info, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list the sessions: %w", err)
	}
	var live []Info
	var first error
	for _, e := range entries {
		if !e.IsDir() || CheckName(e.Name()) != nil {
			continue
		}
		info, alive, err := look(filepath.Join(root, e.Name()))
		if alive {
			live = append(live, info)
			continue
		}
		if err == nil {
			if info.Socket != "" && filepath.Dir(info.Socket) != filepath.Join(root, e.Name()) {
				removeSocket(info.Socket)
			}
			if info.Scratch != "" {
				err = view.RemoveScratch(info.Scratch)
			}
			err = cmp.Or(err, removeDir(filepath.Join(root, e.Name())))
		}
		first = cmp.Or(first, err)
	}
	slices.SortFunc(live, func(a, b Info) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.Name, b.Name))
	})
	return live, first
}

// look reads one session's file and tells whether its lock is held. A live
// session whose file cannot be read still counts, by its name.
func look(dir string) (info Info, alive bool, err error) {
	f, err := os.OpenFile(filepath.Join(dir, infoFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Info{}, false, nil
	}
	if err != nil {
		return Info{}, false, fmt.Errorf("look at a session: %w", err)
	}
	defer f.Close()
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	alive = errors.Is(err, unix.EWOULDBLOCK)
	if err != nil && !alive {
		return Info{}, false, fmt.Errorf("look at the lock of %s: %w", f.Name(), err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxInfo))
	if err == nil {
		err = json.Unmarshal(b, &info)
	}
	if err != nil || info.Name != filepath.Base(dir) {
		info = Info{Name: filepath.Base(dir), Socket: filepath.Join(dir, socketFile)}
	}
	return info, alive, nil
}

// A PickError says that no single session was meant. Names lists those that
// run.
type PickError struct {
	Want  string // --session, "" if not given
	Names []string
}

func (e *PickError) Error() string {
	running := "no session is running"
	if len(e.Names) > 0 {
		running = "running: " + strings.Join(e.Names, ", ")
	}
	switch {
	case e.Want != "":
		return fmt.Sprintf("session %q is not running (%s)", e.Want, running)
	case len(e.Names) == 0:
		return running
	}
	return "several sessions are running, name one with --session: " + strings.Join(e.Names, ", ")
}

// Pick returns the live session of a name, or the only one where name is
// empty; else a *PickError.
func Pick(ctx context.Context, e Env, name string) (Info, error) {
	live, err := List(ctx, e)
	if err != nil && live == nil {
		return Info{}, err
	}
	pe := &PickError{Want: name}
	for _, i := range live {
		if i.Name == name || name == "" && len(live) == 1 {
			return i, nil
		}
		pe.Names = append(pe.Names, i.Name)
	}
	return Info{}, pe
}
