package view

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Plan looks at the host and describes the view. It makes the directories of
// Options.Config and Options.State where they are missing, and changes
// nothing else. Errors are of type *Error.
func Plan(o Options) (Spec, error) {
	p := &planner{o: o}
	p.who = owner{uid: o.UID, gid: o.GID, groups: o.Groups, many: o.Subordinate,
		root: o.AsRoot || o.UID == 0, self: os.Geteuid() == o.UID}
	p.s = Spec{
		WeakProc: o.WeakProc, LockSysctl: o.AsRoot || o.UID == 0, Scratch: o.Scratch, FailStage: o.FailStage,
		Resolv: resolvText(o.Resolvers), Hosts: hostsText(o.Hostname),
	}
	var err error
	if p.table, err = readMounts("/proc/self/mountinfo"); err != nil {
		return Spec{}, stageError("mount", "/proc/self/mountinfo", err)
	}
	for _, st := range []struct {
		name string
		do   func() error
	}{
		{"run", p.replaced},
		{"workdir", p.workdir},
		{"protect", p.guards},
		{"bind", p.binds},
		{"outcall", p.programs},
		{"sockets", p.sockets},
	} {
		p.at = ""
		if err := st.do(); err != nil {
			return Spec{}, stageError(st.name, p.at, err)
		}
	}
	// Outermost first: a mount made later would cover those below it.
	slices.SortFunc(p.s.Pinned, func(a, b string) int { return len(a) - len(b) })
	return p.s, nil
}

type planner struct {
	o     Options
	who   owner
	table []mount
	s     Spec
	at    string // what the stage works on, for its error

	looked int // files seen by inside
}

// keepRun are entries of /run that are part of the system, not of its runtime
// state: NixOS and Guix keep their programs there.
var keepRun = []string{
	"current-system", "booted-system", "opengl-driver", "opengl-driver-32", "wrappers", "setuid-programs", "privileged",
}

// replaced finds which directories get a fresh one in their place.
func (p *planner) replaced() error {
	p.at = "/run"
	run, err := filepath.EvalSymlinks("/run")
	if err != nil {
		return err
	}
	if run != "/run" {
		return fmt.Errorf("is a symlink to %s", run)
	}
	p.s.RunDirs = []string{"/run"}
	if d, err := filepath.EvalSymlinks("/var/run"); err == nil && !below(d, "/run") {
		p.s.RunDirs = append(p.s.RunDirs, d)
	}
	for _, n := range keepRun {
		if _, err := os.Lstat("/run/" + n); err == nil {
			p.s.RunKeep = append(p.s.RunKeep, "/run/"+n)
		}
	}
	if d, err := filepath.EvalSymlinks("/tmp"); err == nil {
		p.s.TmpDir = d
	}
	if p.o.PrivateHome {
		p.s.Home = PrivateHome
	}
	return p.runtimeDir()
}

// runtimeDir places $XDG_RUNTIME_DIR: inside a replaced directory it is made
// there, elsewhere it gets a tmpfs of its own.
func (p *planner) runtimeDir() error {
	p.at = p.o.RuntimeDir
	if !filepath.IsAbs(p.at) {
		return nil // the specification says to ignore it
	}
	d, err := resolveMissing(p.at)
	if err != nil {
		return err
	}
	if p.isReplaced(d) {
		if !slices.Contains(p.s.RunDirs, d) && d != p.s.TmpDir && d != "/dev" {
			p.s.RuntimeDir = d
		}
		return nil
	}
	if fi, err := os.Stat(d); err != nil || !fi.IsDir() {
		return nil
	}
	if below(p.o.Dir, d) || d == "/" {
		return errors.New("the working directory lies in $XDG_RUNTIME_DIR, which the sandbox replaces")
	}
	p.s.RuntimeDir = d
	p.s.RunDirs = append(p.s.RunDirs, d)
	return nil
}

// isReplaced reports whether a path lies in a directory that the view
// replaces, or is one.
func (p *planner) isReplaced(path string) bool {
	for _, d := range append([]string{"/dev", p.s.TmpDir}, p.s.RunDirs...) {
		if d != "" && below(path, d) {
			return true
		}
	}
	return false
}

// seen reports whether a host path is still to be seen inside.
func (p *planner) seen(path string) bool {
	if !p.isReplaced(path) {
		return true
	}
	for _, b := range p.s.Back {
		if below(path, b) {
			return true
		}
	}
	return false
}

// workdir finds the agent's working directory and whether it must be bound
// back. Where real root stands in a directory that the agent's uid cannot
// enter, the agent starts in / and Moved says so.
func (p *planner) workdir() error {
	p.at = p.o.Dir
	dir, err := filepath.EvalSymlinks(p.o.Dir)
	if err != nil {
		return err
	}
	if !p.who.canEnter(dir) {
		if p.who.self {
			return unix.EACCES
		}
		p.s.Moved, dir = dir, "/"
	}
	p.s.Dir, p.s.Unwritable = dir, !p.who.canWrite(dir)
	if p.isReplaced(dir) && dir != p.s.TmpDir && !slices.Contains(p.s.RunDirs, dir) && dir != "/dev" {
		p.s.Back = []string{dir}
	}
	return nil
}

// binds are brought back, except where that would undo a protection.
func (p *planner) binds() error {
	for _, b := range p.o.Binds {
		p.at = b
		real, err := filepath.EvalSymlinks(b)
		if err != nil {
			return err
		}
		for _, d := range []string{RunDir, "/dev", "/proc", "/sys"} {
			if below(d, real) {
				return errors.New("the sandbox needs its own there; name a path below it")
			}
		}
		for _, g := range p.s.ReadOnly {
			if below(real, g.Path) {
				return errors.New("is protected: outcall reads its rules, trust or program there")
			}
		}
		for _, h := range p.s.Hidden {
			if below(real, h) {
				return errors.New("is hidden: outcall keeps its sessions there")
			}
		}
		if p.isReplaced(real) {
			p.s.Back = append(p.s.Back, real)
		}
		p.o.Binds = append([]string{real}, p.o.Binds...)
	}
	p.s.Back = outermost(p.s.Back)
	return nil
}

// outermost drops what lies below another path of the list.
func outermost(paths []string) []string {
	slices.Sort(paths)
	var out []string
	for _, q := range paths {
		if !slices.ContainsFunc(out, func(o string) bool { return below(q, o) }) {
			out = append(out, q)
		}
	}
	return out
}

// programs finds the separate agent program beside the executable. Inside a
// session it can be a second name of that.
func (p *planner) programs() error {
	exe, err := p.executable()
	if err != nil {
		return err
	}
	shim := filepath.Join(filepath.Dir(exe), "outcall-agent")
	fi, err := os.Stat(shim)
	if err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 || unix.Access(shim, unix.R_OK) != nil {
		return nil
	}
	if own, err := os.Stat(exe); err != nil || !os.SameFile(own, fi) {
		p.s.Shim = shim
	}
	return nil
}

func (p *planner) executable() (string, error) {
	if p.o.Executable != "" {
		return p.o.Executable, nil
	}
	exe, err := os.Readlink("/proc/self/exe")
	return strings.TrimSuffix(exe, " (deleted)"), err
}
