package world

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The stages of the way in. Each is the test binary started anew, told by
// stageVar which it is:
//
//	outer  builds what the tests need, gives root up            (no variable)
//	enter  makes the namespaces
//	init   pid 1: mounts, loopback, reaps
//	test   runs the tests
const (
	stageVar = "WORLD_STAGE"
	dirVar   = "WORLD_DIR"
	asVar    = "WORLD_AS"
)

// uid and gid of the tests where the caller is root. It owns nothing outside.
const (
	ordinaryID = 1777
	nobodyID   = 65534
)

// Dir is where the world keeps its own files inside: binaries that Main's
// prepare functions made, the CA's certificate. It is world readable.
const Dir = "/home/.world"

// Home is the home directory of the user that the tests are.
const Home = "/home/agent"

// The main thread is kept for the main goroutine: /proc/self is its view, the
// parent-death signal and what drop does belong to a thread, and a goroutine
// that leaves for another network namespace must not take this one along.
func init() { runtime.LockOSThread() }

// Main runs m's tests inside the world's namespaces and ends the process.
// Each prepare function is called once, outside and with the caller's own
// rights, and puts what the tests need into dir, which is Dir inside.
func Main(m *testing.M, prepare ...func(dir string) error) {
	if len(os.Args) > 3 && os.Args[1] == dropWord {
		err := drop(os.Args[2], os.Args[3:])
		fmt.Fprintln(os.Stderr, "world: start", os.Args[2]+":", err)
		os.Exit(127)
	}
	var code int
	var err error
	switch os.Getenv(stageVar) {
	case "":
		code, err = outer(prepare)
	case "enter":
		code, err = enter(os.Getenv(dirVar))
	case "init":
		code, err = initStage()
	default:
		code = m.Run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "world: %s: %v\n", os.Getenv(stageVar), err)
		code = 1
	}
	os.Exit(code)
}

// As tells who the tests are: "user", "nobody" or "root".
func As() string {
	if s := os.Getenv(asVar); s != "" {
		return s
	}
	return "user"
}

func outer(prepare []func(string) error) (int, error) {
	if as := As(); as != "user" && os.Geteuid() != 0 {
		return 1, fmt.Errorf("%s=%s needs real root: run the tests as root or unset it", asVar, as)
	}
	dir, err := os.MkdirTemp("", "world-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	for _, p := range prepare {
		if err := p(dir); err != nil {
			return 1, fmt.Errorf("prepare: %w", err)
		}
	}
	// The binary's own directory may be closed to the user that we become.
	if err := copyFile("/proc/self/exe", filepath.Join(dir, "test")); err != nil {
		return 1, err
	}
	if os.Geteuid() != 0 || As() == "root" {
		return enter(dir)
	}
	id := ordinaryID
	if As() == "nobody" {
		id = nobodyID
	}
	cmd := stage("enter", dir)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}
	return exitCode(cmd.Run())
}

func stage(name, dir string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(dir, "test"), testArgs()...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageVar+"="+name, dirVar+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// testArgs leaves out the log that the go command keeps for its cache: it
// lies in a directory that the ordinary user cannot enter, and a test of the
// whole machine must not be cached.
func testArgs() []string {
	var out []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile") {
			out = append(out, a)
		}
	}
	return out
}

// worldCaps are the capabilities that the test process keeps over its own
// namespaces: to build networks, to mount, to look at what it started.
var worldCaps = []uintptr{0, 1, 2, 5, 6, 7, 10, 12, 13, 18, 19, 21}

func enter(dir string) (int, error) {
	cmd := stage("init", dir)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID
	if As() != "root" {
		a := cmd.SysProcAttr
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		a.AmbientCaps = worldCaps
	}
	code, err := exitCode(cmd.Run())
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w: these tests need unprivileged user namespaces "+
			"(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0; in a container seccomp=unconfined)", err)
	}
	return code, err
}

// exitCode tells a test run that ended by itself from one that never started.
func exitCode(err error) (int, error) {
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		if ee.ExitCode() < 0 {
			return 1, fmt.Errorf("the tests were ended: %s", ee)
		}
		return ee.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return fmt.Errorf("copy to %s: %w", to, err)
	}
	return out.Close()
}

// userName is the name of the tests' user in the world's /etc/passwd.
const userName = "agent"

func passwdLine(uid, gid int) string {
	return userName + ":x:" + strconv.Itoa(uid) + ":" + strconv.Itoa(gid) + "::" + Home + ":/bin/sh\n"
}
