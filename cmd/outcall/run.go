package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"outcall/policy"
	"outcall/sandbox"
	"outcall/sandbox/publish"
	"outcall/sandbox/session"
)

// What run and doctor have where no flag says otherwise.
const (
	defaultSubnet    = "10.200.0.0/24"
	defaultBridge    = "outcall0"
	defaultProxyPort = 8080
)

// runFlags are the flags of run as written.
type runFlags struct {
	rules, allow, publish, upstreams, binds, weak, env []string

	name, mode, proxy, subnet, bridge, audit, link, workdir string

	proxyPort                             uint16
	noProxy, root, asRoot, quiet, verbose bool
	timeout                               time.Duration
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	var c *cobra.Command
	c = a.cmd("run [flags] [--] COMMAND [ARG...]", "run a command in a sandbox of its own", atLeast("COMMAND"),
		func(ctx context.Context, args []string) error {
			if c.Flags().Changed("session") {
				return usagef("run makes a session: its name is given by --name")
			}
			cfg, err := a.config(&f, args)
			if err != nil {
				return err
			}
			code, err := sandbox.Run(ctx, cfg)
			if code == 0 && err == nil {
				return nil
			}
			return &codeError{code, err}
		})
	c.Long = `Runs COMMAND with the caller's files and identity in namespaces of its own,
without any egress but what the rules allow. Without rules everything is
denied.

The exit code is the command's own; 128+n when signal n ended it; 124 time-out;
125 outcall could not set up (nothing ran); 126 not executable; 127 not found;
2 wrong usage.`
	c.Example = `  outcall run --allow example.com -- curl https://example.com/
  outcall run --rules agent.yaml --name agent-1 -- agent
  outcall run --mode observe -- make`
	c.Flags().SetInterspersed(false)
	f.add(c)
	return c
}

func (f *runFlags) add(c *cobra.Command) {
	fs := c.Flags()
	fs.StringArrayVarP(&f.rules, "rules", "r", nil, "rule file or directory of *.yaml and *.yml, at `PATH` (repeatable)")
	fs.StringArrayVarP(&f.allow, "allow", "a", nil, "allow `TARGET`: HOST, HOST:PORT, .HOST, CIDR[:PORT] or preset:NAME (repeatable)")
	fs.StringArrayVarP(&f.publish, "publish", "p", nil, "let `[IP:]HOSTPORT:PORT` of the host lead to a port inside; HOSTPORT 0 picks one (repeatable)")
	fs.StringVarP(&f.name, "name", "n", "", "session `NAME` (default <command>-<letter><3 hex>)")
	fs.StringVar(&f.mode, "mode", "enforce", "run in `MODE`: enforce, or observe (let pass, and note what the rules would deny)")
	fs.StringSliceVar(&f.upstreams, "dns-upstream", nil, "resolvers `IP[:PORT],...` (default: the host's resolv.conf)")
	fs.StringVar(&f.proxy, "upstream-proxy", "", "`URL` by which outcall itself reaches out: http://, socks5:// or none (default: the host's proxy variables)")
	fs.StringVar(&f.subnet, "subnet", defaultSubnet, "`CIDR` of the sandbox's network")
	fs.StringVar(&f.bridge, "bridge", defaultBridge, "`NAME` of the bridge")
	fs.Uint16Var(&f.proxyPort, "proxy-port", defaultProxyPort, "`PORT` of the HTTP proxy")
	fs.BoolVar(&f.noProxy, "no-proxy", false, "no HTTP proxy and no proxy variables")
	fs.StringVar(&f.audit, "audit", "", "audit log at `PATH` (default ${XDG_STATE_HOME:-~/.local/state}/outcall/<name>/audit.jsonl)")
	fs.StringArrayVar(&f.binds, "bind", nil, "bring back a host `PATH` that the sandbox hides, read-write (repeatable)")
	fs.BoolVar(&f.root, "root", false, "uid 0 inside, with the caller's subordinate ids where there are some")
	fs.BoolVar(&f.asRoot, "as-root", false, "started by real root only: keep uid 0 (throw-away machines)")
	fs.StringVar(&f.link, "link", "auto", "carry packets by `LINK`: auto, packet or tap")
	fs.StringArrayVar(&f.weak, "weak", nil, "accept a weaker sandbox in one `WORD`: proc (repeatable)")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "set `K=V`, or bring back the caller's K (repeatable)")
	fs.StringVar(&f.workdir, "workdir", "", "working directory `DIR` (default: the current one)")
	fs.DurationVar(&f.timeout, "timeout", 0, "end the command after `DURATION`, exit code 124")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "no banner, no summary")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "say more")
}

// config checks the flags. Every error is one of usage, except a working
// directory or a rule set that cannot be had: then nothing can be set up.
func (a *app) config(f *runFlags, command []string) (sandbox.Config, error) {
	cfg := sandbox.Config{
		Command: command, Env: os.Environ(), SetEnv: f.env, Name: f.name,
		UpstreamProxy: f.proxy, Bridge: f.bridge, ProxyPort: f.proxyPort, NoProxy: f.noProxy,
		Root: f.root, AsRoot: f.asRoot, Link: f.link, Weak: f.weak, Timeout: f.timeout,
		Quiet: f.quiet, Verbose: f.verbose, Observe: f.mode == "observe", Version: version,
	}
	for _, check := range []func(*sandbox.Config) error{f.checkWords, f.checkNet} {
		if err := check(&cfg); err != nil {
			return cfg, &usageError{err}
		}
	}
	if len(f.allow) > 0 {
		if _, err := policy.AllowTargets(f.allow); err != nil {
			return cfg, &usageError{err}
		}
	}
	err := a.paths(f, &cfg)
	if err == nil {
		cfg.Sources, err = a.sourcesOf(a.places(cfg.Dir, cfg.RulePaths, f.allow))
	}
	if err != nil {
		return cfg, &codeError{exitSetup, err}
	}
	for _, s := range []struct {
		to   **os.File
		from any
		name string
	}{{&cfg.Stdin, a.io.in, "standard input"}, {&cfg.Stdout, a.io.out, "standard output"}, {&cfg.Stderr, a.io.err, "standard error"}} {
		if *s.to, err = file(s.from, s.name); err != nil {
			return cfg, &codeError{exitSetup, err}
		}
	}
	return cfg, nil
}

func (f *runFlags) checkWords(*sandbox.Config) error {
	if f.name != "" {
		if err := session.CheckName(f.name); err != nil {
			return err
		}
	}
	if err := oneOf("--mode", f.mode, "enforce", "observe"); err != nil {
		return err
	}
	if err := oneOf("--link", f.link, "auto", "packet", "tap"); err != nil {
		return err
	}
	for _, w := range f.weak {
		if err := oneOf("--weak", w, "proc"); err != nil {
			return err
		}
	}
	for _, e := range f.env {
		if k, _, _ := strings.Cut(e, "="); k == "" || strings.ContainsRune(e, 0) {
			return fmt.Errorf("--env %q: want K=V or K", e)
		}
	}
	switch {
	case f.root && f.asRoot:
		return errors.New("--root and --as-root exclude each other")
	case f.quiet && f.verbose:
		return errors.New("--quiet and --verbose exclude each other")
	case f.timeout < 0:
		return fmt.Errorf("--timeout %v: want a positive duration", f.timeout)
	}
	return nil
}

func oneOf(flag, got string, words ...string) error {
	if slices.Contains(words, got) {
		return nil
	}
	return fmt.Errorf("%s %q: want %s", flag, got, strings.Join(words, " or "))
}

// maxBridgeName is IFNAMSIZ without its NUL.
const maxBridgeName = 15

// checkNet reads the flags that are about the network into cfg.
func (f *runFlags) checkNet(cfg *sandbox.Config) error {
	subnet, err := netip.ParsePrefix(f.subnet)
	if err != nil || !subnet.Addr().Is4() || subnet.Bits() < 8 || subnet.Bits() > 24 || subnet.Masked() != subnet {
		return fmt.Errorf("--subnet %q: want an IPv4 network of /8 to /24, such as 10.200.0.0/24", f.subnet)
	}
	cfg.Subnet = subnet
	if f.bridge == "" || len(f.bridge) > maxBridgeName || session.CheckName(f.bridge) != nil {
		return fmt.Errorf("--bridge %q: want an interface name of 1 to %d letters, digits, '.', '_' and '-'", f.bridge, maxBridgeName)
	}
	for _, p := range f.publish {
		spec, err := publish.Parse(p)
		if err != nil {
			return err
		}
		cfg.Publish = append(cfg.Publish, spec)
	}
	if f.proxyPort == 0 {
		return errors.New("--proxy-port 0: want 1 to 65535")
	}
	for _, u := range f.upstreams {
		ap, err := parseUpstream(u)
		if err != nil {
			return err
		}
		cfg.DNSUpstream = append(cfg.DNSUpstream, ap)
	}
	return checkProxyURL(f.proxy)
}

// parseUpstream reads IP[:PORT]; an IPv6 address with a port is bracketed.
func parseUpstream(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("--dns-upstream %q: want IP or IP:PORT", s)
	}
	return ap, nil
}

func checkProxyURL(s string) error {
	if s == "" || s == "none" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "socks5" {
		// The text is not repeated: it may hold a password.
		return errors.New("--upstream-proxy: want http://HOST:PORT, socks5://HOST:PORT or none")
	}
	return nil
}

// paths makes every path absolute and finds the working directory.
func (a *app) paths(f *runFlags, cfg *sandbox.Config) (err error) {
	if cfg.Dir, err = os.Getwd(); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	if f.workdir != "" {
		if cfg.Dir, err = filepath.Abs(f.workdir); err != nil {
			return fmt.Errorf("working directory: %w", err)
		}
		if st, err := os.Stat(cfg.Dir); err != nil {
			return fmt.Errorf("working directory: %w", err)
		} else if !st.IsDir() {
			return fmt.Errorf("working directory: %s is no directory", cfg.Dir)
		}
	}
	for _, p := range []struct {
		to   *string
		from string
	}{{&cfg.Socket, a.socket}, {&cfg.Audit, f.audit}} {
		if p.from == "" {
			continue
		}
		if *p.to, err = filepath.Abs(p.from); err != nil {
			return err
		}
	}
	for _, r := range f.rules {
		abs, err := filepath.Abs(r)
		if err != nil {
			return err
		}
		cfg.RulePaths = append(cfg.RulePaths, abs)
	}
	for _, b := range f.binds {
		abs, err := filepath.Abs(b)
		if err != nil {
			return err
		}
		if _, err := os.Stat(abs); err != nil {
			return fmt.Errorf("--bind: %w", err)
		}
		cfg.Binds = append(cfg.Binds, abs)
	}
	return nil
}
