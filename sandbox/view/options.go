package view

import (
	"net/netip"
)

// Options are what Plan must be told.
type Options struct {
	// UID and GID are the kernel ids that the agent runs as.
	UID, GID int
	// Groups are its supplementary groups.
	Groups []int
	// Subordinate is set when the agent gets more ids than its own (--root
	// with a range): then every owner other than kernel uid 0 may be its.
	Subordinate bool
	// AsRoot is set when the agent keeps kernel uid 0.
	AsRoot bool
	// WeakProc is --weak proc.
	WeakProc bool

	Dir        string // working directory
	RuntimeDir string // $XDG_RUNTIME_DIR of the agent, "" for none
	Env        []string
	// PrivateHome asks for an empty home at PrivateHome.
	PrivateHome bool
	// Scratch is an existing empty directory for /tmp, owned by the caller and
	// removed by it with RemoveScratch; "" asks for a tmpfs.
	Scratch string

	// Config are directories of outcall's own (rules, trust): made 0700 where
	// missing, read-only inside.
	Config []string
	// State are directories of outcall's own (state, sessions): made 0700
	// where missing, empty inside.
	State []string
	// ReadOnly are further paths to protect: rule files and directories, a
	// trusted project directory, the audit file, the socket's directory. What
	// does not exist is left out.
	ReadOnly []string
	// Executable is the path of the running program, "" for /proc/self/exe.
	Executable string
	// Binds are --bind.
	Binds []string

	// Hostname is the agent's own name; Resolvers the nameservers.
	Hostname  string
	Resolvers []netip.Addr

	FailStage string
}
