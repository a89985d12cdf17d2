package policy

// An EgressMode says how an allowed name is reached.
type EgressMode string

// The egress modes of contract 2.2.
const (
	ModeProxy    EgressMode = "proxy"
	ModeDirectIP EgressMode = "direct_ip"
)

// An Origin says where a rule came from. Every rule that is not the operator's
// stands after all block rules of the operator, whatever its priority.
type Origin uint8

// Origins.
const (
	Operator Origin = iota // --rules, user and system directories
	CLI                    // --allow
	Project                // a trusted .outcall/rules
	Request                // an approved rule request
)

var originNames = [...]string{"operator", "cli", "project", "request"}

func (o Origin) String() string { return originNames[o] }

// A Rule is one loaded rule. Rules are immutable and shared.
type Rule struct {
	ID           string
	Description  string
	Condition    string // as written, before definitions are expanded
	Block        bool
	Priority     int32
	Log          bool
	Egress       bool // egress.mode is written
	Mode         EgressMode
	Ports        []uint16 // nil: any (proxy), 80 and 443 (direct_ip)
	AllowPrivate bool
	File         string
	Line         int // of the condition in File
	Origin       Origin

	c                *compiled
	allowed, blocked string // the reasons of outcomes, made once
}

// boundPorts are the ports that an allow rule binds to wherever network.port
// is known; nil means any.
func (r *Rule) boundPorts() []uint16 {
	if r.Ports == nil && r.Mode == ModeDirectIP {
		return defaultDirectPorts
	}
	return r.Ports
}

var defaultDirectPorts = []uint16{80, 443}

// A Source is one rule file in memory.
type Source struct {
	Path   string
	Data   []byte
	Origin Origin
}

// An Identity says who runs; it is the same for the whole session.
type Identity = Who

// A Snapshot is one immutable compiled rule set. It is safe for concurrent use.
type Snapshot struct {
	Generation uint64
	rules      []*Rule
	ix         *index // nil: every walk asks all rules
	warnings   []Warning
	files      int
}

// Rules returns the rules in the order in which they are asked.
func (s *Snapshot) Rules() []*Rule { return s.rules }

// Warnings returns what `rules check` warns of, as path:line: text.
func (s *Snapshot) Warnings() []string {
	var out []string
	for _, w := range s.warnings {
		out = append(out, w.String())
	}
	return out
}

// Findings returns the warnings by their parts.
func (s *Snapshot) Findings() []Warning { return s.warnings }

// Files returns the number of files loaded.
func (s *Snapshot) Files() int { return s.files }
