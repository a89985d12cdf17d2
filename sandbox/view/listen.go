package view

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// AgentListener binds the agent API's socket at AgentSocket and returns it
// listening, non-blocking and close-on-exec; the caller owns it. It is called
// once, in the process that has done Apply, before that gives up its
// capabilities. The directory is read-only again when it returns.
func AgentListener() (*os.File, error) {
	f, err := agentListener()
	if err != nil {
		return nil, stageError("agent.sock", AgentSocket, err)
	}
	return f, nil
}

func agentListener() (*os.File, error) {
	if err := mountCall("", RunDir, "", unix.MS_REMOUNT|unix.MS_BIND|own, ""); err != nil {
		return nil, err
	}
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
