package gate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// toolDirs is where an operator's tool is looked for; no PATH, which could
// name directories that the agent writes to.
var toolDirs = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// gatewayMain runs an operator's tool as owner of U1 in the gateway netns,
// with the host's files read-only, or makes the bridge again. It is pid 1
// of its own pid namespace: what the tool leaves behind ends with it.
func gatewayMain(c *conn) int {
	unix.CloseOnExec(stageSock)
	var doc commandDoc
	if err := c.recvDoc(opConfig, &doc); err != nil {
		return 125
	}
	if doc.BridgeUp {
		if err := bridgeUp(doc.Network, doc.FailStage); err != nil {
			_ = c.send(&message{Op: opReady, Err: stageErr(StageBridge, doc.Network.Bridge, err)})
			return 1
		}
		_ = c.send(&message{Op: opReady})
		_ = c.send(&message{Op: opExit})
		return 0
	}
	pid, err := startTool(doc)
	if err != nil {
		_ = c.send(&message{Op: opReady, Err: stageErr(StageExec, "", err)})
		return 125
	}
	if err := insideNull(); err != nil {
		return 125
	}
	if err := c.send(&message{Op: opReady}); err != nil {
		return 125
	}
	lead(c, pid)
	return 0
}

func startTool(doc commandDoc) (int, error) {
	if len(doc.Argv) == 0 {
		return 0, &StageError{Stage: StageExec, Detail: "no command", Errno: unix.ENOENT}
	}
	path, err := findTool(doc.Argv[0])
	if err != nil {
		return 0, err
	}
	if err := inject(doc.FailStage, StageReadOnly); err != nil {
		return 0, err
	}
	if err := hostReadOnly(); err != nil {
		return 0, stageErr(StageReadOnly, "/", err)
	}
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	pid, _, err := syscall.StartProcess(path, doc.Argv, &syscall.ProcAttr{Dir: doc.Dir, Env: doc.Env, Files: []uintptr{0, 1, 2}, Sys: attr})
	if err != nil {
		return 0, stageErr(StageExec, path, err)
	}
	return pid, nil
}

// hostReadOnly makes every mount of this namespace read-only.
func hostReadOnly() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	// A sysfs shows the interfaces of the netns in which it was mounted. Where
	// an outer container covers parts of /sys the kernel refuses a new one
	// (mount_too_revealing in fs/namespace.c): then the tool sees the host's.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return nil
}

// findTool returns the absolute path of a program that no agent could have
// put there.
func findTool(name string) (string, error) {
	candidates := []string{name}
	if !filepath.IsAbs(name) {
		if strings.Contains(name, "/") {
			return "", &StageError{Stage: StageExec, Detail: name + ": a tool is named by its name or by an absolute path", Errno: unix.EACCES}
		}
		candidates = nil
		for _, d := range toolDirs {
			candidates = append(candidates, d+"/"+name)
		}
	}
	for _, p := range candidates {
		err := executable(p)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return "", err
		}
		return trusted(p)
	}
	return "", &StageError{Stage: StageExec, Detail: name + " is not in " + strings.Join(toolDirs, ":"), Errno: unix.ENOENT}
}

// trusted resolves p and refuses it where the agent could have written it or
// renamed a directory above it. Uid 0 of U1, which asks here, is the agent's
// own kernel uid with the power to ignore modes on whatever that uid owns: so
// what it may not write, the agent could not.
func trusted(p string) (string, error) {
	real, err := filepath.EvalSymlinks(p)
	if err != nil {
		return "", err
	}
	for _, chain := range []string{p, real} {
		for at := filepath.Clean(chain); ; at = filepath.Dir(at) {
			fi, err := os.Lstat(at)
			if err != nil {
				return "", err
			}
			if fi.Mode()&os.ModeSymlink == 0 && unix.Faccessat(unix.AT_FDCWD, at, unix.W_OK, unix.AT_EACCESS) == nil {
				return "", &StageError{Stage: StageExec, Detail: fmt.Sprintf("%s: the command in the sandbox could have changed %s", p, at), Errno: unix.EACCES,
					Hint: "install the tool where this user cannot write, such as /usr/sbin"}
			}
			if at == "/" {
				break
			}
		}
	}
	return real, nil
}
