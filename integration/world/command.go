package world

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// dropWord is the first argument of the test binary when it only gives its
// capabilities up and becomes another program.
const dropWord = "world-drop"

// Command is exec.Command for what an ordinary user would start: no
// capability is left. (The test process has them as ambient ones, which a
// program with threads cannot clear for all of its children.)
func Command(name string, args ...string) *exec.Cmd {
	path, err := exec.LookPath(name)
	cmd := exec.Command(Dir+"/test", append([]string{dropWord, path, name}, args...)...)
	if err != nil {
		cmd.Err = fmt.Errorf("world: %w", err)
	}
	return cmd
}

// drop becomes the program at path. It returns only an error.
func drop(path string, argv []string) error {
	if As() != "root" {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			return fmt.Errorf("clear ambient capabilities: %w", err)
		}
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			return fmt.Errorf("give capabilities up: %w", err)
		}
	}
	return syscall.Exec(path, argv, os.Environ())
}
