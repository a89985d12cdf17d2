package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests run the real thing in four processes, like the product:
//
//	test            root or an ordinary user
//	└─ plan         the ordinary user: Plan, then a clone into U1 with its namespaces
//	   └─ apply     pid 1 there: Apply, then a clone into U2
//	      └─ agent  a shell script
//
// All are this test binary with "stage" as its first argument.

// A request is what the plan stage does.
type request struct {
	Opt    Options
	Script string
	// Caps gives the agent every capability in U2, as --root does.
	Caps bool
	// Before is a script that runs in U1, with its capabilities, before Apply.
	Before string
	// Listen asks for the agent socket.
	Listen bool
}

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "stage" {
		os.Exit(stage(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func stage(name string, args []string) int {
	switch name {
	case "plan":
		return stagePlan()
	case "apply":
		return stageApply()
	case "listen":
		return stageListen(args)
	case "connect":
		return stageConnect(args)
	case "remount":
		if err := remountReadOnly(args[0], true); err != nil {
			return say(err)
		}
		return 0
	case "tmpfile":
		return stageTmpfile(args)
	}
	return 2
}

// say reports a failed stage to the test.
func say(err error) int {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Stage: "untyped", Detail: err.Error()}
	}
	b, _ := json.Marshal(e)
	fmt.Fprintf(os.Stderr, "STAGE%s\n", b)
	return 125
}

func stagePlan() int {
	var r request
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		return say(err)
	}
	spec, err := Plan(r.Opt)
	if err != nil {
		return say(err)
	}
	doc, err := json.Marshal(struct {
		R request
		S Spec
	}{r, spec})
	if err != nil {
		return say(err)
	}
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET)
	if r.Opt.WeakProc {
		flags &^= unix.CLONE_NEWPID
	}
	return run("apply", bytes.NewReader(doc), &syscall.SysProcAttr{
		Cloneflags:  flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}, "/proc/self/exe", "stage", "apply")
}

func stageApply() int {
	var doc struct {
		R request
		S Spec
	}
	if err := json.NewDecoder(os.Stdin).Decode(&doc); err != nil {
		return say(err)
	}
	if b := doc.R.Before; b != "" {
		out, err := exec.Command("/bin/sh", "-ec", b).CombinedOutput()
		if err != nil {
			return say(fmt.Errorf("before: %v: %s", err, out))
		}
	}
	if err := Apply(doc.S); err != nil {
		return say(err)
	}
	if doc.R.Listen {
		l, f, err := AgentFiles()
		if err != nil {
			return say(err)
		}
		defer l.Close()
		defer f.Close()
		if _, err := f.WriteString("written from outside\n"); err != nil {
			return say(err)
		}
	}
	id := doc.R.Opt.UID
	if doc.R.Caps {
		id = 0
	}
	return run("agent", nil, &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: id, HostID: 0, Size: 1}},
	}, "/bin/sh", "-c", doc.R.Script)
}

func run(what string, stdin io.Reader, attr *syscall.SysProcAttr, argv ...string) int {
	c := &exec.Cmd{Path: argv[0], Args: argv, Stdin: stdin, Stdout: os.Stdout, Stderr: os.Stderr, SysProcAttr: attr}
	err := c.Run()
	if c.ProcessState == nil {
		fmt.Fprintf(os.Stderr, "start %s: %v\n", what, err)
		return 124
	}
	return c.ProcessState.ExitCode()
}

// A user of the tests: an ordinary one, whoever runs them.
type tester struct {
	t    *testing.T
	uid  int
	home string // in a directory that the view does not replace
	bin  string
}

func newTester(t *testing.T) *tester {
	t.Helper()
	if testing.Short() {
		t.Skip("needs namespaces; run without -short")
	}
	base, err := os.MkdirTemp("/var/tmp", "view")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("chmod", "-R", "u+rwx", base).Run()
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
	})
	u := &tester{t: t, uid: os.Getuid(), home: filepath.Join(base, "home"), bin: filepath.Join(base, "bin", "outcall")}
	if u.uid == 0 {
		u.uid = 12345
	}
	must(t, os.Chmod(base, 0o755))
	must(t, os.MkdirAll(u.home, 0o755))
	must(t, os.MkdirAll(filepath.Dir(u.bin), 0o755))
	exe, err := os.Open("/proc/self/exe")
	must(t, err)
	defer exe.Close()
	must(t, copyTo(u.bin, exe))
	u.own(u.home)
	return u
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// own gives files to the user.
func (u *tester) own(paths ...string) {
	u.t.Helper()
	for _, p := range paths {
		must(u.t, os.Lchown(p, u.uid, u.uid))
	}
}

// dir makes a directory of the user below its home.
func (u *tester) dir(name string) string {
	u.t.Helper()
	p := u.home
	for part := range strings.SplitSeq(name, "/") {
		p = filepath.Join(p, part)
		if err := os.Mkdir(p, 0o755); err == nil {
			u.own(p)
		} else if !os.IsExist(err) {
			u.t.Fatal(err)
		}
	}
	return p
}

func (u *tester) file(name, text string) string {
	u.t.Helper()
	p := filepath.Join(u.dir(filepath.Dir(name)), filepath.Base(name))
	must(u.t, os.WriteFile(p, []byte(text), 0o644))
	u.own(p)
	return p
}

// options are those of an ordinary run in the user's home.
func (u *tester) options() Options {
	return Options{
		UID: u.uid, GID: u.uid, Dir: u.dir("work"), RuntimeDir: "/run/user/" + strconv.Itoa(u.uid),
		Config: []string{u.home + "/.config/outcall"}, State: []string{u.home + "/.local/state/outcall"},
		Executable: u.bin, Hostname: "box",
	}
}

// command is a process of the user, outside.
func (u *tester) command(argv ...string) *exec.Cmd {
	c := exec.Command(argv[0], argv[1:]...)
	c.Dir = u.home
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + u.home}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if os.Getuid() == 0 {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.uid)}
	}
	return c
}

// A result is what one run gave.
type result struct {
	code     int
	out, err string
	stage    *Error
}

func (u *tester) run(r request) result {
	u.t.Helper()
	return u.do(r, u.bin, "stage", "plan")
}

// runUnder runs in a user and mount namespace of its own, after a script in it.
func (u *tester) runUnder(script string, r request) result {
	u.t.Helper()
	id := strconv.Itoa(u.uid)
	// unshare maps to the same id, with the capabilities to mount.
	return u.do(r, "/usr/bin/unshare", "-rm", "/bin/sh", "-ec", script+"\nexec /usr/bin/unshare -U --map-user="+id+" --map-group="+id+" \"$0\" stage plan", u.bin)
}

func (u *tester) do(r request, argv ...string) result {
	u.t.Helper()
	doc, err := json.Marshal(r)
	must(u.t, err)
	c := u.command(argv...)
	var out, errOut bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(doc), &out, &errOut
	err = c.Run()
	if c.ProcessState == nil {
		u.t.Fatalf("cannot start: %v", err)
	}
	res := result{code: c.ProcessState.ExitCode(), out: out.String(), err: errOut.String()}
	for line := range strings.Lines(res.err) {
		if j, ok := strings.CutPrefix(line, "STAGE"); ok {
			res.stage = new(Error)
			must(u.t, json.Unmarshal([]byte(j), res.stage))
		}
	}
	return res
}

// ok runs a script that must succeed and returns its output.
func (u *tester) ok(r request) string {
	u.t.Helper()
	res := u.run(r)
	if res.code != 0 {
		hintUser := ""
		if me, err := user.Current(); err == nil && res.code == 124 {
			hintUser = "; user namespaces must be allowed for " + me.Username
		}
		u.t.Fatalf("exit %d%s\n%s%s", res.code, hintUser, res.out, res.err)
	}
	return res.out
}

func want(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+out, "\n"+l+"\n") {
			t.Errorf("no line %q in:\n%s", l, out)
		}
	}
}
