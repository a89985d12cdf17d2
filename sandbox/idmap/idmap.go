// Package idmap decides which ids a session uses: what the command sees, what
// the kernel sees, and how the first user namespace (U1) maps them.
//
// An ordinary caller keeps its own uid and gid; U1 maps the single id 0 to
// it, and the command's namespace (U2) maps the visible id to U1's 0. With
// root wanted inside, U1 also maps the caller's subordinate ids where
// /etc/subuid and newuidmap give some.
//
// Real root gives root up: sysctl and devtmpfs look at the kernel's uid and
// not at capabilities, so a kernel uid 0 without any capability still writes
// /proc/sys/kernel/core_pattern. U1 then maps to the user behind sudo, the
// owner of the working directory, or 65534. AsRoot keeps kernel uid 0.
package idmap

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Nobody is the id of last resort for a command started by real root.
const Nobody = 65534

// A Range maps Size ids from Inside (in the new namespace) to Outside (in the
// namespace around it).
type Range struct {
	Inside, Outside, Size int
}

// A Plan is the decision. It is a plain value that travels as JSON.
type Plan struct {
	UID, GID int // what the command sees

	KernelUID, KernelGID int // the same ids in the supervisor's user namespace

	UIDs, GIDs []Range // U1's map; the first range maps 0 to KernelUID, KernelGID

	Root     bool // uid 0 inside, with capabilities over U2
	AsRoot   bool // kernel uid 0 is kept
	RealRoot bool // the caller is the machine's root
	Drop     bool // RealRoot and not AsRoot: U1's first process leaves uid 0
	// SetGroups is set where the caller may write any gid map: U1's first
	// process then leaves the caller's supplementary groups.
	SetGroups bool

	// UIDHelper and GIDHelper are newuidmap and newgidmap, empty where the
	// map can be written directly.
	UIDHelper, GIDHelper string
	// NoNewPrivs says that the caller has them and a range, and that they can
	// do nothing: their set-uid bit does not count under no_new_privs.
	NoNewPrivs bool

	User, Home string // of KernelUID in the user database, "" if unknown
	Note       string // one line for the banner, "" if nothing is unusual
}

// A Request is what the decision depends on.
type Request struct {
	Root, AsRoot bool
	Dir          string              // the working directory
	Getenv       func(string) string // of the caller: SUDO_UID, SUDO_GID
}

// An AsRootError says that only --as-root can help, or that it cannot be had.
type AsRootError struct{ Reason string }

func (e *AsRootError) Error() string { return e.Reason }

// host is what New asks of the machine; tests replace it.
type host struct {
	euid, egid int
	realRoot   bool
	setuid     bool // CAP_SETUID and CAP_SETGID are effective
	noNewPrivs bool
	mapped     func(uid, gid int) bool // they are ids of this user namespace
	owner      func(dir string) (uid, gid int, err error)
	lookup     func(uid int) (name, home string, gid int, ok bool)
	subIDs     func(uid int, name string) (uids, gids []Range)
	helper     func(name string) string
}

// New decides for the calling process.
func New(r Request) (Plan, error) {
	return decide(r, host{
		euid: os.Geteuid(), egid: os.Getegid(),
		realRoot: RealRoot(), setuid: hasCaps(unix.CAP_SETUID, unix.CAP_SETGID), noNewPrivs: noNewPrivs(),
		mapped: mapped, owner: dirOwner, lookup: lookupUser, subIDs: subIDs, helper: findHelper,
	})
}

func decide(r Request, h host) (Plan, error) {
	p := Plan{Root: r.Root, RealRoot: h.realRoot, KernelUID: h.euid, KernelGID: h.egid, SetGroups: h.realRoot && h.setuid}
	switch {
	case r.AsRoot && !h.realRoot:
		return Plan{}, &AsRootError{"--as-root is for a session started by real root"}
	case r.AsRoot:
		p.AsRoot = true
		p.Note = "kernel uid 0 is kept (--as-root): the machine's own settings are only partly out of reach"
	case h.realRoot:
		if !h.setuid {
			return Plan{}, &AsRootError{"started as root without CAP_SETUID and CAP_SETGID: root cannot be given up for the command; --as-root keeps it"}
		}
		p.Drop = true
		p.KernelUID, p.KernelGID = target(r, h)
		if !h.mapped(p.KernelUID, p.KernelGID) {
			return Plan{}, &AsRootError{fmt.Sprintf("started as root in a user namespace that has no uid %d or gid %d for the command (/proc/self/uid_map): "+
				"root cannot be given up there; start outcall as another user, or --as-root keeps root", p.KernelUID, p.KernelGID)}
		}
	}
	p.User, p.Home, _, _ = h.lookup(p.KernelUID)
	p.UID, p.GID = p.KernelUID, p.KernelGID
	if p.Root {
		p.UID, p.GID = 0, 0
	}
	p.UIDs, p.GIDs = []Range{{0, p.KernelUID, 1}}, []Range{{0, p.KernelGID, 1}}
	if p.Root {
		p.widen(h)
	}
	if p.Drop {
		p.Note = fmt.Sprintf("started by root: the command runs as uid %d, gid %d", p.KernelUID, p.KernelGID)
	}
	return p, nil
}

// target chooses whose ids a command gets that real root started. Neither is
// ever 0.
func target(r Request, h host) (uid, gid int) {
	uid, gid = Nobody, Nobody
	if u, ok := number(r.Getenv("SUDO_UID")); ok && u > 0 {
		uid = u
		if g, ok := number(r.Getenv("SUDO_GID")); ok {
			gid = g
		}
	} else if u, g, err := h.owner(r.Dir); err == nil && u > 0 {
		uid, gid = u, g
		if _, _, primary, ok := h.lookup(u); ok {
			gid = primary
		}
	}
	if gid <= 0 {
		gid = Nobody
	}
	return uid, gid
}

// widen adds the ids that a root inside can hand out.
func (p *Plan) widen(h host) {
	if p.AsRoot {
		if !h.setuid {
			return
		}
		// Every id that the caller itself has: both flags together ask for
		// root with nothing kept back.
		p.UIDs, p.GIDs = identity("/proc/self/uid_map"), identity("/proc/self/gid_map")
		return
	}
	uids, gids := h.subIDs(p.KernelUID, p.User)
	if len(uids) == 0 || len(gids) == 0 {
		return
	}
	if !p.Drop {
		p.UIDHelper, p.GIDHelper = h.helper("newuidmap"), h.helper("newgidmap")
		if p.UIDHelper == "" || p.GIDHelper == "" {
			p.UIDHelper, p.GIDHelper = "", ""
			return
		}
		if h.noNewPrivs {
			p.NoNewPrivs, p.UIDHelper, p.GIDHelper = true, "", ""
			return
		}
	}
	p.UIDs, p.GIDs = append(p.UIDs, stack(uids)...), append(p.GIDs, stack(gids)...)
}

// Single returns the plan with the caller's id alone, for where the helpers
// refuse.
func (p Plan) Single() Plan {
	p.UIDs, p.GIDs = p.UIDs[:1:1], p.GIDs[:1:1]
	p.UIDHelper, p.GIDHelper = "", ""
	return p
}

// stack lays ranges one after another from inside id 1, at most maxRanges of
// them (a uid_map has 340 lines, user_namespaces(7); nobody has so many).
func stack(in []Range) []Range {
	var out []Range
	next := 1
	for _, r := range in {
		if len(out) == maxRanges {
			break
		}
		out = append(out, Range{next, r.Outside, r.Size})
		next += r.Size
	}
	return out
}

const maxRanges = 64

func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, false
	}
	return int(n), true
}

// RealRoot reports whether the caller is uid 0 of the first user namespace.
// Neither uid 0 nor uid_map tell (a namespace can map 0 to 0); the owner of
// core_pattern, as this namespace sees it, does. Where that cannot be asked,
// uid 0 counts as real.
func RealRoot() bool {
	if os.Geteuid() != 0 {
		return false
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/sys/kernel/core_pattern", &st); err != nil {
		return true
	}
	return st.Uid == 0
}

func hasCaps(want ...uint) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	for _, c := range want {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}

// noNewPrivs tells whether no program that the caller starts gains rights. The
// flag is a thread's, and those of a program have it from its start. Where it
// cannot be asked, it is not there.
func noNewPrivs() bool {
	set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && set == 1
}

func dirOwner(dir string) (uid, gid int, err error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("owner of %s: unknown", dir)
	}
	return int(st.Uid), int(st.Gid), nil
}

func lookupUser(uid int) (name, home string, gid int, ok bool) {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return "", "", 0, false
	}
	gid, ok = number(u.Gid)
	return u.Username, u.HomeDir, gid, ok
}
