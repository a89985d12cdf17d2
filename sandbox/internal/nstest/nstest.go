// Package nstest gives tests namespaces of their own. A test binary whose
// TestMain calls Main runs again inside a new user and network namespace, as
// an ordinary user outside: started by root it gives root up first. So what
// passes there needs no privilege that a user does not have.
package nstest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const (
	stageEnv = "OUTCALL_NSTEST"
	nobody   = 65534
)

// Main runs the tests inside the namespaces and exits.
func Main(m *testing.M) {
	if spec := os.Getenv(passEnv); spec != "" {
		os.Exit(pass(spec))
	}
	flag.Parse()
	stage := os.Getenv(stageEnv)
	switch {
	case stage == "in" || fuzzing():
		os.Exit(m.Run())
	case testing.Short() && stage == "":
		os.Exit(m.Run()) // Need skips
	case stage == "" && os.Getuid() == 0 && !given("test.coverprofile"):
		os.Exit(again("user", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}))
	default:
		os.Exit(again("in", &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}))
	}
}

// Need ends a test that runs outside of the namespaces: skipped with -short,
// failed else.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(stageEnv) == "in" {
		return
	}
	if testing.Short() {
		t.Skip("needs a user and network namespace; not with -short")
	}
	t.Fatal("needs a user and network namespace: call nstest.Main from TestMain")
}

func fuzzing() bool { return given("test.fuzz") || given("test.fuzzworker") }

func given(name string) bool {
	f := flag.Lookup(name)
	return f != nil && f.Value.String() != "" && f.Value.String() != "false"
}

// again runs this binary once more. Files that the go command wants written
// lie in a directory that only its own user may enter.
func again(stage string, attr *syscall.SysProcAttr) int {
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile=") {
			args = append(args, a)
		}
	}
	attr.Pdeathsig = syscall.SIGKILL
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageEnv+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintf(os.Stderr, "nstest: cannot run inside a new user and network namespace: %v\n"+
			"  check: sysctl kernel.unprivileged_userns_clone (1), user.max_user_namespaces (> 0),\n"+
			"  kernel.apparmor_restrict_unprivileged_userns (0); in a container, its seccomp profile.\n"+
			"  Without namespaces: go test -short\n", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}
