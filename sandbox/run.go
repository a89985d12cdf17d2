package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"outcall/netstack"
	"outcall/netstack/dnsfilter"
	"outcall/netstack/egress"
	"outcall/netstack/pin"
	"outcall/policy"
	"outcall/sandbox/attrib"
	"outcall/sandbox/audit"
	"outcall/sandbox/gate"
	"outcall/sandbox/hostapi"
	"outcall/sandbox/idmap"
	"outcall/sandbox/nft"
	"outcall/sandbox/publish"
	"outcall/sandbox/requests"
	"outcall/sandbox/session"
	"outcall/sandbox/view"
	"outcall/shim/agentapi"
)

// Exit codes of a run that are not the command's own.
const (
	ExitTimeout  = 124
	ExitSetup    = 125
	ExitNotExec  = 126
	ExitNotFound = 127
)

const (
	// killGrace is how long a command has to end after SIGTERM.
	killGrace = 5 * time.Second
	// signalGrace bounds the wait for the gatekeeper's answer to a signal.
	signalGrace = time.Second
	// flushGrace bounds the wait for the command's last output.
	flushGrace = time.Second
	// endGrace bounds the clean-up after the command has ended.
	endGrace = 5 * time.Second
)

// A supervisor is one running session. Its fields are set by the start, in
// the order of Run, and not changed afterwards; what changes has a lock or is
// atomic.
type supervisor struct {
	trial     bool // a session of doctor's, which leaves nothing in the state directory
	cfg       Config
	ids       idmap.Plan
	env       session.Env
	sess      *session.Session
	audit     *recorder
	auditing  atomic.Bool // from when audit is the session's
	who       policy.Who
	started   time.Time
	host      *hostNet
	hosts     map[string][]netip.Addr
	upstreams []netip.AddrPort
	proxy     upstreamProxy
	synthetic netip.Prefix // addresses for names that only the proxy can resolve; zero: none
	view      view.Spec
	scratch   string
	agentEnv  []string
	notes     []string // for the banner

	pending  *gate.Pending // nil, or what gate begins from
	gate     *gate.Client
	info     gate.Info
	table    *nft.Table
	finder   *attrib.Attributor
	nflog    *attrib.Log
	losses   losses
	linkName string
	pins     *pin.Table
	dns      *dnsfilter.Filter
	dialer   *egress.Dialer
	stack    *netstack.Stack
	ports    *publish.Ports  // nil: nothing is published
	inside   *publish.Inside // with ports
	api      *hostapi.Server
	agent    *agentapi.Server
	denials  agentapi.Denials
	readme   readme
	counts   counts

	snap      atomic.Pointer[policy.Snapshot]
	reloading sync.Mutex // held while the rules, or what was approved, change
	rules     *ruleSet   // what snap is of
	requests  *requests.Store
	lapses    chan struct{} // tells keepRequests that an approval may end sooner
	stopOnce  sync.Once
	stopping  chan struct{}
	whyMu     sync.Mutex
	why       string // for the audit's last line
	closers   []func() error
}

// A setupError says which layer refused to start.
type setupError struct {
	layer string
	err   error
}

func (e *setupError) Error() string { return e.layer + ": " + e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// Run runs one command under a policy and returns its exit code. An error
// means that the sandbox could not be made and nothing ran, or (with
// ExitNotFound and ExitNotExec) that the command could not be executed.
func Run(ctx context.Context, cfg Config) (int, error) {
	s := &supervisor{cfg: cfg, stopping: make(chan struct{}), lapses: make(chan struct{}, 1), started: time.Now()}
	// Before anything is made: a signal that arrives during the start must end
	// in the same clean-up as a later one.
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(sigs)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := untilSignal(ctx, sigs, s.start); err != nil {
		s.end(context.WithoutCancel(ctx))
		return ExitSetup, err
	}
	code, err := s.session(ctx, sigs)
	cancel()
	s.end(context.WithoutCancel(ctx))
	return code, err
}

// untilSignal runs start with a context that ends when a signal arrives. That
// signal is used up: a start that stands before it has taken notice is none.
func untilSignal(ctx context.Context, sigs <-chan os.Signal, start func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done, stopped := make(chan struct{}), make(chan struct{})
	var interrupted error
	go func() {
		defer close(stopped)
		select {
		case sig := <-sigs:
			interrupted = fmt.Errorf("interrupted by %v", sig)
			cancel(interrupted)
		case <-done:
		}
	}()
	err := start(ctx)
	close(done)
	<-stopped
	if err == nil {
		err = interrupted
	}
	return err
}

// start makes every layer, in the order in which they stand on each other.
// Nothing of the agent runs before all of them stand.
func (s *supervisor) start(ctx context.Context) error {
	for _, l := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"identity", s.startIdentity},
		{"sandbox", s.launch},
		{"rules", s.startRules},
		{"upstream", s.startUpstream},
		{"session", s.startSession},
		{"sandbox", s.startSandbox},
		{"nftables", s.startTable},
		{"attribution", s.startAttribution},
		{"netstack", s.startStack},
		{"sandbox", s.awaitSandbox},
		{"publish", s.startPublish},
		{"agent socket", s.startAgent},
		{"host socket", s.startAPI},
	} {
		if err := l.do(ctx); err != nil {
			if s.gate != nil {
				if failure := s.gate.Failure(ctx); failure != nil {
					l.name, err = "sandbox", failure
				}
			}
			if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
				err = errors.Join(cause, err)
			}
			var rules policy.ErrorList
			if errors.As(err, &rules) {
				return err // the findings speak for themselves: path:line: text
			}
			return &setupError{l.name, err}
		}
	}
	return nil
}

func (s *supervisor) startIdentity(context.Context) (err error) {
	s.ids, err = idmap.New(idmap.Request{Root: s.cfg.Root, AsRoot: s.cfg.AsRoot, Dir: s.cfg.Dir, Getenv: os.Getenv})
	if err == nil && s.ids.Note != "" {
		s.notes = append(s.notes, s.ids.Note)
	}
	s.env = session.HostEnv()
	return err
}

// startUpstream decides how the supervisor itself reaches out.
func (s *supervisor) startUpstream(context.Context) (err error) {
	s.host = &hostNet{session: sessionNets(s.cfg.Subnet)}
	if s.proxy, err = chooseProxy(s.cfg.UpstreamProxy, s.cfg.Env); err != nil {
		return err
	}
	if s.proxy.url != nil {
		s.notes = append(s.notes, "out by "+s.proxy.url.Redacted())
	}
	if s.hosts, err = hostsFile("/etc/hosts"); err != nil {
		return err
	}
	s.upstreams = s.cfg.DNSUpstream
	if len(s.upstreams) == 0 {
		if s.upstreams, err = hostResolvers("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if len(s.upstreams) > 0 {
		return nil
	}
	if s.proxy.url == nil {
		return errors.New("no resolver and no upstream proxy: /etc/resolv.conf names none; give one by --dns-upstream IP")
	}
	// Only the proxy can resolve: names get addresses that never leave.
	s.synthetic = syntheticNet
	s.host.synthetic = []netip.Prefix{syntheticNet}
	s.notes = append(s.notes, "by-proxy: no resolver here, the proxy resolves")
	return nil
}

// openAudit begins the audit where it was asked for; where the default cannot
// be written, in the session's own directory, and the banner says so.
func (s *supervisor) openAudit(ctx context.Context) error {
	path := s.cfg.Audit
	named := path != ""
	if !named {
		path = s.env.AuditPath(s.who.Session)
	}
	w, err := s.tryAudit(path)
	if err != nil {
		if named {
			return fmt.Errorf("audit: %w", err)
		}
		path = filepath.Join(s.sess.Dir, "audit.jsonl")
		if w, err = s.tryAudit(path); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		s.notes = append(s.notes, "audit in "+path)
	}
	s.audit = &recorder{w: w, seen: s.seen}
	s.auditing.Store(true)
	return s.sess.SetAudit(ctx, path)
}

func (s *supervisor) tryAudit(path string) (*audit.Writer, error) {
	if path == "" {
		return nil, errors.New("no state directory: neither XDG_STATE_HOME nor HOME is set")
	}
	w, err := audit.Open(audit.Options{
		Path: path, Session: s.who.Session, Agent: s.who.Agent, Private: true, Report: s.auditTurned,
	})
	if err != nil {
		return nil, err
	}
	w.Record(s.event("start", policy.Event{Reason: s.startLine()}))
	if err := w.Err(); err != nil { // a disk that is full takes the file, and no line
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

// auditTurned says once that attempts are denied because their lines cannot be
// written, and once that they no longer are.
func (s *supervisor) auditTurned(err error) {
	switch {
	case !s.auditing.Load(): // the start tells it
		return
	case err == nil:
		s.say("audit: written again")
		return
	}
	s.say("audit: " + err.Error() + ": every further attempt is denied until it can be written")
}

// end undoes the start in the opposite order: first egress, then the agent,
// then what is on disk. It is safe after a start that failed anywhere.
func (s *supervisor) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endGrace)
	defer cancel()
	if s.api != nil {
		s.api.Stop(ctx)
	}
	if s.agent != nil {
		s.agent.Close()
	}
	_ = s.readme.close()
	s.endNetwork()
	if s.scratch != "" {
		_ = view.RemoveScratch(s.scratch)
	}
	if s.audit != nil {
		s.audit.Record(s.event("stop", policy.Event{Reason: s.why}))
		_ = s.audit.w.Close()
	}
	if s.api != nil {
		s.api.Close(ctx) // behind the audit: its followers are told of the stop
	}
	if s.sess != nil {
		_ = s.sess.Close(ctx)
	}
}

// endNetwork closes the supervisor's ends while the gatekeeper ends the agent:
// the kernel lets both wait for all processors (a packet socket, a mount
// namespace), and neither needs the other.
func (s *supervisor) endNetwork() {
	var wg sync.WaitGroup
	wg.Go(func() {
		if s.dns != nil {
			s.dns.Close()
		}
		for i := len(s.closers) - 1; i >= 0; i-- {
			_ = s.closers[i]()
		}
		if s.table != nil {
			_ = s.table.Close()
		}
	})
	if s.pending != nil {
		s.pending.Discard()
	}
	if s.gate != nil {
		_ = s.gate.Close()
	}
	wg.Wait()
}

// requestStop ends the session.
func (s *supervisor) requestStop(why string) {
	s.noteStop(why)
	s.stopOnce.Do(func() { close(s.stopping) })
}

// event fills in what every event of the session itself has.
func (s *supervisor) event(kind string, e policy.Event) policy.Event {
	e.Event, e.Session, e.Agent, e.Time = kind, s.who.Session, s.who.Agent, time.Now()
	return e
}

func (s *supervisor) mode() string {
	if s.cfg.Observe {
		return "observe"
	}
	return "enforce"
}

func (s *supervisor) proxyAddr() string {
	return netip.AddrPortFrom(hostGateway4(s.cfg.Subnet), s.cfg.ProxyPort).String()
}

func (s *supervisor) proxyURL() string {
	if s.cfg.NoProxy {
		return ""
	}
	return "http://" + s.proxyAddr()
}

func hostGateway4(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }
