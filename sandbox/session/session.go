package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"outcall/sandbox/view"
)

// Info is the content of session.json.
type Info struct {
	Name      string      `json:"name"`
	Agent     string      `json:"agent"`
	PID       int         `json:"pid"`        // of the supervisor
	StartTime uint64      `json:"start_time"` // of that process, clock ticks since boot
	Command   []string    `json:"command"`
	Started   time.Time   `json:"started"`
	Socket    string      `json:"socket"`
	Audit     string      `json:"audit,omitempty"`
	Rules     []string    `json:"rules,omitempty"` // --rules: no other session's command may write them
	Published []Published `json:"published,omitempty"`
	Scratch   string      `json:"scratch,omitempty"` // behind the command's /tmp, where that is not below the session's directory
}

// Published is one port of the host that leads inside.
type Published struct {
	Host string `json:"host"` // ADDR:PORT
	Port uint16 `json:"port"` // inside
}

func (p Published) String() string { return fmt.Sprintf("%s->%d", p.Host, p.Port) }

const (
	infoFile   = "session.json"
	socketFile = "host.sock"
	lockFile   = "lock~" // no session can have this name
)

// maxInfo bounds session.json; a command line that makes it longer is cut.
const (
	maxInfo    = 256 << 10
	maxCommand = 64 << 10
)

// Options say which session is made.
type Options struct {
	Name    string // --name; empty: DefaultName
	Socket  string // --socket, absolute; empty: in the session's directory
	Command []string
	Rules   []string // --rules, absolute
}

// A LiveError says that a session of the name runs already.
type LiveError struct{ Info Info }

func (e *LiveError) Error() string {
	return fmt.Sprintf("session %q is already running (pid %d)", e.Info.Name, e.Info.PID)
}

// A Session is one that this process holds.
type Session struct {
	Info Info
	Dir  string // ROOT/<name>
	root string
	file *os.File // session.json, locked
}

// Create makes the directory of a new session, removes stale ones first, and
// takes the lock. A live session of the same name is a *LiveError. The
// directory of o.Socket must be the user's own with mode 0700; where it is
// missing it is made.
func Create(ctx context.Context, e Env, o Options) (*Session, error) {
	if o.Name != "" {
		if err := CheckName(o.Name); err != nil {
			return nil, err
		}
	}
	root := e.Root()
	unlock, err := makeRoot(ctx, root, e.UID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	live, _ := sweep(root) // what cannot be removed now is tried again by the next run or ps
	name := o.Name
	for tries := 0; name == "" || o.Name == "" && taken(root, live, name); tries++ {
		if tries == 100 {
			return nil, fmt.Errorf("session directory: no free name in %s", root)
		}
		name = DefaultName(o.Command[0])
	}
	for _, i := range live {
		if i.Name == name {
			return nil, &LiveError{Info: i}
		}
		if o.Socket != "" && i.Socket == o.Socket {
			return nil, fmt.Errorf("socket %s belongs to the running session %q (pid %d)", o.Socket, i.Name, i.PID)
		}
	}
	return create(e, root, name, o)
}

// makeRoot makes the root and locks it, again where the end of another
// session removed it in between.
func makeRoot(ctx context.Context, root string, uid int) (unlock func(), err error) {
	for {
		if err := MakePrivateDir(root, uid); err != nil {
			// A root that went away just now is no fault of the directory.
			if errors.Is(err, os.ErrNotExist) && ctx.Err() == nil && parentExists(root) {
				continue
			}
			return nil, fmt.Errorf("session directory: %w", err)
		}
		if unlock, err = lockRoot(ctx, root); !errors.Is(err, os.ErrNotExist) {
			return unlock, err
		}
	}
}

func parentExists(path string) bool {
	_, err := os.Stat(filepath.Dir(path))
	return err == nil
}

func taken(root string, live []Info, name string) bool {
	for _, i := range live {
		if i.Name == name {
			return true
		}
	}
	_, err := os.Lstat(filepath.Join(root, name))
	return err == nil
}

// create runs under the root's lock.
func create(e Env, root, name string, o Options) (_ *Session, err error) {
	s := &Session{root: root, Dir: filepath.Join(root, name)}
	s.Info = Info{
		Name: name, Agent: AgentName(o.Name, o.Command[0]), PID: os.Getpid(),
		Command: cut(o.Command), Started: time.Now().UTC(), Socket: o.Socket, Rules: o.Rules,
	}
	if s.Info.StartTime, err = startTime(s.Info.PID); err != nil {
		return nil, fmt.Errorf("session file: %w", err)
	}
	if s.Info.Socket == "" {
		s.Info.Socket = filepath.Join(s.Dir, socketFile)
	} else if err := MakePrivateDir(filepath.Dir(s.Info.Socket), e.UID); err != nil {
		return nil, fmt.Errorf("directory of the socket: %w", err)
	}
	if err := MakePrivateDir(s.Dir, e.UID); err != nil {
		return nil, fmt.Errorf("session directory: %w", err)
	}
	s.file, err = os.OpenFile(filepath.Join(s.Dir, infoFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("session file: %w", err)
	}
	if err := flock(s.file, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("lock %s: %w", s.file.Name(), err)
	}
	if err := s.write(); err != nil {
		s.file.Close()
		return nil, err
	}
	if o.Socket != "" {
		// The lock is ours, so is the name: a socket that a dead session left at
		// a place of its own is ours to remove. Anything else stays, and Listen
		// fails on it.
		removeSocket(o.Socket)
	}
	return s, nil
}

// cut bounds the command for the file; people read it there.
func cut(argv []string) []string {
	n := 0
	for i, a := range argv {
		if n += len(a); n > maxCommand {
			return append(append([]string(nil), argv[:i]...), "…")
		}
	}
	return argv
}

// SetAudit notes where the audit is written, for log and ps.
func (s *Session) SetAudit(ctx context.Context, path string) error {
	unlock, err := lockRoot(ctx, s.root)
	if err != nil {
		return err
	}
	defer unlock()
	s.Info.Audit = path
	return s.write()
}

// SetScratch notes a directory that goes with the session, so that the next
// run or ps removes it where this process cannot.
func (s *Session) SetScratch(ctx context.Context, path string) error {
	unlock, err := lockRoot(ctx, s.root)
	if err != nil {
		return err
	}
	defer unlock()
	s.Info.Scratch = path
	return s.write()
}

// SetPublished notes which ports of the host lead inside, for ps.
func (s *Session) SetPublished(ctx context.Context, ports []Published) error {
	unlock, err := lockRoot(ctx, s.root)
	if err != nil {
		return err
	}
	defer unlock()
	s.Info.Published = ports
	return s.write()
}

// write runs under the root's lock, which readers take as well.
func (s *Session) write() error {
	b, err := json.Marshal(s.Info)
	if err != nil {
		return fmt.Errorf("session file: %w", err)
	}
	if err := s.file.Truncate(0); err != nil {
		return fmt.Errorf("session file: %w", err)
	}
	if _, err := s.file.WriteAt(append(b, '\n'), 0); err != nil {
		return fmt.Errorf("session file: %w", err)
	}
	return nil
}

// Close removes the session's directory and gives the name back. It waits for
// the root's lock at most until ctx ends; the next run or ps then removes
// what is left.
func (s *Session) Close(ctx context.Context) error {
	defer s.file.Close()
	unlock, err := lockRoot(ctx, s.root)
	if err != nil {
		return err
	}
	defer unlock()
	if filepath.Dir(s.Info.Socket) != s.Dir {
		removeSocket(s.Info.Socket)
	}
	return removeDir(s.Dir)
}

// removeSocket removes path if it is a socket.
func removeSocket(path string) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
		os.Remove(path)
	}
}

// removeDir removes a session's directory. An audit log in it stays: it is
// there because no better place could be written.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove a session's directory: %w", err)
	}
	kept := false
	var first error
	for _, e := range entries {
		if ok, _ := filepath.Match(auditFile+"*", e.Name()); ok {
			kept = true
			continue
		}
		// What is a directory here was the command's /tmp: whatever modes and
		// depth it has been given.
		remove := os.Remove
		if e.IsDir() {
			remove = view.RemoveScratch
		}
		if err := remove(filepath.Join(dir, e.Name())); err != nil && first == nil {
			first = fmt.Errorf("remove a session's directory: %w", err)
		}
	}
	if first != nil || kept {
		return first
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a session's directory: %w", err)
	}
	return nil
}
