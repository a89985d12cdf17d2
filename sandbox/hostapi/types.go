package hostapi

import (
	"time"

	"outcall/sandbox/session"
)

// Session answers GET /api/v1/session.
type Session struct {
	Name      string              `json:"name"`
	Agent     string              `json:"agent"`
	PID       int                 `json:"pid"` // of the supervisor
	Command   []string            `json:"command"`
	Started   time.Time           `json:"started"`
	Mode      string              `json:"mode"` // enforce or observe
	Weak      []string            `json:"weak"` // weaker modes in force
	Link      string              `json:"link"` // packet or tap
	IPv6      bool                `json:"ipv6"`
	Socket    string              `json:"socket"`
	Audit     string              `json:"audit"`
	AuditHead string              `json:"audit_head"` // hash of the last audit line
	Rules     int                 `json:"rules"`
	Files     int                 `json:"files"`
	Version   string              `json:"version"`
	Published []session.Published `json:"published"` // ports of the host that lead inside
}

// Bridge answers GET /api/v1/bridge. Index is nil while the link is down.
type Bridge struct {
	Name           string `json:"name"`
	Up             bool   `json:"up"`
	Index          *int   `json:"index"`
	NftablesActive bool   `json:"nftables_active"`
}

// NFT answers GET /api/v1/bridge/nft.
type NFT struct {
	Text string `json:"text"` // as `nft list table inet outcall` prints it
}

// Rule is one entry of GET /api/v1/rules, in the order in which rules are
// asked.
type Rule struct {
	ID               string `json:"id"`
	File             string `json:"file"`
	Line             int    `json:"line"`
	Action           string `json:"action"` // allow or block
	Priority         int32  `json:"priority"`
	Origin           string `json:"origin"` // operator, cli, project or request
	ConditionPreview string `json:"condition_preview"`
	Description      string `json:"description"`
}

// RuleDetail answers GET /api/v1/rules/{id}.
type RuleDetail struct {
	Rule
	Condition    string   `json:"condition"`
	Log          bool     `json:"log"`
	Mode         string   `json:"mode,omitempty"` // of an allow rule
	Ports        []uint16 `json:"ports,omitempty"`
	AllowPrivate bool     `json:"allow_private_ips,omitempty"`
}

// RuleCounter counts one rule since the start of the session. Verdicts are
// the supervisor's (every layer), packets and bytes the kernel's.
type RuleCounter struct {
	ID       string `json:"id"`
	Action   string `json:"action"`
	Verdicts uint64 `json:"verdicts"`
	Failed   uint64 `json:"failed"` // evaluations that ended in an error or at the cost limit
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
}

// Counters answers GET /api/v1/rules/counters. Default counts what no rule
// matched; NXDomain the DNS questions answered so.
type Counters struct {
	Rules    []RuleCounter `json:"rules"`
	Default  RuleCounter   `json:"default"`
	NXDomain uint64        `json:"nxdomain"`
}

// Reload answers POST /api/v1/rules/reload.
type Reload struct {
	FilesLoaded int      `json:"files_loaded"`
	RulesLoaded int      `json:"rules_loaded"`
	Warnings    []string `json:"warnings"`
	DryRun      bool     `json:"dry_run,omitempty"`
	FlowsClosed int      `json:"flows_closed,omitempty"`
}

// Active is one entry of GET /api/v1/rules/active: what the kernel passes at
// this moment. Name is empty for addresses that a rule names itself.
type Active struct {
	Name          string `json:"name,omitempty"`
	Destination   string `json:"destination"` // address or CIDR
	Protocol      string `json:"protocol"`
	Port          uint16 `json:"port"`
	PortHigh      uint16 `json:"port_high,omitempty"` // where it is a range
	Rule          string `json:"rule"`
	ExpiresInSecs int    `json:"expires_in_secs,omitempty"`
}

// Flushed answers the two flush calls.
type Flushed struct {
	Removed int `json:"removed"`
}

// ExplainRequest is the body of POST /api/v1/explain. Empty facts are not
// given.
type ExplainRequest struct {
	Target string `json:"target"`
	IP     string `json:"ip,omitempty"`
	Exe    string `json:"exe,omitempty"`
	Agent  string `json:"agent,omitempty"`
}

// DNS answers GET /api/v1/dns. The listeners are the netstack's, no socket of
// the kernel.
type DNS struct {
	Running        bool     `json:"running"`
	ListenAddress  string   `json:"listen_address"`
	ListenAddress6 string   `json:"listen_address6,omitempty"`
	ListenPort     uint16   `json:"listen_port"`
	Upstreams      []string `json:"upstreams"`
	CacheEntries   int      `json:"cache_entries"`
	QueriesTotal   uint64   `json:"queries_total"`
	QueriesAllowed uint64   `json:"queries_allowed"`
	QueriesBlocked uint64   `json:"queries_blocked"`
}

// DNSCache answers GET /api/v1/dns/cache; Entries only with ?entries=true.
type DNSCache struct {
	Stats   DNSCacheStats   `json:"stats"`
	Entries []DNSCacheEntry `json:"entries,omitempty"`
}

// DNSCacheStats counts since the start of the session.
type DNSCacheStats struct {
	Entries    int    `json:"entries"`
	MaxEntries int    `json:"max_entries"`
	Hits       uint64 `json:"hits"`
	Misses     uint64 `json:"misses"`
	Evictions  uint64 `json:"evictions"`
}

// DNSCacheEntry is one cached answer.
type DNSCacheEntry struct {
	Hostname         string `json:"hostname"`
	RecordType       string `json:"record_type"`
	TTLRemainingSecs int    `json:"ttl_remaining_secs"`
}

// DNSTestRequest is the body of POST /api/v1/dns/test. The question is judged
// and, if allowed, asked upstream exactly as if the command had asked it.
// Keep leaves the answer in the cache and its addresses pinned (prewarm);
// without it nothing of the session changes.
type DNSTestRequest struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"` // default A
	Keep bool   `json:"keep,omitempty"`
}

// DNSTest answers POST /api/v1/dns/test.
type DNSTest struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Verdict string   `json:"verdict"` // allow, provisional, open or deny
	Rule    string   `json:"rule"`
	Reason  string   `json:"reason,omitempty"`
	Rcode   string   `json:"rcode"`
	Answers []string `json:"answers"` // zone-file lines
	Removed []string `json:"removed,omitempty"`
}

// Proxy answers GET /api/v1/proxy.
type Proxy struct {
	Running           bool   `json:"running"`
	ListenAddress     string `json:"listen_address"`
	ProxyURL          string `json:"proxy_url"`
	ActiveConnections int    `json:"active_connections"`
	TotalRequests     uint64 `json:"total_requests"`
	TotalBlocked      uint64 `json:"total_blocked"`
}

// Flow is one entry of GET /api/v1/flows.
type Flow struct {
	ID          string    `json:"id"`
	Protocol    string    `json:"protocol"`
	Source      string    `json:"source"`
	Destination string    `json:"destination"`
	Name        string    `json:"name,omitempty"`
	Rule        string    `json:"rule"`
	Via         string    `json:"via,omitempty"`
	Process     string    `json:"process,omitempty"` // executable
	BytesIn     int64     `json:"bytes_in"`
	BytesOut    int64     `json:"bytes_out"`
	Started     time.Time `json:"started"`
}

// Where an exec runs.
const (
	InAgent   = "agent"   // beside the command, with its rights
	InGateway = "gateway" // the gateway network namespace: an operator's tool
)

// ExecRequest is the body of POST /api/v1/exec.
type ExecRequest struct {
	Where   string   `json:"where"`
	Command []string `json:"command"`
	Dir     string   `json:"dir,omitempty"` // empty: the session's
	Env     []string `json:"env,omitempty"` // K=V on top of the session's
	TTY     bool     `json:"tty,omitempty"`
	Rows    uint16   `json:"rows,omitempty"`
	Cols    uint16   `json:"cols,omitempty"`
}
