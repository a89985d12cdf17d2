package view

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Apply makes the view. It must run as pid 1 of a new pid namespace (not with
// WeakProc), in a mount namespace that nobody else uses, with CAP_SYS_ADMIN in
// the user namespace that owns both, on a locked thread or in a process of its
// own. Afterwards the working directory is s.Dir.
//
// A nil error means that every mount stands. After an error the namespace is
// half made and must be thrown away. Errors are of type *Error.
func Apply(s Spec) error {
	a := &applier{s: s}
	defer a.close()
	for _, st := range []struct {
		name string
		do   func() error
	}{
		{"mount", a.private},
		{"proc", a.proc},
		{"back", a.open},
		{"sys", a.sys},
		{"dev", a.dev},
		{"run", a.run},
		{"outcall", a.outcall},
		{"tmp", a.tmp},
		{"back", a.back},
		{"dev", a.seal},
		{"resolv.conf", a.names},
		{"protect", a.protect},
		{"hide", a.hide},
		{"sockets", a.sockets},
		{"sysctl", a.sysctl},
		{"workdir", a.workdir},
	} {
		err := refused(unix.EPERM)
		detail := "refused for a test"
		if s.FailStage != st.name {
			a.at = ""
			err, detail = st.do(), a.at
		}
		if err != nil {
			return stageError(st.name, detail, err)
		}
	}
	return nil
}

// An applier carries the descriptors that one Apply needs between its stages.
type applier struct {
	s     Spec
	at    string // what the stage works on, for its error
	kept  []kept // opened before their directories are replaced
	nodes []kept
	shim  *os.File // nil for none
	tmpFD int      // the scratch directory, 0 for none
}

type kept struct {
	path string
	fd   int
}

func (a *applier) close() {
	for _, k := range append(a.kept, a.nodes...) {
		unix.Close(k.fd)
	}
	if a.tmpFD > 0 {
		unix.Close(a.tmpFD)
	}
	a.shim.Close()
}

func stageError(stage, detail string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	e = &Error{Stage: stage, Detail: detail}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) && detail == "" {
		e.Detail = pe.Path
	}
	if !errors.As(err, &e.Errno) {
		e.Detail += ": " + err.Error()
	}
	var m *mountError
	e.Hint = hint(stage, e.Errno, errors.As(err, &m))
	return e
}

// hint is the mend for what a stage is most likely refused for. byMount tells
// that a mount call was refused; else it was a path.
func hint(stage string, errno syscall.Errno, byMount bool) string {
	switch {
	case !byMount && errno == unix.EACCES && (stage == "back" || stage == "workdir"):
		return "the user that the command runs as cannot enter it: give another --workdir or --bind, or change its mode"
	case !byMount:
		return ""
	case stage == "proc" && errno == unix.EPERM:
		return "an outer container masks /proc; start it with podman --security-opt unmask=ALL, docker --security-opt systempaths=unconfined, " +
			"or Kubernetes procMount: Unmasked; or accept the outer /proc with --weak proc"
	case errno == unix.EPERM || errno == unix.EACCES:
		return "something outside forbids mounts in a user namespace (AppArmor, SELinux or an outer seccomp filter); " +
			"in a container start it with --security-opt apparmor=unconfined or seccomp=unconfined"
	case errno == unix.ENOSPC:
		return "the limit of mounts in a namespace is reached; raise fs.mount-max or user.max_mnt_namespaces"
	}
	return ""
}

// private cuts the namespace off from the host's later mounts, in both
// directions: what was looked at is what is there.
func (a *applier) private() error {
	return mountCall("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// open takes hold of what lies in directories that are about to be replaced.
func (a *applier) open() error {
	keep := func(list *[]kept, paths []string) error {
		for _, p := range paths {
			a.at = p
			fd, err := openPath(p)
			if gone(err) && list == &a.nodes {
				continue
			}
			if err != nil {
				return err
			}
			*list = append(*list, kept{p, fd})
		}
		return nil
	}
	if err := keep(&a.kept, a.s.Back); err != nil {
		return err
	}
	if err := keep(&a.nodes, a.s.RunKeep); err != nil {
		return err
	}
	if a.s.Shim != "" {
		a.at = a.s.Shim
		shim, err := os.Open(a.s.Shim)
		if err != nil {
			return err
		}
		a.shim = shim
	}
	if a.s.Scratch != "" {
		// One level down: /tmp is open to every id inside, the scratch
		// directory to nobody else outside.
		a.at = filepath.Join(a.s.Scratch, "tmp")
		if err := os.Mkdir(a.at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		fd, err := openPath(a.at)
		if err != nil {
			return err
		}
		a.tmpFD = fd
	}
	return nil
}

// back binds the working directory and --bind paths in again.
func (a *applier) back() error {
	for _, k := range a.kept {
		a.at = k.path
		dir, err := isDir(k.fd)
		if err != nil {
			return err
		}
		if err := mountPoint(k.path, dir); err != nil {
			return err
		}
		if err := bind(fdPath(k.fd), k.path); err != nil {
			return err
		}
	}
	return nil
}

// workdir leaves init in the agent's working directory, reached through the
// new view.
func (a *applier) workdir() error {
	a.at = a.s.Dir
	return os.Chdir(a.s.Dir)
}
