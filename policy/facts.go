package policy

import (
	"net/netip"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// A Layer is a step of a flow at which a verdict is asked for.
type Layer uint8

// The layers, in the order in which a flow meets them.
const (
	LayerDNS     Layer = iota + 1 // a DNS question
	LayerFlow                     // the first packet: TCP SYN, UDP datagram, ICMP echo
	LayerHello                    // a TLS ClientHello or QUIC Initial
	LayerConnect                  // CONNECT to the explicit proxy
	LayerRequest                  // a plain HTTP request, explicit or transparent
	LayerRaw                      // first bytes that are neither TLS nor HTTP
	LayerRun                      // a question over the agent API
	numLayers
)

var layerNames = [numLayers]string{"", "dns", "flow", "hello", "connect", "request", "raw", "run"}

// String returns the word that audit lines and explanations use.
func (l Layer) String() string {
	if l < numLayers {
		return layerNames[l]
	}
	return ""
}

// A State says what a layer knows of a field.
type State uint8

// The four states. Absent is the zero value: a field that nobody filled in
// cannot exist here.
const (
	Absent State = iota // it cannot exist here (the SNI of a plain HTTP request)
	Known               // its value is in the Facts
	Later               // a later layer of this flow can know it (the SNI at SYN)
	Hidden              // it exists and cannot be read (the path under TLS)
)

var stateNames = [...]string{"absent", "known", "later", "hidden"}

func (s State) String() string { return stateNames[s] }

// A Field is one name that a condition may use.
type Field uint8

// The fields of contract 2.3.
const (
	DNSQuery Field = iota
	DNSRecordType
	NetworkHostname
	NetworkIP
	NetworkPort
	NetworkProtocol
	HTTPHost
	HTTPScheme
	HTTPMethod
	HTTPPath
	HTTPQuery
	HTTPHeaders
	HTTPBodySize
	TLSSNI
	TLSALPN
	TLSECH
	TLSVersion
	AgentName
	SessionName
	ProcessExe
	ProcessName
	ProcessArgs
	RunTool
	RunArgs
	RunFlags
	RunCwd
	RunContext
	DockerImage
	DockerCommand
	DockerVolumes
	DockerEnvKeys
	DockerCapabilities
	NumFields
)

var fieldNames = [NumFields]string{
	"dns.query", "dns.record_type",
	"network.hostname", "network.ip", "network.port", "network.protocol",
	"http.host", "http.scheme", "http.method", "http.path", "http.query", "http.headers", "http.body_size",
	"tls.sni", "tls.alpn", "tls.ech", "tls.version",
	"agent.name", "session.name",
	"process.exe", "process.name", "process.args",
	"run.tool", "run.args", "run.flags", "run.cwd", "run.context",
	"docker.image", "docker.command", "docker.volumes", "docker.env_keys", "docker.capabilities",
}

// String returns the name that conditions use, such as "http.host".
func (f Field) String() string { return fieldNames[f] }

// A FieldSet is a set of fields.
type FieldSet uint64

// Has reports whether f is in the set.
func (s FieldSet) Has(f Field) bool { return s&(1<<f) != 0 }

// With returns the set with f added.
func (s FieldSet) With(f Field) FieldSet { return s | 1<<f }

// Proto is a transport protocol as rules spell it.
type Proto string

// The three protocols that rules know.
const (
	TCP  Proto = "tcp"
	UDP  Proto = "udp"
	ICMP Proto = "icmp"
)

// A Process is what the kernel's socket tables told of the process behind a
// flow at decision time. It is advisory: the process can hide or impersonate
// (kernel.md, "nftables").
type Process struct {
	PID  int      `json:"pid,omitempty"` // inside the sandbox's pid namespace
	Exe  string   `json:"exe,omitempty"`
	Args []string `json:"args,omitempty"`
}

// Who names the session and the agent that a flow belongs to.
type Who struct {
	Agent   string // agent.name
	Session string // session.name
}

// TLS is what a ClientHello told. The values are normalised: names in lower
// case, without trailing dot.
type TLS struct {
	SNI     string // empty means none was sent
	ALPN    []string
	ECH     bool
	Version string // highest offered: "1.0" … "1.3"
}

// HTTP is what the head of one plain HTTP request told. Host is lower case,
// without port and trailing dot.
type HTTP struct {
	Host     string
	Method   string
	Path     string // normalised as it is sent on
	Query    string // without "?"
	Headers  map[string]string
	BodySize int64 // -1 when the framing does not say
}

// Facts are all that is known of one step of one flow: a state for each field
// and the value of each known one, and the direct_ip grants that hold at its
// address. Facts are built with NewFacts and the Set methods, and are not
// changed while a Step reads them.
type Facts struct {
	layer  Layer
	state  [NumFields]State
	sets   [len(stateNames)]FieldSet // the same, by state; absent fields are in none
	val    [NumFields]ref.Val        // of the known fields, as CEL has them
	ip     netip.Addr                // network.ip, where it is known and an address
	grants []Grant
	name   string // the flow's name where it has one; "" otherwise
}

// Layer returns the step that these facts belong to.
func (f *Facts) Layer() Layer { return f.layer }

// State returns what is known of a field.
func (f *Facts) State(x Field) State { return f.state[x] }

// Value returns the value of a known field: string, int64, bool, []string,
// map[string]string or map[string]any; nil otherwise.
func (f *Facts) Value(x Field) any {
	if f.val[x] == nil {
		return nil
	}
	return f.val[x].Value()
}

// text returns the value of a known string field, "" otherwise.
func (f *Facts) text(x Field) string {
	s, _ := f.val[x].(types.String)
	return string(s)
}

// number returns the value of a known int field, 0 otherwise.
func (f *Facts) number(x Field) int64 {
	n, _ := f.val[x].(types.Int)
	return int64(n)
}

// only returns the fields of a set that are later or hidden.
func (f *Facts) only(s FieldSet, st State) FieldSet { return s & f.sets[st] }

// Name returns the flow's bound name, "" where it has none.
func (f *Facts) Name() string { return f.name }

func (f *Facts) set(x Field, v any) {
	f.put(x, Known, types.DefaultTypeAdapter.NativeToValue(v))
}

// put is the one place where a field changes.
func (f *Facts) put(x Field, st State, v ref.Val) {
	f.sets[f.state[x]] &^= 1 << x
	f.state[x], f.val[x] = st, v
	if st != Absent {
		f.sets[st] = f.sets[st].With(x)
	}
	if x == NetworkIP {
		f.ip = netip.Addr{}
		if s := f.text(x); s != "" {
			f.ip, _ = netip.ParseAddr(s) // what is no address is in no network
		}
	}
}

// Hide turns a field into a given unknown state; tests and explain use it.
func (f *Facts) Hide(x Field, s State) { f.put(x, s, nil) }

// Clone returns a copy that can be changed independently.
func (f *Facts) Clone() *Facts { c := *f; return &c }

// SetProcess tells which process stands behind the flow; nil leaves
// process.* hidden.
func (f *Facts) SetProcess(p *Process) {
	if p == nil || p.Exe == "" || isCut(p.Exe) {
		f.Hide(ProcessExe, Hidden)
		f.Hide(ProcessName, Hidden)
	} else {
		f.set(ProcessExe, p.Exe)
		f.set(ProcessName, baseName(p.Exe))
	}
	if p == nil || p.Args == nil || len(p.Args) > 0 && isCut(p.Args[len(p.Args)-1]) {
		f.Hide(ProcessArgs, Hidden)
	} else {
		f.set(ProcessArgs, p.Args)
	}
}

func baseName(p string) string {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] == '/' {
			return p[i+1:]
		}
	}
	return p
}

// SetAddr tells the address, port and protocol of the flow. A zero ip leaves
// network.ip as the layer has it (later at connect, before the name is
// resolved). ICMP has no port.
func (f *Facts) SetAddr(ip netip.Addr, port uint16, proto Proto) {
	if ip.IsValid() {
		f.set(NetworkIP, ip.Unmap().WithZone("").String())
	}
	if proto == ICMP {
		f.Hide(NetworkPort, Absent)
		for x := HTTPHost; x <= TLSVersion; x++ {
			if f.layer == LayerFlow {
				f.Hide(x, Absent)
			}
		}
	} else {
		f.set(NetworkPort, int64(port))
	}
	f.set(NetworkProtocol, string(proto))
}

// Proto returns network.protocol, "" where it is not known.
func (f *Facts) Proto() Proto { return Proto(f.text(NetworkProtocol)) }

// SetName tells network.hostname; "" means the flow has no name (absent).
func (f *Facts) SetName(name string) {
	f.name = name
	if name == "" {
		f.Hide(NetworkHostname, Absent)
		return
	}
	f.set(NetworkHostname, name)
}

// SetGrants tells which direct_ip grants hold at the flow's address.
func (f *Facts) SetGrants(g []Grant) { f.grants = g }
