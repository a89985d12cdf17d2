package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"outcall/netstack/dnsfilter"
	"outcall/netstack/pin"
	"outcall/policy"
	"outcall/sandbox/gate"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/session"
)

// startAPI opens host.sock.
func (s *supervisor) startAPI(context.Context) error {
	l, err := hostapi.Listen(s.sess.Info.Socket)
	if err != nil {
		return err
	}
	s.api = hostapi.NewServer(backend{s})
	go func() { _ = s.api.Serve(l) }() // ends with s.api.Close in end
	return nil
}

// A backend answers the host API for one session.
type backend struct{ s *supervisor }

var _ hostapi.Backend = backend{}

// Session implements hostapi.Backend.
func (b backend) Session(context.Context) (hostapi.Session, error) {
	s, snap := b.s, b.s.snap.Load()
	return hostapi.Session{
		Name: s.who.Session, Agent: s.who.Agent, PID: os.Getpid(), Command: s.cfg.Command, Started: s.started,
		Mode: s.mode(), Weak: append([]string{}, s.cfg.Weak...), Link: s.linkName, IPv6: s.info.IPv6,
		Socket: s.sess.Info.Socket, Audit: s.sess.Info.Audit, AuditHead: s.audit.w.Head(),
		Rules: len(snap.Rules()), Files: snap.Files(), Version: s.cfg.Version,
		Published: append([]session.Published{}, s.sess.Info.Published...),
	}, nil
}

// Bridge implements hostapi.Backend.
func (b backend) Bridge(ctx context.Context) (hostapi.Bridge, error) {
	index, up, err := b.s.gate.BridgeStatus(ctx)
	if err != nil {
		return hostapi.Bridge{}, err
	}
	active, err := b.s.table.Active(ctx)
	if err != nil {
		return hostapi.Bridge{}, err
	}
	out := hostapi.Bridge{Name: b.s.cfg.Bridge, Up: up, NftablesActive: active}
	if index != 0 {
		out.Index = &index
	}
	return out, nil
}

// BridgeUp implements hostapi.Backend: the set-up of the start, once more.
func (b backend) BridgeUp(ctx context.Context) error {
	err := b.s.gate.BridgeUp(ctx)
	if err == nil && b.s.ports != nil {
		b.s.ports.Shut(false)
	}
	return err
}

// BridgeDown implements hostapi.Backend.
func (b backend) BridgeDown(ctx context.Context) error {
	if b.s.ports != nil {
		b.s.ports.Shut(true) // before the flows are ended, so that none begins behind that
	}
	if err := b.s.gate.BridgeDown(ctx); err != nil {
		return err
	}
	// Nothing can answer these flows any more; their outward sides go as well.
	for _, f := range b.s.stack.Flows() {
		b.s.stack.Kill(f.ID)
	}
	return nil
}

// NFT implements hostapi.Backend.
func (b backend) NFT(ctx context.Context) (string, error) { return b.s.table.List(ctx) }

func apiRule(r *policy.Rule) hostapi.Rule {
	return hostapi.Rule{
		ID: r.ID, File: r.File, Line: r.Line, Action: action(r), Priority: r.Priority,
		Origin: r.Origin.String(), ConditionPreview: preview(r.Condition), Description: r.Description,
	}
}

func action(r *policy.Rule) string {
	if r.Block {
		return "block"
	}
	return "allow"
}

// preview is the condition in at most 80 characters.
func preview(c string) string {
	if r := []rune(c); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return c
}

// Rules implements hostapi.Backend.
func (b backend) Rules(context.Context) ([]hostapi.Rule, error) {
	out := []hostapi.Rule{}
	for _, r := range b.s.snap.Load().Rules() {
		out = append(out, apiRule(r))
	}
	return out, nil
}

// Rule implements hostapi.Backend.
func (b backend) Rule(_ context.Context, id string) (hostapi.RuleDetail, error) {
	for _, r := range b.s.snap.Load().Rules() {
		if r.ID == id {
			d := hostapi.RuleDetail{Rule: apiRule(r), Condition: r.Condition, Log: r.Log}
			if !r.Block {
				d.Mode, d.Ports, d.AllowPrivate = string(r.Mode), r.Ports, r.AllowPrivate
			}
			return d, nil
		}
	}
	return hostapi.RuleDetail{}, hostapi.NotFound("rule", id)
}

// Counters implements hostapi.Backend.
func (b backend) Counters(ctx context.Context) (hostapi.Counters, error) {
	kernel, err := b.s.table.Counters(ctx)
	if err != nil {
		return hostapi.Counters{}, err
	}
	verdicts, failed := b.s.counts.byRule()
	out := hostapi.Counters{Rules: []hostapi.RuleCounter{}, NXDomain: b.s.counts.dnsDenials()}
	for _, r := range b.s.snap.Load().Rules() {
		k := kernel.Rules[r.ID]
		out.Rules = append(out.Rules, hostapi.RuleCounter{
			ID: r.ID, Action: action(r), Verdicts: verdicts[r.ID], Failed: failed[r.ID], Packets: k.Packets, Bytes: k.Bytes,
		})
	}
	out.Default = hostapi.RuleCounter{
		ID: policy.DefaultPolicy, Action: "block", Verdicts: verdicts[policy.DefaultPolicy],
		Packets: kernel.Denied.Packets, Bytes: kernel.Denied.Bytes,
	}
	return out, nil
}

// Reload implements hostapi.Backend.
func (b backend) Reload(ctx context.Context, dryRun bool) (hostapi.Reload, error) {
	return b.s.reload(ctx, dryRun)
}

// Active implements hostapi.Backend.
func (b backend) Active(context.Context) ([]hostapi.Active, error) {
	out := []hostapi.Active{}
	cell := func(name string, c policy.Cell, p pin.Pin) hostapi.Active {
		a := hostapi.Active{Name: name, Destination: c.Prefix.String(), Protocol: string(c.Proto), Port: c.PortLow, Rule: c.Rule}
		if c.Prefix.IsSingleIP() {
			a.Destination = c.Prefix.Addr().String()
		}
		if c.PortHigh != c.PortLow {
			a.PortHigh = c.PortHigh
		}
		if name != "" {
			a.ExpiresInSecs = max(int(p.Left.Seconds()), 0)
		}
		return a
	}
	for _, p := range b.s.pins.List() {
		for _, c := range p.Cells {
			out = append(out, cell(p.Name, c, p))
		}
	}
	for _, c := range b.s.snap.Load().NetCells(b.s.who, b.s.host.Host()) {
		out = append(out, cell("", c, pin.Pin{}))
	}
	return out, nil
}

// FlushActive implements hostapi.Backend.
func (b backend) FlushActive(ctx context.Context) (int, error) { return b.s.pins.Flush(ctx) }

// Explain implements hostapi.Backend: the live rules, the live resolver.
func (b backend) Explain(ctx context.Context, r hostapi.ExplainRequest) (any, error) {
	who := b.s.who
	if r.Agent != "" {
		who.Agent = r.Agent
	}
	q := policy.ExplainQuery{Target: r.Target, Who: who, Exe: r.Exe, Host: b.s.host.Host(), Pinned: b.s.pins.Candidates,
		CannotGoOut: b.s.stack.CannotGoOut}
	if r.IP != "" {
		ip, err := netip.ParseAddr(r.IP)
		if err != nil {
			return nil, hostapi.Errorf(400, "explain: --ip %q is no address", r.IP)
		}
		q.IP = ip
	}
	q.Resolve = func(name string) ([]netip.Addr, error) { return lookup(ctx, name, b.s.dns.Test) }
	out, err := b.s.snap.Load().Explain(q)
	if err != nil {
		return nil, hostapi.Errorf(400, "%w", err)
	}
	return out, nil
}

// lookup asks for a name's addresses as the command would, and leaves nothing
// behind in the session.
func lookup(ctx context.Context, name string, ask func(ctx context.Context, host, typ string) (dnsfilter.TestResult, error)) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, typ := range []string{"A", "AAAA"} {
		t, err := ask(ctx, name, typ)
		if err != nil {
			return nil, err
		}
		if t.Error != "" && len(out) == 0 {
			err = errors.New(t.Error)
		}
		for _, line := range t.Answers {
			f := strings.Fields(line)
			if a, perr := netip.ParseAddr(f[len(f)-1]); perr == nil {
				out = append(out, a)
			}
		}
		if err != nil && typ == "AAAA" && len(out) == 0 {
			return nil, err
		}
	}
	return out, nil
}

// DNS implements hostapi.Backend.
func (b backend) DNS(context.Context) (hostapi.DNS, error) {
	st := b.s.dns.Stats()
	out := hostapi.DNS{
		Running: st.Running, ListenAddress: b.s.info.Gateway4.String(), ListenPort: 53, Upstreams: []string{},
		CacheEntries: st.Cache.Entries, QueriesTotal: uint64(st.Queries), QueriesAllowed: uint64(st.Allowed), QueriesBlocked: uint64(st.Blocked),
	}
	if b.s.info.IPv6 {
		out.ListenAddress6 = ulaGateway6.String()
	}
	for _, u := range st.Upstreams {
		out.Upstreams = append(out.Upstreams, u.Address)
	}
	return out, nil
}

// DNSCache implements hostapi.Backend.
func (b backend) DNSCache(_ context.Context, entries bool) (hostapi.DNSCache, error) {
	st := b.s.dns.Stats().Cache
	out := hostapi.DNSCache{Stats: hostapi.DNSCacheStats{
		Entries: st.Entries, MaxEntries: st.Max, Hits: uint64(st.Hits), Misses: uint64(st.Misses), Evictions: uint64(st.Evictions)}}
	if entries {
		for _, e := range b.s.dns.Cache() {
			out.Entries = append(out.Entries, hostapi.DNSCacheEntry{Hostname: e.Hostname, RecordType: e.Type, TTLRemainingSecs: int(e.TTLLeft)})
		}
	}
	return out, nil
}

// DNSFlush implements hostapi.Backend.
func (b backend) DNSFlush(context.Context) (int, error) { return b.s.dns.Flush(), nil }

// DNSTest implements hostapi.Backend.
func (b backend) DNSTest(ctx context.Context, r hostapi.DNSTestRequest) (hostapi.DNSTest, error) {
	t, err := b.s.dns.Test(ctx, r.Name, r.Type)
	if err != nil {
		return hostapi.DNSTest{}, hostapi.Errorf(400, "%v", err)
	}
	if t.Error != "" && t.Reason == "" {
		t.Reason = t.Error
	}
	if r.Keep && t.Error == "" && t.Verdict != "deny" {
		if _, err := b.s.dns.Resolve(ctx, dnsfilter.Query{Name: t.Name}); err != nil {
			return hostapi.DNSTest{}, hostapi.Errorf(502, "prewarm %s: %v", t.Name, err)
		}
	}
	return hostapi.DNSTest{
		Name: t.Name, Type: t.Type, Verdict: t.Verdict, Rule: t.Rule, Reason: t.Reason, Rcode: t.Rcode,
		Answers: t.Answers, Removed: t.Stripped,
	}, nil
}

// Proxy implements hostapi.Backend.
func (b backend) Proxy(context.Context) (hostapi.Proxy, error) {
	if b.s.cfg.NoProxy {
		return hostapi.Proxy{}, nil
	}
	st := b.s.stack.Stats()
	return hostapi.Proxy{
		Running: true, ListenAddress: b.s.proxyAddr(), ProxyURL: b.s.proxyURL(),
		ActiveConnections: int(st.Proxy.Active), TotalRequests: uint64(st.Proxy.Requests), TotalBlocked: uint64(st.Proxy.Blocked),
	}, nil
}

// Flows implements hostapi.Backend.
func (b backend) Flows(context.Context) ([]hostapi.Flow, error) {
	out := []hostapi.Flow{}
	for _, f := range b.s.stack.Flows() {
		h := hostapi.Flow{
			ID: f.ID, Protocol: string(f.Protocol), Source: f.Src.String(), Destination: f.Dst.String(), Name: f.Host,
			Rule: f.Rule, Via: f.Via, BytesIn: f.BytesIn, BytesOut: f.BytesOut, Started: f.Start,
		}
		if f.Process != nil {
			h.Process = f.Process.Exe
		}
		out = append(out, h)
	}
	return out, nil
}

// KillFlow implements hostapi.Backend.
func (b backend) KillFlow(_ context.Context, id string) error {
	if !b.s.stack.Kill(id) {
		return hostapi.NotFound("flow", id)
	}
	return nil
}

// Events implements hostapi.Backend.
func (b backend) Events(ctx context.Context, follow bool, emit func([]byte) error) error {
	return b.s.audit.events(ctx, follow, emit)
}

// Exec implements hostapi.Backend. In the agent the environment is the
// command's, in the gateway that of an operator's tool.
func (b backend) Exec(ctx context.Context, r hostapi.ExecRequest) (*hostapi.Process, error) {
	spec := gate.Spec{Argv: r.Command, Dir: r.Dir, TTY: r.TTY, Rows: r.Rows, Cols: r.Cols}
	where := gate.Agent
	switch r.Where {
	case hostapi.InAgent:
		spec.Env = append(append([]string{}, b.s.agentEnv...), r.Env...)
		if spec.Dir == "" {
			spec.Dir = b.s.agentDir()
		}
	case hostapi.InGateway:
		where = gate.Gateway
		spec.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=" + os.Getenv("TERM")}, r.Env...)
		spec.Dir = "/"
	default:
		return nil, hostapi.Errorf(400, "exec: where must be %q or %q", hostapi.InAgent, hostapi.InGateway)
	}
	return hostapi.Spawn(ctx, b.s.gate, where, spec)
}

// Stop implements hostapi.Backend.
func (b backend) Stop(context.Context) error {
	b.s.requestStop("stopped by the operator")
	return nil
}

func firstLine(s string) string {
	for i := range len(s) {
		if s[i] == '\n' {
			return fmt.Sprintf("%s (and more)", s[:i])
		}
	}
	return s
}
