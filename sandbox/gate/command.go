package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"outcall/sandbox/seccomp"
)

// commandMain becomes the command. It runs in U2, a leader of its own session
// (or, with a terminal, of its own process group), on the process's first
// thread, and gives up step by step what the next step does not need:
//
//  1. a session keyring of its own
//  2. capabilities and their bounding set (with root inside: only the ambient set)
//  3. the working directory, entered with the command's own rights
//  4. the program, found in the command's PATH inside the view, likewise
//  5. no_new_privs and the seccomp filter, last
//  6. execve
//
// It mustn't write to descriptors 0-2: they are the command's.
func commandMain(c *conn) int {
	unix.CloseOnExec(stageSock)
	doc, err := briefed(c)
	if err != nil {
		return 125
	}
	if doc.Lead {
		return sessionMain(c, doc)
	}
	path, err := confine(doc)
	if err != nil {
		_ = c.send(&message{Op: opReady, Err: stageErr(StageExec, "", err)})
		return 125
	}
	if err := c.send(&message{Op: opReady}); err != nil {
		return 125
	}
	err = unixExec(path, doc.Argv, doc.Env)
	_ = c.send(&message{Op: opReady, Err: stageErr(StageExec, doc.Argv[0], err)})
	return 126
}

// briefed waits for the document. The descriptors of the command come along
// where this stage was made before it was known what it becomes.
func briefed(c *conn) (doc commandDoc, err error) {
	m, fds, err := c.recv()
	if err != nil {
		return doc, err
	}
	defer func() { closeAll(fds) }()
	if m.Op != opConfig || len(fds) == 0 {
		return doc, fmt.Errorf("receive: %q with %d descriptors where a document was due", m.Op, len(fds))
	}
	err = readDoc(fds[0], &doc)
	fds = fds[1:]
	if err != nil {
		return doc, err
	}
	stdio, err := pick(m.Has, fds)
	if err != nil {
		return doc, err
	}
	for i, fd := range stdio {
		if fd < 0 {
			continue // /dev/null is there
		}
		if err := unix.Dup3(fd, i, 0); err != nil {
			return doc, err
		}
	}
	if doc.TakeTTY {
		return doc, unix.IoctlSetInt(terminalFD(), unix.TIOCSCTTY, 0)
	}
	return doc, nil
}

func confine(doc commandDoc) (path string, err error) {
	if len(doc.Argv) == 0 {
		return "", &StageError{Stage: StageExec, Detail: "no command", Errno: unix.ENOENT}
	}
	steps := []struct {
		stage string
		do    func() error
	}{
		{StageKeyring, joinKeyring},
		{StageCaps, func() error { return shed(doc.Root) }},
		{StageWorkdir, func() error {
			if doc.Dir == "" {
				return nil
			}
			return os.Chdir(doc.Dir)
		}},
		{StageExec, func() error { path, err = lookPath(doc.Argv[0], doc.Env); return err }},
		{StageSeccomp, seccomp.Apply},
	}
	for _, s := range steps {
		if err := inject(doc.FailStage, s.stage); err != nil {
			return "", err
		}
		if err := s.do(); err != nil {
			return "", stageErr(s.stage, "", err)
		}
	}
	return path, nil
}

// joinKeyring leaves the caller's session keyring. A kernel without keyrings,
// or an outer filter that forbids them, has nothing to leave.
func joinKeyring() error {
	// Without a name: an anonymous keyring, which nobody else can join.
	_, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if errno == 0 || errno == unix.ENOSYS || errno == unix.EPERM {
		return nil
	}
	return errno
}

// shed gives up capabilities. As root inside, execve would keep them anyway
// and the command may have them: they are over U2, which owns nothing.
func shed(root bool) error {
	if root {
		return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	}
	if err := dropBounding(); err != nil {
		return err
	}
	return dropCaps()
}

// lookPath finds a program as a shell does, by the PATH of env. A file that is
// there and cannot be executed is EACCES, but only if no later directory has
// one that can be; a directory of PATH that cannot be entered holds nothing
// (execvp(3) would answer EACCES for every name that is misspelt).
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	if name == "" {
		return "", unix.ENOENT
	}
	denied := false
	for _, dir := range filepath.SplitList(getenv(env, "PATH", defaultPath)) {
		if dir == "" {
			dir = "."
		}
		p := dir + "/" + name
		err := executable(p)
		if err == nil {
			return p, nil
		}
		denied = denied || errors.Is(err, unix.EACCES) && isFile(p)
	}
	if denied {
		return "", &StageError{Stage: StageExec, Detail: name, Errno: unix.EACCES}
	}
	return "", &StageError{Stage: StageExec, Detail: name, Errno: unix.ENOENT}
}

const defaultPath = "/usr/local/bin:/usr/bin:/bin"

func executable(p string) error {
	var st unix.Stat_t
	err := unix.Stat(p, &st)
	switch {
	case err == unix.ENOTDIR:
		err = unix.ENOENT
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = unix.EACCES
	case err == nil:
		err = unix.Faccessat(unix.AT_FDCWD, p, unix.X_OK, unix.AT_EACCESS)
	}
	if err != nil {
		return &fs.PathError{Op: "find", Path: p, Err: err}
	}
	return nil
}

// isFile reports whether p can be seen and is no directory.
func isFile(p string) bool {
	var st unix.Stat_t
	return unix.Stat(p, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR
}

func getenv(env []string, name, other string) string {
	for _, e := range env {
		if k, v, ok := strings.Cut(e, "="); ok && k == name {
			return v
		}
	}
	return other
}
