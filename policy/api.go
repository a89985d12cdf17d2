package policy

import (
	"net/netip"
)

// An EgressMode says how an allowed name is reached.
type EgressMode string

// The egress modes of contract 2.2.
const (
	ModeProxy    EgressMode = "proxy"
	ModeDirectIP EgressMode = "direct_ip"
)

// An Origin says where a rule came from; rules of project files, requests and
// grants stand after all block rules of the operator.
type Origin uint8

// Origins.
const (
	Operator Origin = iota // --rules, user and system directories
	CLI                    // --allow
	Project                // a trusted .outcall/rules
	Request                // an approved rule request
)

// A Rule is one loaded rule. Rules are immutable and shared.
type Rule struct {
	ID           string
	Description  string
	Condition    string // as written, before definitions are expanded
	Block        bool
	Priority     int32
	Log          bool
	Egress       bool // an egress block is present
	Mode         EgressMode
	Ports        []uint16 // nil: any (proxy), 80 and 443 (direct_ip)
	AllowPrivate bool
	File         string
	Line         int // of the condition in File
	Origin       Origin

	c *compiled
}

// A Source is one rule file in memory.
type Source struct {
	Path   string
	Data   []byte
	Origin Origin
}

// An Identity says who runs; it is the same for the whole session.
type Identity = Who

// Load compiles rule files into a snapshot. On any error nothing is loaded;
// the error is an ErrorList with every finding.
func Load(sources []Source) (*Snapshot, error) { panic("load") }

// ReadPaths reads rule files and directories (non-recursively, *.yaml and
// *.yml, regular files only) in the byte order of their paths, within the
// limits of the house.
func ReadPaths(origin Origin, paths ...string) ([]Source, error) { panic("read") }

// AllowTargets writes the --allow targets as a rule file with ids cli-1…; it
// is loaded beside the others with origin CLI.
func AllowTargets(targets []string) (Source, error) { panic("allow") }

// A Snapshot is one immutable compiled rule set. It is safe for concurrent use.
type Snapshot struct {
	Generation uint64
	rules      []*Rule
	warnings   []string
	files      int
}

// Rules returns the rules in the order in which they are asked.
func (s *Snapshot) Rules() []*Rule { return s.rules }

// Warnings returns what `rules check` warns of, as path:line: text.
func (s *Snapshot) Warnings() []string { return s.warnings }

// Files returns the number of files loaded.
func (s *Snapshot) Files() int { return s.files }

// Step is the one verdict function: the walk over the rules with the facts of
// one step of a flow.
func (s *Snapshot) Step(f *Facts) Outcome { panic("step") }

// Grants judges the direct_ip rules at dns, once per (address, protocol,
// port): f are the facts of the DNS question. A rule grants only where the
// word of the walk with network.* known is Allow by that rule.
func (s *Snapshot) Grants(f *Facts, addr netip.Addr) []Grant { panic("grants") }

// Flow judges a first packet for each live candidate of its address, the name
// resolved last first, and returns the best. f has address, port, protocol
// and process set; name and grants are set by Flow. Without candidates the
// flow is judged without a name. Restricted addresses and the rule that an
// open word needs a live pin are applied here (Structural).
func (s *Snapshot) Flow(f *Facts, addr netip.Addr, cands []Candidate, h *Host) Flow { panic("flow") }

// Content judges what the bytes of a flow turned out to be (hello, request,
// raw, connect). For hello, connect and request the name in f must be one of
// cands' names, else the denial is structural; addr may be invalid where it
// is not known yet.
func (s *Snapshot) Content(f *Facts, addr netip.Addr, cands []Candidate, h *Host) Flow {
	panic("content")
}

// OpenAddr reports whether an address may be an answer for a name that the
// DNS facts f ask for: whether it is Global, or opened by a rule. The reason
// says why not.
func (s *Snapshot) OpenAddr(f *Facts, addr netip.Addr, h *Host) (ok bool, reason string) {
	panic("openaddr")
}

// Cells derives the kernel's share for one (name, address) with its grants:
// each (protocol, port range) for which Flow is not Deny, with every value of
// process.* possible. name may be "" for an address known without a name.
func (s *Snapshot) Cells(who Who, name string, addr netip.Addr, grants []Grant, h *Host) []Cell {
	panic("cells")
}

// NetCells derives the cells of the interval maps: every literal address and
// CIDR in a rule, and all addresses where a rule can be a true allow with
// neither. The result is disjoint: the first rule in order owns a cell.
func (s *Snapshot) NetCells(who Who, h *Host) []Cell { panic("netcells") }

// Classify says who may be let to an address (see Class). h may be nil.
func Classify(a netip.Addr, h *Host) (Class, string) { panic("classify") }
