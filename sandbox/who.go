package sandbox

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"outcall/sandbox/view"
)

// agentUser says whose HOME, USER and LOGNAME the command gets: nil keeps the
// caller's. Only real root's agent is someone else; where that user has no
// home that it can enter, the command gets a private empty one.
func (s *supervisor) agentUser() *view.User {
	if !s.ids.Drop {
		return nil
	}
	u := &view.User{Name: s.ids.User, Home: s.ids.Home}
	if u.Name == "" {
		u.Name = "nobody"
	}
	if !enterable(u.Home, s.ids.KernelUID, s.ids.KernelGID) {
		u.Home = view.PrivateHome
	}
	return u
}

// enterable tells whether a user owns a directory and can reach it. It looks
// at owner and modes: the caller is root, whom access(2) tells nothing.
func enterable(dir string, uid, gid int) bool {
	if !filepath.IsAbs(dir) || dir == "/" {
		return false
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != uid {
		return false
	}
	for p := dir; p != "/"; p = filepath.Dir(p) {
		if unix.Stat(p, &st) != nil {
			return false
		}
		bit := uint32(0o001)
		switch {
		case int(st.Uid) == uid:
			bit = 0o100
		case int(st.Gid) == gid:
			bit = 0o010
		}
		if st.Mode&bit == 0 {
			return false
		}
	}
	return true
}

// checkSocket refuses a --socket that the command could write: a fake one in
// its place would be what the operator's next command speaks with. The
// command is of the same user, so only what the view replaces or hides is out
// of its reach, and not what is brought back into that.
func (s *supervisor) checkSocket() error {
	if s.cfg.Socket == "" || s.ids.Drop {
		return nil // its directory is 0700 and the operator's own
	}
	dir := resolved(filepath.Dir(s.cfg.Socket))
	for _, back := range append([]string{s.cfg.Dir}, s.cfg.Binds...) {
		if within(dir, resolved(back)) {
			return fmt.Errorf("socket %s: the command could write it, below %s; choose a place below /run, /tmp or $XDG_RUNTIME_DIR", s.cfg.Socket, back)
		}
	}
	for _, hidden := range nonEmpty("/run", "/tmp", "/dev/shm", runtimeDir(s.cfg.Env), s.env.StateDir(), s.env.Root()) {
		if within(dir, resolved(hidden)) {
			return nil
		}
	}
	return fmt.Errorf("socket %s: the command could write it; choose a place below /run, /tmp or $XDG_RUNTIME_DIR", s.cfg.Socket)
}

// resolved follows the symlinks of as much of a path as exists.
func resolved(path string) string {
	for rest := ""; ; {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(real, rest)
		}
		if path == "/" || path == "." {
			return filepath.Join(path, rest)
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// makeScratch makes the directory on disk behind the command's /tmp: in the
// session's own, which nobody else enters. Where the command is somebody else
// than the caller it could not enter that either, and the directory stands
// beside it.
func (s *supervisor) makeScratch(ctx context.Context) error {
	parents := []string{s.sess.Dir, "/var/tmp", "/tmp"}
	if s.ids.Drop {
		parents = parents[1:]
	}
	s.scratch = view.MakeScratch(s.ids.KernelUID, s.ids.KernelGID, parents...)
	if s.scratch == "" || filepath.Dir(s.scratch) == s.sess.Dir {
		return nil
	}
	return s.sess.SetScratch(ctx, s.scratch)
}

func runtimeDir(env []string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "XDG_RUNTIME_DIR="); ok {
			return v
		}
	}
	return ""
}

func hasWord(words []string, w string) bool { return slices.Contains(words, w) }

func nonEmpty(in ...string) []string {
	return slices.DeleteFunc(in, func(s string) bool { return s == "" })
}

// agentDir is where the command starts: where the caller stands, unless it has
// another uid that cannot enter there.
func (s *supervisor) agentDir() string {
	if s.view.Moved != "" {
		return s.view.Dir
	}
	return s.cfg.Dir
}

// asRootMend is for a session of real root's whose command has no rights where
// root stands.
const asRootMend = "give the directory to that user, name another by --workdir, or --as-root keeps root"

// notItsOwn says what the command cannot do in the caller's directory, for want
// of the caller's uid; "" is nothing.
func (s *supervisor) notItsOwn() string {
	switch {
	case s.view.Moved != "":
		return "the command cannot enter " + s.view.Moved + " and starts in " + s.view.Dir
	case s.view.Unwritable:
		return "the command cannot write " + s.view.Dir
	}
	return ""
}
