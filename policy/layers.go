package policy

import "net/netip"

// NewFacts returns the facts of one step as contract 2.3 has them before
// anything of the message is known. The setters then fill in what is.
func NewFacts(l Layer, who Who) *Facts {
	f := &Facts{layer: l}
	f.set(AgentName, who.Agent)
	f.set(SessionName, who.Session)
	f.SetProcess(nil)
	switch l {
	case LayerDNS:
		f.states(Later, NetworkHostname, NetworkIP, NetworkPort, NetworkProtocol)
		f.laterContent()
	case LayerFlow:
		f.laterContent()
	case LayerHello:
		f.states(Hidden, HTTPPath, HTTPQuery, HTTPHeaders, HTTPBodySize)
		f.set(HTTPScheme, "https")
		f.set(HTTPMethod, "CONNECT")
	case LayerConnect:
		f.states(Later, NetworkIP, HTTPScheme, HTTPPath, HTTPQuery, HTTPHeaders, HTTPBodySize,
			TLSSNI, TLSALPN, TLSECH, TLSVersion)
		f.set(HTTPMethod, "CONNECT")
		f.set(NetworkProtocol, string(TCP))
	case LayerRequest:
		f.states(Later, NetworkIP)
		f.set(HTTPScheme, "http")
	case LayerRaw:
		f.states(Later, NetworkIP)
	}
	return f
}

func (f *Facts) states(s State, fields ...Field) {
	for _, x := range fields {
		f.Hide(x, s)
	}
}

func (f *Facts) laterContent() {
	for x := HTTPHost; x <= TLSVersion; x++ {
		f.Hide(x, Later)
	}
}

// SetQuestion tells the DNS question. The name is lower case, without
// trailing dot; typ is the mnemonic, such as "A".
func (f *Facts) SetQuestion(name, typ string) {
	f.name = name
	f.set(DNSQuery, name)
	f.set(DNSRecordType, typ)
}

// SetHello tells the ClientHello (hello layer). network.hostname becomes the
// SNI, as does http.host; both are absent where none was sent.
func (f *Facts) SetHello(t TLS) {
	f.SetName(t.SNI)
	for _, x := range []Field{HTTPHost, TLSSNI} {
		if t.SNI == "" {
			f.Hide(x, Absent)
		} else {
			f.set(x, t.SNI)
		}
	}
	if t.ALPN == nil {
		f.Hide(TLSALPN, Absent)
	} else {
		f.set(TLSALPN, t.ALPN)
	}
	f.set(TLSECH, t.ECH)
	if t.Version == "" {
		f.Hide(TLSVersion, Absent)
	} else {
		f.set(TLSVersion, t.Version)
	}
}

// SetConnect tells the host of a CONNECT (connect layer): lower case, without
// port. A literal address is no name: network.hostname is absent then.
func (f *Facts) SetConnect(host string, isAddr bool) {
	f.set(HTTPHost, host)
	if isAddr {
		f.SetName("")
		return
	}
	f.SetName(host)
}

// SetRequest tells the head of a plain HTTP request (request layer).
func (f *Facts) SetRequest(h HTTP, hostIsAddr bool) {
	f.set(HTTPHost, h.Host)
	if hostIsAddr {
		f.SetName("")
	} else {
		f.SetName(h.Host)
	}
	f.set(HTTPMethod, h.Method)
	f.set(HTTPPath, h.Path)
	f.set(HTTPQuery, h.Query)
	if h.Headers == nil {
		h.Headers = map[string]string{}
	}
	f.set(HTTPHeaders, h.Headers)
	if h.BodySize < 0 {
		f.Hide(HTTPBodySize, Absent)
	} else {
		f.set(HTTPBodySize, h.BodySize)
	}
}

// Run is what an agent asks over the agent API (run layer).
type Run struct {
	Tool    string
	Args    []string
	Flags   []string
	Cwd     string
	Context map[string]any
}

// SetRun tells the action (run layer).
func (f *Facts) SetRun(r Run) {
	f.set(RunTool, r.Tool)
	f.set(RunArgs, append([]string{}, r.Args...))
	f.set(RunFlags, append([]string{}, r.Flags...))
	f.set(RunCwd, r.Cwd)
	if r.Context == nil {
		r.Context = map[string]any{}
	}
	f.set(RunContext, r.Context)
}

// Call is the target of a network call that an agent asks about (run layer).
type Call struct {
	Host   string // a canonical name, or a literal address
	Port   uint16
	Proto  Proto
	Scheme string // http or https; "" for a call that is no URL
	HTTP   *HTTP  // nil for a call that is no URL
}

// SetCall tells the target of a network call (run layer). Addresses stay
// absent there: a call is judged by its flow, too.
func (f *Facts) SetCall(c Call) {
	_, err := netip.ParseAddr(c.Host)
	if err == nil {
		f.SetName("")
	} else {
		f.SetName(c.Host)
	}
	f.set(NetworkPort, int64(c.Port))
	f.set(NetworkProtocol, string(c.Proto))
	if c.HTTP == nil {
		return
	}
	h := *c.HTTP
	h.Host = c.Host
	f.SetRequest(h, err == nil)
	f.set(HTTPScheme, c.Scheme)
}
