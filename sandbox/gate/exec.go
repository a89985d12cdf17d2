package gate

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unixExec becomes path. A text without an interpreter line runs by /bin/sh,
// as execvp(3) and every shell have it. syscall.Exec also gives back the
// limit of open files that the Go runtime has raised.
func unixExec(path string, argv, env []string) error {
	err := syscall.Exec(path, argv, env)
	if err == unix.ENOEXEC {
		if sh := syscall.Exec("/bin/sh", append([]string{"sh", path}, argv[1:]...), env); sh != unix.ENOENT {
			return sh
		}
	}
	return err
}
