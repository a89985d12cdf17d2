package session

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An Env is what paths are made from. It is passed, not read, so that a
// session as another user or in a test finds its own.
type Env struct {
	UID        int
	RuntimeDir string // $XDG_RUNTIME_DIR
	StateHome  string // $XDG_STATE_HOME
	ConfigHome string // $XDG_CONFIG_HOME
	Home       string // $HOME
	TempDir    string // "" is /tmp
}

// HostEnv is this process's Env.
func HostEnv() Env {
	return Env{
		UID:        os.Geteuid(),
		RuntimeDir: os.Getenv("XDG_RUNTIME_DIR"),
		StateHome:  os.Getenv("XDG_STATE_HOME"),
		ConfigHome: os.Getenv("XDG_CONFIG_HOME"),
		Home:       os.Getenv("HOME"),
	}
}

// Root is the directory of all sessions of the user. A runtime directory that
// is unset, relative, missing or not the user's own (as under sudo) is passed
// over for /tmp/outcall-<uid>. Nothing is made here.
func (e Env) Root() string {
	if filepath.IsAbs(e.RuntimeDir) && e.owns(e.RuntimeDir) {
		return filepath.Join(e.RuntimeDir, "outcall")
	}
	tmp := e.TempDir
	if tmp == "" {
		tmp = "/tmp"
	}
	return filepath.Join(tmp, "outcall-"+strconv.Itoa(e.UID))
}

// owns tells whether dir is a directory of the user that nobody else can
// write.
func (e Env) owns(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR &&
		int(st.Uid) == e.UID && st.Mode&0o022 == 0
}

// StateDir is ${XDG_STATE_HOME:-~/.local/state}/outcall, "" without either.
func (e Env) StateDir() string { return e.under(e.StateHome, ".local/state") }

// ConfigDir is ${XDG_CONFIG_HOME:-~/.config}/outcall, "" without either.
func (e Env) ConfigDir() string { return e.under(e.ConfigHome, ".config") }

func (e Env) under(dir, fallback string) string {
	if filepath.IsAbs(dir) {
		return filepath.Join(dir, "outcall")
	}
	if filepath.IsAbs(e.Home) {
		return filepath.Join(e.Home, fallback, "outcall")
	}
	return ""
}

// AuditPath is the default audit log of a session, "" where there is no home.
func (e Env) AuditPath(name string) string {
	if d := e.StateDir(); d != "" {
		return filepath.Join(d, name, auditFile)
	}
	return ""
}

const auditFile = "audit.jsonl"

// MakePrivateDir makes dir, 0700, and the directories above it, 0700 as well
// where they are missing (as the XDG base directory specification asks). An
// existing one must be a directory of uid with mode 0700, and no symlink.
func MakePrivateDir(dir string, uid int) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make %s: %w", filepath.Dir(dir), plain(err))
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make %s: %w", dir, plain(err))
	}
	return CheckPrivateDir(dir, uid)
}

// CheckPrivateDir refuses a directory that is not uid's own with mode 0700.
func CheckPrivateDir(dir string, uid int) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is no directory", dir)
	case int(st.Uid) != uid:
		return fmt.Errorf("%s belongs to uid %d, not to you (uid %d)", dir, st.Uid, uid)
	case st.Mode&0o777 != 0o700:
		return fmt.Errorf("%s has mode %#o, must be 0700", dir, st.Mode&0o777)
	}
	return nil
}

// plain takes the operation and path off an error of package os: the caller
// names both.
func plain(err error) error {
	if e, ok := err.(*os.PathError); ok {
		return e.Err
	}
	return err
}

// startTime is field 22 of /proc/PID/stat: together with the pid it names a
// process for people who compare; the lock is what decides.
func startTime(pid int) (uint64, error) {
	p := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := os.ReadFile(p)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s has %d fields", p, len(fields)+2)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
