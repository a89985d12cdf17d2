package sandbox

import (
	"net/netip"
	"os"
	"time"

	"outcall/policy"
	"outcall/sandbox/publish"
)

// Config is one `outcall run`, already parsed and checked for usage. Relative
// paths have been made absolute by the caller.
type Config struct {
	Command []string
	Dir     string // working directory, as seen by the command too
	Env     []string
	SetEnv  []string // -e: K=V, or K to bring the caller's back

	Name      string // --name; empty: made from the command
	Observe   bool
	Sources   func() ([]policy.Source, error) // reads every rule file anew, through descriptors opened at the start
	RulePaths []string                        // rule files and directories: read-only inside

	DNSUpstream   []netip.AddrPort // empty: the host's resolv.conf
	UpstreamProxy string           // "", "none" or a URL; "" = the host's variables

	Subnet    netip.Prefix // 10.200.0.0/24
	Bridge    string       // outcall0
	ProxyPort uint16       // 8080
	NoProxy   bool

	Publish []publish.Spec // --publish

	Socket string // --socket, "" = default
	Audit  string // --audit, "" = default
	Binds  []string

	Root, AsRoot bool
	Link         string // auto|packet|tap
	Weak         []string
	Timeout      time.Duration
	Quiet        bool
	Verbose      bool

	Version string // for the host API

	Stdin, Stdout, Stderr *os.File
}
