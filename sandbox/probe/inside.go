package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"outcall/sandbox/seccomp"
	"outcall/sandbox/view"
)

// A Finding is what Inside saw of one layer; Err is empty where all is as it
// must be.
type Finding struct {
	Layer string `json:"layer"`
	Got   string `json:"got"`
	Err   string `json:"err,omitempty"`
}

// Program is where a command finds outcall itself inside.
const Program = view.BinDir + "/outcall"

const (
	// Nowhere is an address that is documentation's (RFC 5737): no rule can
	// mean it, and nothing would answer there.
	Nowhere = "192.0.2.1:9"
	// noName is a name that cannot exist (RFC 6761).
	noName = "doctor.invalid."
	// answerTime bounds the wait for all refusals.
	answerTime = 10 * time.Second
	// attempts is how often Nowhere is tried.
	attempts = 3
	// maxFindings bounds what is read of Inside's output.
	maxFindings = 64 << 10
)

// Inside looks at a sandbox from the command's place and writes its findings,
// one JSON line each. All that it tries is something that a command must have
// or must be refused; outside of a sandbox it does no harm and finds much.
func Inside(ctx context.Context, w io.Writer) error {
	enc := json.NewEncoder(w)
	for _, c := range []struct {
		layer string
		look  func(context.Context) (string, error)
	}{
		{Proc, ownProc}, {View, ownView}, {Command, noPowers}, {Seccomp, filtered}, {Calls, refusedCalls}, {RoundTrip, roundTrip},
	} {
		got, err := c.look(ctx)
		f := Finding{Layer: c.layer, Got: got}
		if err != nil {
			f.Err = err.Error()
		}
		if err := enc.Encode(f); err != nil {
			return fmt.Errorf("write the finding on %s: %w", c.layer, err)
		}
	}
	return nil
}

// ReadFindings reads what Inside wrote. What came before an error is returned
// with it.
func ReadFindings(r io.Reader) (out []Finding, err error) {
	dec := json.NewDecoder(io.LimitReader(r, maxFindings))
	for {
		var f Finding
		if err := dec.Decode(&f); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return out, fmt.Errorf("read the findings from inside: %w", err)
		}
		out = append(out, f)
	}
}

// ownProc: the pids are this namespace's, and nothing foreign is mounted below.
func ownProc(context.Context) (string, error) {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return "", err
	}
	if self != fmt.Sprint(os.Getpid()) {
		return "", fmt.Errorf("/proc is of another pid namespace: self is %s, not %d", self, os.Getpid())
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	locked, err := lockedBelow(f, "/proc")
	if err != nil {
		return "", err
	}
	if len(locked) == 0 {
		return "a fresh one, with nothing mounted below", nil
	}
	return "a fresh one, read-only at " + strings.Join(locked, ", "), nil
}

// lockedBelow lists the mount points below dir, which must all be its own file
// system again, read-only: what the view does where the kernel takes the
// command for root. Anything else is an outer mask. The fields are those of
// proc_pid_mountinfo(5).
func lockedBelow(mountinfo io.Reader, dir string) (locked []string, err error) {
	sc := bufio.NewScanner(mountinfo)
	for sc.Scan() {
		own, fs, _ := strings.Cut(sc.Text(), " - ")
		f := strings.Fields(own)
		if len(f) < 6 || !strings.HasPrefix(f[4], dir+"/") {
			continue
		}
		if !strings.HasPrefix(fs, "proc ") || !slices.Contains(strings.Split(f[5], ","), "ro") {
			return nil, fmt.Errorf("%s is a mount of something else: %s is not fresh", f[4], dir)
		}
		locked = append(locked, f[4])
	}
	return locked, sc.Err()
}

// ownView: /tmp can be written, outcall's own directory and /sys cannot.
func ownView(context.Context) (string, error) {
	f, err := os.CreateTemp("/tmp", "doctor-")
	if err != nil {
		return "", fmt.Errorf("own /tmp: %w", err)
	}
	f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return "", err
	}
	path := filepath.Join(view.BinDir, "doctor")
	if f, err := os.Create(path); err == nil {
		f.Close()
		os.Remove(path)
		return "", fmt.Errorf("%s was written", path)
	} else if !errors.Is(err, unix.EROFS) {
		return "", fmt.Errorf("write %s: want %q: %w", path, unix.EROFS, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys", &st); err != nil && err != unix.ENOENT {
		return "", fmt.Errorf("look at /sys: %w", err)
	} else if err == nil && st.Flags&unix.ST_RDONLY == 0 {
		return "", errors.New("/sys is writable")
	}
	return "own /tmp is writable; " + view.RunDir + " and /sys are read-only", nil
}

// noPowers: no capability in any set, and none to be had by execve.
func noPowers(context.Context) (string, error) {
	s, err := status()
	if err != nil {
		return "", err
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if strings.Trim(s[set], "0") != "" || s[set] == "" {
			return "", fmt.Errorf("%s is %q and not empty", set, s[set])
		}
	}
	if s["NoNewPrivs"] != "1" {
		return "", fmt.Errorf("no_new_privs is %q", s["NoNewPrivs"])
	}
	return fmt.Sprintf("uid %d, every capability set empty, no_new_privs", os.Getuid()), nil
}

func filtered(context.Context) (string, error) {
	s, err := status()
	if err != nil {
		return "", err
	}
	if s["Seccomp"] != "2" {
		return "", fmt.Errorf("seccomp mode is %q and not 2 (filter)", s["Seccomp"])
	}
	return "loaded, " + orOne(s["Seccomp_filters"]) + " in force", nil
}

// orOne: kernels before 5.9 do not count the filters.
func orOne(n string) string {
	if n == "" {
		return "at least 1"
	}
	return n
}

func status() (map[string]string, error) {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		out[k] = strings.TrimSpace(v)
	}
	return out, nil
}

// refusedCalls: the filter answers, and with its own words.
func refusedCalls(context.Context) (string, error) {
	var names []string
	var errs []error
	for _, a := range seccomp.Try() {
		names = append(names, a.Call)
		switch {
		case a.Got == 0:
			errs = append(errs, fmt.Errorf("%s was carried out", a.Call))
		case !a.Refused():
			errs = append(errs, fmt.Errorf("%s: %w, want %w", a.Call, a.Got, a.Want))
		}
	}
	return strings.Join(names, ", "), errors.Join(errs...)
}

// roundTrip sends what the empty policy denies, and waits for the refusals: a
// name by the DNS filter, an address by the table, NFLOG and the netstack.
func roundTrip(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err == nil && len(conf.Servers) == 0 {
		err = errors.New("it names none")
	}
	if err != nil {
		return "", fmt.Errorf("read the resolvers inside: %w", err)
	}
	q := new(dns.Msg).SetQuestion(noName, dns.TypeA)
	for _, server := range conf.Servers {
		client := dns.Client{Timeout: answerTime}
		reply, _, err := client.ExchangeContext(ctx, q, net.JoinHostPort(server, conf.Port))
		if err != nil {
			return "", fmt.Errorf("ask %s for a denied name: %w", server, err)
		}
		if reply.Rcode != dns.RcodeNameError {
			return "", fmt.Errorf("ask %s for a denied name: %s, want NXDOMAIN", server, dns.RcodeToString[reply.Rcode])
		}
	}
	// More than once: on a busy machine the search for the process behind one
	// attempt can run out of its time.
	for range attempts {
		if err := refusedDial(ctx); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("a denied name got NXDOMAIN from %s, a denied address a reset", strings.Join(conf.Servers, " and ")), nil
}

func refusedDial(ctx context.Context) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", Nowhere)
	if err == nil {
		c.Close()
		return fmt.Errorf("a connection to %s was accepted", Nowhere)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("a denied address got no refusal: %w", err)
	}
	return nil
}
