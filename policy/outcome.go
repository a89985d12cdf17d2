package policy

import "net/netip"

// A Word is the answer of one walk over the rules. Larger is better: at flow
// the best word among the names of an address counts.
type Word uint8

// The four words of the house.
const (
	Deny        Word = iota // all else, the empty set included
	Open                    // a waiting allow stands before the first true block
	Provisional             // a true allow, but a block before it waits for later fields
	Allow                   // a true allow, no unknown block before it
)

var words = [...]string{"deny", "open", "provisional", "allow"}

func (w Word) String() string { return words[w] }

// An Outcome is what Step answers.
type Outcome struct {
	Word Word
	// Rule is the rule that decided: the true allow (allow, provisional), the
	// first waiting allow (open), the block (deny). Nil is the default policy.
	Rule *Rule
	// Reason is one line for people: which rule, and which hidden field made a
	// block match. Names in it are as the rule files have them; what comes from
	// inside the sandbox is not in it.
	Reason string
	// Waits are the fields whose later value can still change the word.
	Waits FieldSet
	// Granted is set when the deciding allow was true by a direct_ip grant, and
	// Literal when it is true on a literal network.ip alone: only such flows
	// with word allow are relayed unread.
	Granted, Literal bool
	// Failed tells that a rule could not be evaluated: the first one that the
	// walk met. For a block that is a match, for an allow it is none. It is to
	// be told to the operator whatever the word is; nil is the usual.
	Failed *Failure
}

// A Failure is an evaluation that gave no answer: an error, the cost limit or
// a fault of the library.
type Failure struct {
	Rule  *Rule
	Why   string // may hold what came from inside the sandbox
	Limit bool   // the cost limit ended it
}

// RuleID returns the id of the deciding rule, or "default policy".
func (o Outcome) RuleID() string {
	if o.Rule == nil {
		return DefaultPolicy
	}
	return o.Rule.ID
}

// DefaultPolicy is what denials name when no rule matched.
const DefaultPolicy = "default policy"

// NoAudit is the reason of denials while attempts cannot be written down.
const NoAudit = "the audit cannot be written, and what it does not show is denied"

// A Grant says that a direct_ip rule holds for an address, as judged at dns.
type Grant struct {
	Rule  string // the rule's id
	Proto Proto
	Port  uint16
}

// A Candidate is a name that is pinned at the address of a flow.
type Candidate struct {
	Name   string
	Grants []Grant
}

// A Flow is the answer for a first packet: the best word over the candidates.
type Flow struct {
	Outcome
	Name       string // the candidate that won, "" if none
	Grants     []Grant
	Structural bool // the denial holds in every mode
	// Unread flows are relayed without looking at their bytes.
	Unread bool
}

// A Class says who may be let to an address.
type Class uint8

// The classes of addresses.
const (
	Global     Class = iota // ordinary public unicast
	Private                 // RFC 1918, ULA, CGNAT and the like: opened to a name by allow_private_ips
	Restricted              // loopback, link-local, metadata, the host's own: a rule that names the literal and a port
	Never                   // the session's own subnet and gateway, multicast, unspecified: no rule opens it
)

// Host is what the sandbox knows of the machine's own addresses, at this
// moment. The zero value knows nothing.
type Host struct {
	Addrs   []netip.Addr   // the host's own addresses: Restricted
	OnLink  []netip.Prefix // on-link networks of the host: at least Private
	Session []netip.Prefix // subnet, gateway and service addresses of the session: Never
	// Synthetic addresses stand for names that only an upstream proxy can
	// resolve. They never leave, and count as Global.
	Synthetic []netip.Prefix
	// NAT64 prefixes of this network (RFC 7050), of 32, 40, 48, 56, 64 or 96
	// bits: what is below has the class of the IPv4 address that it leads to.
	NAT64 []netip.Prefix
}

// A Cell is one derived element of the kernel's maps: what nft passes.
type Cell struct {
	Prefix   netip.Prefix // a /32 or /128 for a pin
	Proto    Proto
	PortLow  uint16
	PortHigh uint16
	Rule     string // the rule whose chain and counter it jumps to
}
