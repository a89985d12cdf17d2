package hostapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"outcall/sandbox/gate"
	"outcall/sandbox/pcap"
)

// fakeBackend answers with fixed values and counts what was changed.
type fakeBackend struct {
	mu      sync.Mutex
	calls   []string
	explain any
	err     error
	lines   [][]byte
	more    chan []byte // followed lines; closed, the record has ended
	exec    func(ctx context.Context, r ExecRequest) (*Process, error)
}

func (f *fakeBackend) note(format string, a ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, a...))
	return f.err
}

func (f *fakeBackend) noted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func (f *fakeBackend) Session(context.Context) (Session, error) {
	return Session{Name: "s", PID: 7, Command: []string{"true"}}, f.note("session")
}

func (f *fakeBackend) Bridge(context.Context) (Bridge, error) {
	two := 2
	return Bridge{Name: "outcall0", Up: true, Index: &two, NftablesActive: true}, f.note("bridge")
}
func (f *fakeBackend) BridgeUp(context.Context) error   { return f.note("up") }
func (f *fakeBackend) BridgeDown(context.Context) error { return f.note("down") }
func (f *fakeBackend) NFT(context.Context) (string, error) {
	return "table inet outcall {\n}\n", f.note("nft")
}

func (f *fakeBackend) Capture(_ context.Context, begun func() error, emit func(pcap.Frame) error) (uint64, error) {
	if err := f.note("capture"); err != nil {
		return 0, err
	}
	if err := begun(); err != nil {
		return 0, err
	}
	for i := range 3 {
		if err := emit(pcap.Frame{Time: time.Unix(1, 5), Length: 20, Data: []byte{0: byte(i), 19: 1}}); err != nil {
			return 2, err
		}
	}
	return 2, errors.New("the bridge went down")
}

func (f *fakeBackend) Rules(context.Context) ([]Rule, error) {
	return []Rule{{ID: "a", Action: "allow"}}, f.note("rules")
}

func (f *fakeBackend) Rule(_ context.Context, id string) (RuleDetail, error) {
	if id == "panic" {
		panic("broken")
	}
	if id != "a" {
		return RuleDetail{}, NotFound("rule", id)
	}
	return RuleDetail{Rule: Rule{ID: id}, Condition: "true"}, f.note("rule %s", id)
}

func (f *fakeBackend) Counters(context.Context) (Counters, error) {
	return Counters{NXDomain: 3}, f.note("counters")
}

func (f *fakeBackend) Reload(_ context.Context, dry bool) (Reload, error) {
	return Reload{FilesLoaded: 1, RulesLoaded: 3, DryRun: dry}, f.note("reload %v", dry)
}
func (f *fakeBackend) Active(context.Context) ([]Active, error) {
	return []Active{{Destination: "192.0.2.1"}}, f.note("active")
}
func (f *fakeBackend) FlushActive(context.Context) (int, error) { return 4, f.note("flush") }
func (f *fakeBackend) Explain(_ context.Context, r ExplainRequest) (any, error) {
	return f.explain, f.note("explain %s", r.Target)
}
func (f *fakeBackend) DNS(context.Context) (DNS, error) {
	return DNS{Running: true, ListenPort: 53}, f.note("dns")
}

func (f *fakeBackend) DNSCache(_ context.Context, entries bool) (DNSCache, error) {
	c := DNSCache{Stats: DNSCacheStats{Entries: 1}}
	if entries {
		c.Entries = []DNSCacheEntry{{Hostname: "h"}}
	}
	return c, f.note("cache %v", entries)
}
func (f *fakeBackend) DNSFlush(context.Context) (int, error) { return 1, f.note("dnsflush") }
func (f *fakeBackend) DNSTest(_ context.Context, r DNSTestRequest) (DNSTest, error) {
	return DNSTest{Name: r.Name, Rcode: "NXDOMAIN"}, f.note("dnstest %s", r.Name)
}
func (f *fakeBackend) Proxy(context.Context) (Proxy, error) {
	return Proxy{Running: true}, f.note("proxy")
}
func (f *fakeBackend) Flows(context.Context) ([]Flow, error) {
	return []Flow{{ID: "f-1"}}, f.note("flows")
}

func (f *fakeBackend) KillFlow(_ context.Context, id string) error {
	if id != "f-1" {
		return NotFound("flow", id)
	}
	return f.note("kill %s", id)
}

func (f *fakeBackend) Metrics(context.Context) ([]Metric, error) {
	return []Metric{Count("outcall_flows", "Now.", 3)}, f.note("metrics")
}

func (f *fakeBackend) Events(ctx context.Context, follow bool, emit func([]byte) error) error {
	if err := f.note("events %v", follow); err != nil {
		return err
	}
	for _, l := range f.lines {
		if err := emit(l); err != nil {
			return err
		}
	}
	for follow {
		select {
		case <-ctx.Done():
			return nil
		case l, ok := <-f.more:
			if !ok {
				return nil
			}
			if err := emit(l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fakeBackend) Exec(ctx context.Context, r ExecRequest) (*Process, error) {
	if err := f.note("exec"); err != nil {
		return nil, err
	}
	return f.exec(ctx, r)
}
func (f *fakeBackend) Stop(context.Context) error { return f.note("stop") }

// hostSpawner runs commands on the host in place of the gatekeeper. gate.Proc
// cannot be made here, so it fills a Process itself.
func hostExec(ctx context.Context, r ExecRequest) (*Process, error) {
	var inner, outer [3]*os.File
	for i := range inner {
		var err error
		if inner[i], outer[i], err = pipe(i == 0); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(r.Command[0], r.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inner[0], inner[1], inner[2]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		errno := syscall.ENOENT
		errors.As(err, &errno)
		return nil, &gate.StageError{Stage: "exec", Detail: r.Command[0], Errno: errno}
	}
	for _, f := range inner {
		f.Close()
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	return &Process{
		Stdin: outer[0], Stdout: outer[1], Stderr: outer[2],
		Resize: func(uint16, uint16) error { return nil },
		Signal: func(s syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, s) },
		Done:   done,
		Status: func() syscall.WaitStatus { return cmd.ProcessState.Sys().(syscall.WaitStatus) },
	}, nil
}

// serve starts a server for b and returns its socket.
func serve(t *testing.T, b Backend) (*Server, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hostapi")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "host.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(b)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Close(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("socket left behind: %v", err)
		}
		os.RemoveAll(dir)
	})
	return s, path
}

// plainHTTP is a client without our checks, as curl --unix-socket is.
func plainHTTP(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}

func (f *fakeBackend) Requests(_ context.Context, all bool) ([]RuleRequest, error) {
	return []RuleRequest{{ID: "rr-0123456789ab", Status: "pending", Session: "s", SHA256: hash64}}, f.note("requests %v", all)
}

func (f *fakeBackend) Request(_ context.Context, id string) (RuleRequestDetail, error) {
	if id != "rr-0123456789ab" {
		return RuleRequestDetail{}, NotFound("rule request", id)
	}
	return RuleRequestDetail{RuleRequest: RuleRequest{ID: id}, Review: map[string]int{"judged": 3}}, f.note("request %s", id)
}

func (f *fakeBackend) Approve(_ context.Context, id string, a Approval) (Approved, error) {
	if a.SHA256 != hash64 {
		return Approved{}, Errorf(http.StatusConflict, "the rule request is not the one that was shown")
	}
	return Approved{ID: id, RulesLoaded: 2}, f.note("approve %s %s", id, a.For)
}

func (f *fakeBackend) Reject(_ context.Context, id, reason string) error {
	if reason == "" {
		return Errorf(http.StatusUnprocessableEntity, "the reason is blank")
	}
	return f.note("reject %s %s", id, reason)
}

func (f *fakeBackend) Revoke(_ context.Context, id, reason string) (Revoked, error) {
	return Revoked{ID: id, FlowsClosed: 1}, f.note("revoke %s %s", id, reason)
}
