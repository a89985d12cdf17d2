package sandbox

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"outcall/netstack/egress"
	"outcall/sandbox/gate"
	"outcall/sandbox/idmap"
	"outcall/sandbox/probe"
)

// protocols enters what no rule opens on this machine, so that nobody looks for
// the mistake in a rule.
func (d *diagnosis) protocols() {
	proxy, _ := chooseProxy(d.cfg.UpstreamProxy, d.cfg.Env) // a bad one is told as such
	if proxy.url != nil {
		d.r.Set(probe.Protocols, probe.Weak, "TCP and DNS by rule; no UDP, QUIC and ICMP: the upstream proxy carries TCP only, so HTTP/3 clients fall back to TCP",
			"--upstream-proxy none, where this machine reaches out by itself, too")
		return
	}
	if err := egress.HasEcho(); err != nil {
		d.r.Set(probe.Protocols, probe.Weak, "TCP, UDP, QUIC and DNS by rule; no ICMP echo: "+err.Error(),
			`only needed for ping: as root, sysctl -w net.ipv4.ping_group_range="0 2147483647"`)
		return
	}
	d.r.Set(probe.Protocols, probe.OK, "TCP, UDP, QUIC, DNS and ICMP echo, by rule", "")
}

// oldestKernel is the first with setns(2) by a pidfd, without which the
// gatekeeper cannot enter the agent's namespaces. The calls for which there is
// another way (mount_setattr, 5.12) do not count.
var oldestKernel = [2]int{5, 8}

func (d *diagnosis) kernel() {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		d.r.Set(probe.Kernel, probe.Missing, "uname: "+err.Error(), "")
		return
	}
	release := unix.ByteSliceToString(u.Release[:])
	got := unix.ByteSliceToString(u.Sysname[:]) + " " + release + " " + unix.ByteSliceToString(u.Machine[:])
	if tooOld(release) {
		d.r.Set(probe.Kernel, probe.Weak, got, fmt.Sprintf("Linux %d.%d is the oldest that is known to do", oldestKernel[0], oldestKernel[1]))
		return
	}
	d.r.Set(probe.Kernel, probe.OK, got, "")
}

// tooOld reads a release such as "6.18.44-custom"; one that cannot be read is
// left to the trial.
func tooOld(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return false
	}
	return major < oldestKernel[0] || major == oldestKernel[0] && minor < oldestKernel[1]
}

func (d *diagnosis) routes() {
	if hasDefaultRoute(netlink.FAMILY_V4) {
		d.r.Set(probe.IPv4, probe.OK, "a default route", "")
	} else {
		d.r.Set(probe.IPv4, probe.Weak, "no default route: only what is on a network of this machine can be reached", "")
	}
	if hasIPv6Route() {
		d.r.Set(probe.IPv6, probe.OK, "a default route", "")
	} else {
		d.r.Set(probe.IPv6, probe.Weak, "no default route: sessions carry IPv4 only", "")
	}
}

func (d *diagnosis) identity(ids idmap.Plan) {
	if ids.Root {
		return // the trial of --root
	}
	got := ids.Note
	if got == "" {
		got = fmt.Sprintf("the command keeps uid %d, gid %d", ids.UID, ids.GID)
	}
	d.r.Set(probe.Identity, probe.OK, got, "")
}

// upstream enters how the supervisor would reach out; err is the stage's.
func (d *diagnosis) upstream(s *supervisor, err error) {
	if _, bad := chooseProxy(s.cfg.UpstreamProxy, s.cfg.Env); bad != nil {
		d.r.Set(probe.Proxy, probe.Missing, bad.Error(), "HTTPS_PROXY or ALL_PROXY must be http://HOST:PORT or socks5://HOST:PORT; --upstream-proxy none ignores them")
		d.r.Set(probe.Resolver, probe.Untried, "", "")
		return
	}
	got := "none is set: outcall dials by itself"
	if s.proxy.url != nil {
		got = "the environment names " + s.proxy.url.Redacted() + ": outcall reaches out by it"
	}
	d.r.Set(probe.Proxy, probe.OK, got, "")
	switch {
	case err != nil:
		d.r.Set(probe.Resolver, probe.Missing, err.Error(),
			"write a line `nameserver IP` to /etc/resolv.conf, or give one by --dns-upstream IP, or set HTTPS_PROXY to a proxy that resolves")
	case len(s.upstreams) == 0:
		d.r.Set(probe.Resolver, probe.Weak, "none: the upstream proxy resolves, and judges what a name's address may be",
			"only needed for names that outcall shall pin to their real addresses: --dns-upstream IP")
	default:
		var names []string
		for _, u := range s.upstreams {
			names = append(names, u.Addr().String())
		}
		d.r.Set(probe.Resolver, probe.OK, "/etc/resolv.conf names "+strings.Join(names, ", "), "")
	}
}

// directories enters where the session and its audit went.
func (d *diagnosis) directories(s *supervisor) {
	root := s.env.Root()
	got := owned(root)
	if filepath.Dir(root) != filepath.Clean(s.env.RuntimeDir) {
		got += " (XDG_RUNTIME_DIR is unset, or not a directory of this user's that nobody else writes)"
	}
	d.r.Set(probe.SessionDir, probe.OK, got, "")
	path := s.env.AuditPath(s.who.Session)
	if path == s.sess.Info.Audit {
		d.r.Set(probe.StateDir, probe.OK, owned(s.env.StateDir())+"; the audit of a session NAME is NAME/"+filepath.Base(path), "")
		return
	}
	why := "the audit went to the session's directory"
	if w, err := s.tryAudit(path); err != nil {
		why = err.Error()
	} else {
		_ = w.Close()
	}
	d.r.Set(probe.StateDir, probe.Weak, why+": the audit is kept in the session directory, which the system empties",
		"set HOME or XDG_STATE_HOME to a directory that this user can write, or give --audit PATH")
}

// owned describes a directory that was just written to.
func owned(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return dir + ": " + err.Error()
	}
	return fmt.Sprintf("%s: uid %d, mode %#o, written to", dir, st.Uid, st.Mode&0o7777)
}

// side is a trial of one part of the start that a run has only with a flag.
// The sandbox stands while use looks at it.
func (d *diagnosis) side(ctx context.Context, change func(*Config), use func(*trial, error)) {
	if d.r.Layer(probe.Namespaces).Status != probe.OK {
		return // the trial has told why
	}
	cfg := d.cfg
	change(&cfg)
	t, _ := d.begin(ctx, cfg)
	if t == nil {
		return
	}
	defer t.leave(ctx)
	err := t.wholeSandbox(ctx)
	if ctx.Err() == nil {
		use(t, err)
	}
}

// tap tries --link tap where a run would not have come to it.
func (d *diagnosis) tap(ctx context.Context) {
	if d.cfg.Link == gate.LinkTap {
		return
	}
	d.side(ctx, func(c *Config) { c.Link = gate.LinkTap }, func(t *trial, err error) {
		if err == nil {
			_, err = t.tapLink()
		}
		if err == nil {
			d.r.Stood(probe.Tap)
			return
		}
		mend := mendOf(err)
		if layerOf(err) != probe.Tap {
			mend = ""
		}
		d.r.Set(probe.Tap, probe.Weak, err.Error()+": only needed where packet sockets are refused", mend)
	})
}

// subordinate tries --root.
func (d *diagnosis) subordinate(ctx context.Context) {
	d.side(ctx, func(c *Config) { c.Root, c.AsRoot = true, false }, func(t *trial, err error) {
		const mend = "only needed for programs that change users: package uidmap (newuidmap, newgidmap), and a range for this user in /etc/subuid and /etc/subgid"
		switch {
		case err != nil:
			d.r.Set(probe.SubIDs, probe.Weak, "--root is refused: "+err.Error(), mendOf(err))
		case t.info.Subordinate:
			n := 0
			for _, r := range t.ids.UIDs {
				n += r.Size
			}
			d.r.Set(probe.SubIDs, probe.OK, fmt.Sprintf("--root has uid 0 and %d more ids inside", n-1), "")
		case t.ids.NoNewPrivs:
			d.r.Set(probe.SubIDs, probe.Weak, "--root has uid 0 inside and no other id: newuidmap cannot act under no_new_privs",
				"only needed for programs that change users: start outcall outside a session, and where no_new_privs is not set (systemd: NoNewPrivileges=, containers: no-new-privileges)")
		default:
			d.r.Set(probe.SubIDs, probe.Weak, "--root has uid 0 inside and no other id", mend)
		}
	})
}
