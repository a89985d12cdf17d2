package view

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// AgentFiles makes what the supervisor serves the agent by: the agent API's
// socket at AgentSocket, listening and non-blocking, and an empty file at
// Readme, open for writing. The caller owns both. It is called once, in the
// process that has done Apply, before that gives up its capabilities. The
// directory is read-only again when it returns.
func AgentFiles() (listener, readme *os.File, err error) {
	if err := mountCall("", RunDir, "", unix.MS_REMOUNT|unix.MS_BIND|own, ""); err != nil {
		return nil, nil, stageError("agent.sock", RunDir, err)
	}
	if readme, err = openReadme(); err != nil {
		return nil, nil, stageError("README.md", Readme, errors.Join(err, readOnly(RunDir, false)))
	}
	if listener, err = agentListener(); err != nil {
		return nil, nil, stageError("agent.sock", AgentSocket, errors.Join(err, readme.Close()))
	}
	return listener, readme, nil
}

// openReadme opens the file by a second mount of the same directory, which is
// gone from every path when it returns: that one stays writable, for whoever
// has the descriptor alone, while a descriptor of RunDir itself would keep that
// from becoming read-only.
func openReadme() (*os.File, error) {
	if err := mountCall(RunDir, voidDir, "", unix.MS_BIND, ""); err != nil {
		return nil, err
	}
	fd, err := unix.Open(voidDir+"/"+filepath.Base(Readme), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o444)
	if err == nil {
		err = unix.Fchmod(fd, 0o444) // whatever the umask is
	}
	if err = errors.Join(err, refused(unix.Unmount(voidDir, unix.MNT_DETACH))); err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), Readme), nil
}

func agentListener() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Join(err, readOnly(RunDir, false))
	}
	f := os.NewFile(uintptr(fd), AgentSocket)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: AgentSocket})
	if err == nil {
		// Whoever stands in the sandbox may ask; --root may have many users.
		err = unix.Chmod(AgentSocket, 0o666)
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err = errors.Join(err, readOnly(RunDir, false)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
