package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"outcall/policy"
	"outcall/policy/escape"
	"outcall/sandbox"
	"outcall/sandbox/gate"
	"outcall/sandbox/idmap"
)

// A finding is one line of doctor.
type finding struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Got  string `json:"got"`
	Mend string `json:"mend,omitempty"`
	// Needed findings decide the exit code; the others say what a session
	// would do without.
	Needed bool `json:"needed"`
}

func (a *app) doctorCommand() *cobra.Command {
	var asJSON *bool
	c := a.cmd("doctor [--json]", "try each layer of a session on this machine, and say what is missing", none,
		func(ctx context.Context, _ []string) error {
			found := a.diagnose(ctx)
			err := a.print(*asJSON, found, func(w io.Writer) { doctorText(w, found) })
			if err != nil {
				return err
			}
			for _, f := range found {
				if f.Needed && !f.OK {
					return &codeError{exitError, nil}
				}
			}
			return nil
		})
	asJSON = jsonFlag(c)
	return c
}

func doctorText(w io.Writer, found []finding) {
	for _, f := range found {
		word := "ok"
		if !f.OK {
			word = yesNo(f.Needed, "FAIL", "note")
		}
		fmt.Fprintf(w, "%-4s  %-17s  %s\n", word, escape.Text(f.Name), escape.Text(f.Got))
		if f.Mend != "" {
			mend := strings.ReplaceAll(escape.Block(strings.TrimRight(f.Mend, "\n")), "\n", "\n            ")
			io.WriteString(w, "      mend: "+mend+"\n")
		}
	}
}

// diagnose does what a run does and looks at what a run only needs sometimes.
func (a *app) diagnose(ctx context.Context) []finding {
	found := []finding{kernelFinding(), a.runtimeFinding(), a.stateFinding()}
	found = append(found, a.sessionFindings(ctx)...)
	return append(found, rootFinding(), tapFinding(), ipv6Finding(), protocolFinding())
}

func kernelFinding() finding {
	f := finding{Name: "kernel", Needed: true}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		f.Got = err.Error()
		return f
	}
	f.OK, f.Got = true, unix.ByteSliceToString(u.Sysname[:])+" "+unix.ByteSliceToString(u.Release[:])+" "+unix.ByteSliceToString(u.Machine[:])
	return f
}

func (a *app) runtimeFinding() finding {
	f := finding{Name: "session directory", OK: true, Got: a.env.Root()}
	if filepath.Dir(f.Got) != filepath.Clean(a.env.RuntimeDir) {
		f.OK = false
		f.Got += " (XDG_RUNTIME_DIR is unset, or not a directory of yours)"
	}
	return f
}

// stateFinding asks whether the audit can be written where it is kept: in the
// state directory, or in the nearest one above it that exists.
func (a *app) stateFinding() finding {
	dir := a.env.StateDir()
	f := finding{Name: "state directory", OK: true, Got: dir}
	if dir == "" {
		f.OK, f.Got = false, "neither XDG_STATE_HOME nor HOME is set: the audit goes to the session directory and ends with it"
		return f
	}
	at := dir
	err := unix.Access(at, unix.W_OK|unix.X_OK)
	for errors.Is(err, unix.ENOENT) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		err = unix.Access(at, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		f.OK, f.Got = false, fmt.Sprintf("%s: write %s: %v: the audit goes to the session directory and ends with it", dir, at, err)
	}
	return f
}

// rootFinding plans the ids of --root as a run would.
func rootFinding() finding {
	f := finding{Name: "--root", OK: true}
	plan, err := idmap.New(idmap.Request{Root: true, Dir: "/", Getenv: os.Getenv})
	switch {
	case err != nil:
		f.OK, f.Got = false, err.Error()
	case len(plan.UIDs) > 1:
		f.Got = "uid 0 inside with subordinate ids"
	default:
		f.Got = "uid 0 inside is the single id: programs that change users fail"
		f.Mend = "only needed for those: package uidmap, and a range for this user in /etc/subuid and /etc/subgid"
	}
	return f
}

// doctorTime bounds the trial session.
const doctorTime = 30 * time.Second

// sessionFindings starts a real session with no rules; its command is this
// program, asked for its version. What failed names its stage and its mend.
func (a *app) sessionFindings(ctx context.Context) []finding {
	f := finding{Name: "session", Needed: true}
	started := time.Now()
	code, err := trialRun(ctx)
	switch {
	case err == nil && code == 0:
		f.OK = true
		f.Got = fmt.Sprintf("a trial session ran a command and ended in %v: namespaces, bridge, nftables, link, view and filters can be had", time.Since(started).Round(time.Millisecond))
	case err == nil:
		f.Got = fmt.Sprintf("the command of a trial session ended with code %d", code)
	default:
		f.Got, f.Mend = err.Error(), a.hint(err)
		if e, ok := errors.AsType[*gate.StageError](err); ok {
			f.Name = e.Stage
		}
	}
	return []finding{f}
}

// trialRun is `outcall run -q -- outcall version` without any rule.
func trialRun(ctx context.Context) (code int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	dir, err := os.MkdirTemp("", "outcall-doctor-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	return sandbox.Run(ctx, sandbox.Config{
		// The program's directory is the working directory: so it is also there
		// where it lies below a hidden one, as after `go run`.
		Command: []string{exe, "version"}, Dir: filepath.Dir(exe), Env: os.Environ(), Version: version,
		Sources: func() ([]policy.Source, error) { return nil, nil },
		Subnet:  netip.MustParsePrefix("10.200.0.0/24"), Bridge: "outcall0", ProxyPort: 8080, Link: "auto",
		Audit: filepath.Join(dir, "audit.jsonl"), Timeout: doctorTime, Quiet: true,
		Stdin: null, Stdout: null, Stderr: null,
	})
}

func tapFinding() finding {
	f := finding{Name: "--link tap", OK: true, Got: "/dev/net/tun can be opened"}
	h, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		f.OK, f.Got = false, err.Error()+": only needed where packet sockets are refused"
		return f
	}
	h.Close()
	return f
}

// ipv6Finding asks the kernel for a route as a connect would; no packet is
// sent.
func ipv6Finding() finding {
	f := finding{Name: "IPv6", OK: true, Got: "the host has a route"}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.Connect(fd, &unix.SockaddrInet6{Port: 9, Addr: netip.MustParseAddr("2001:4860::1").As16()})
	}
	if err != nil {
		f.OK, f.Got = false, "the host has no route ("+err.Error()+"): sessions have IPv4 only"
	}
	return f
}

// protocolFinding says what a session does not carry, so that nobody looks
// for the mistake in a rule.
func protocolFinding() finding {
	return finding{Name: "protocols", OK: true, Got: "TCP by name, address or direct_ip, and DNS; other UDP and ICMP are refused, so HTTP/3 clients fall back to TCP"}
}
