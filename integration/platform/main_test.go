package platform

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/integration/world"
)

const self = world.Dir + "/test"

// A fact runs as a process of its own; its error is the test's failure.
var facts = map[string]func() error{}

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "fact" {
		if err := facts[os.Args[2]](); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[2], err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	world.Main(m)
}

// holds runs a fact as an ordinary user without any capability.
func holds(t *testing.T, name string) {
	t.Helper()
	if out, err := world.Command(self, "fact", name).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Namespaces that a fact starts another one in. The id map is the single id
// of the caller, which needs no helper.
const (
	inU1     = unix.CLONE_NEWUSER | unix.CLONE_NEWNET
	inU1NS   = inU1 | unix.CLONE_NEWNS
	inU1Full = inU1NS | unix.CLONE_NEWPID
	inU2     = unix.CLONE_NEWUSER
	inU2NS   = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
)

func command(flags uintptr, name string, files ...*os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "fact", name)
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: unix.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// again starts a fact in new namespaces and waits for it.
func again(flags uintptr, name string, files ...*os.File) error {
	cmd := command(flags, name, files...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// want demands one answer of the kernel; nil is success.
func want(what string, err, expected error) error {
	if expected == nil && err != nil || expected != nil && !errors.Is(err, expected) {
		return fmt.Errorf("%s: got %v, want %v", what, err, expected)
	}
	return nil
}

func capEff() string {
	b, _ := os.ReadFile("/proc/thread-self/status")
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "CapEff:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
