package view

import (
	"syscall"
)

// A Spec is the whole description of one agent's view. It is made by Plan,
// travels as JSON and is carried out by Apply. All paths are absolute and
// clean, as the host sees them.
type Spec struct {
	// Dir is the working directory, the same inside.
	Dir string `json:"dir"`
	// Moved is the caller's working directory where the agent's uid cannot
	// enter it and starts in Dir instead; for the banner.
	Moved string `json:"moved,omitempty"`
	// Unwritable says that the agent's uid, which is not the caller's, can make
	// nothing in Dir; for the banner.
	Unwritable bool `json:"unwritable,omitempty"`
	// WeakProc keeps the outer /proc instead of a fresh one.
	WeakProc bool `json:"weak_proc,omitempty"`
	// LockSysctl makes /proc/sys and /proc/sysrq-trigger read-only, which only
	// kernel uid 0 needs and which ends nested mounts of /proc.
	LockSysctl bool `json:"lock_sysctl,omitempty"`

	// TmpDir is where the own /tmp goes ("" = the host has none), Scratch the
	// directory on disk that backs it ("" = a tmpfs).
	TmpDir  string `json:"tmp_dir,omitempty"`
	Scratch string `json:"scratch,omitempty"`
	// RunDirs get one tmpfs of their own between them: /run first.
	RunDirs []string `json:"run_dirs,omitempty"`
	// RunKeep are entries of /run that are brought back read-only.
	RunKeep []string `json:"run_keep,omitempty"`
	// RuntimeDir is $XDG_RUNTIME_DIR, made 0700 and empty.
	RuntimeDir string `json:"runtime_dir,omitempty"`
	// Home is a private empty home to be made, "" for none.
	Home string `json:"home,omitempty"`

	// Back are paths below replaced directories that are bound back
	// read-write: the working directory and --bind.
	Back []string `json:"back,omitempty"`
	// Pinned are the directories that become mount points so that nobody
	// inside renames them away, outermost first.
	Pinned []string `json:"pinned,omitempty"`
	// ReadOnly are the protected paths.
	ReadOnly []Guarded `json:"read_only,omitempty"`
	// Hidden are directories in whose place stands an empty one.
	Hidden []string `json:"hidden,omitempty"`
	// Sockets are covered by an empty file.
	Sockets []string `json:"sockets,omitempty"`

	// Resolv and Hosts are the texts of /etc/resolv.conf and /etc/hosts.
	Resolv string `json:"resolv"`
	Hosts  string `json:"hosts"`

	// Shim is the host path of the small agent program, copied to
	// /run/outcall/bin/outcall-agent; "" makes that a second name of outcall.
	Shim string `json:"shim,omitempty"`

	// FailStage makes the named stage fail with EPERM; for tests.
	FailStage string `json:"fail_stage,omitempty"`
}

// A Guarded path is read-only inside. Dev and Ino say which file it was when
// it was planned.
type Guarded struct {
	Path string `json:"path"`
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
}

// Places inside.
const (
	// RunDir is outcall's own directory, read-only to the agent.
	RunDir = "/run/outcall"
	// BinDir is on the agent's PATH.
	BinDir = RunDir + "/bin"
	// AgentSocket is where the agent API listens.
	AgentSocket = RunDir + "/agent.sock"
	// Readme tells the agent what is reachable; the supervisor writes it.
	Readme = RunDir + "/README.md"
	// voidDir is an empty directory that stands in the place of hidden ones.
	voidDir = RunDir + "/void"
	// PrivateHome is the home of an agent whose user has none it can enter.
	PrivateHome = "/tmp/home"
)

// An Error says which stage of making the view failed. Errno is the kernel's
// answer, 0 if there was none.
type Error struct {
	Stage  string // "mount", "proc", "dev", "tmp", "run", "protect", "sockets", "resolv.conf", "workdir"
	Detail string // on what
	Errno  syscall.Errno
	Hint   string // the mend
}

func (e *Error) Error() string {
	s := e.Stage
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Errno != 0 {
		s += ": " + e.Errno.Error()
	}
	return s
}

// Unwrap returns the kernel's answer.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}
