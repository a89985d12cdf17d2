package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// Programs that change users fail with a single id, and the reason for that
// must not be a riddle: the banner has it, and only then.
func TestRootWithASingleIDIsTold(t *testing.T) {
	b := harness.New(t)
	r := b.Sandbox([]string{"--root"}, "cat", "/proc/self/uid_map").Must(t, 0)
	fields := strings.Fields(r.Stdout)
	single := len(fields) == 3 && fields[2] == "1"
	if told := strings.Contains(r.Stderr, "root inside has a single id"); told != single {
		t.Errorf("map %q, banner %q", r.Stdout, r.Stderr)
	}
	if r := b.Sandbox(nil, "true").Must(t, 0); strings.Contains(r.Stderr, "single id") {
		t.Errorf("without --root: %q", r.Stderr)
	}
}

// newuidmap is set-uid and so can do nothing under no_new_privs, which a
// session sets for its command and which others set, too. A user with a range
// then has root with a single id, as one without has.
func TestRootWhereNewuidmapCannotAct(t *testing.T) {
	b := harness.New(t)
	if world.As() == "root" {
		t.Skip("real root writes the map itself and needs no newuidmap (WORLD_AS=user)")
	}
	// To nobody root's files look like its own in the tests' namespace, and a
	// newuidmap of its own is not taken: to it there is none.
	taken, mend := world.As() != "nobody", "NoNewPrivileges="
	if !taken {
		mend = "package uidmap"
	}
	if _, err := os.Stat("/usr/bin/newuidmap"); err != nil {
		t.Fatalf("%v: install package uidmap", err)
	}
	for _, f := range []string{"/etc/subuid", "/etc/subgid"} {
		ranges := b.Write("ranges", fmt.Sprintf("%d:100000:65536\n", os.Getuid()))
		if err := unix.Mount(ranges, f, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("mount over %s, which package uidmap comes with: %v", f, err)
		}
		t.Cleanup(func() { unix.Unmount(f, 0) })
	}
	c := readCheckup(t, b, b.Start(b.Program("setpriv", "--no-new-privs", harness.Outcall, "doctor", "--json")).Wait())
	mustContain(t, "mend", c.mend("subordinate ids"), mend)
	run := []string{harness.Outcall, "run", "--root", "--", "cat", "/proc/self/uid_map"}
	for what, r := range map[string]harness.Result{
		"no_new_privs":       b.Start(b.Program("setpriv", append([]string{"--no-new-privs"}, run...)...)).Wait(),
		"in a session":       b.Sandbox([]string{"-q"}, run...),
		"in one with --root": b.Sandbox([]string{"-q", "--root"}, run...),
	} {
		r.Must(t, 0)
		if f := strings.Fields(r.Stdout); len(f) != 3 || f[0] != "0" || f[2] != "1" {
			t.Errorf("%s: map %q", what, r.Stdout)
		}
		mustContain(t, what, r.Stderr, "root inside has a single id")
		if strings.Contains(r.Stderr, "no_new_privs") != (taken && what != "in one with --root") { // that root has no range
			t.Errorf("%s: banner %q", what, r.Stderr)
		}
	}
}

// Started by real root in a directory that the command's uid cannot enter, or
// cannot write: it starts all the same, and --as-root is named in the banner
// and again when the command has failed.
func TestRootsOwnDirectory(t *testing.T) {
	if world.As() != "root" {
		t.Skip("needs real root: run with WORLD_AS=root (make users)")
	}
	b := harness.New(t)
	for mode, c := range map[os.FileMode]struct{ at, said string }{
		0o700: {"/", "the command cannot enter %s and starts in /"},
		0o755: {"%s", "the command cannot write %s"},
	} {
		dir := fmt.Sprintf("%s/roots-%o", b.Home, mode)
		if err := os.Mkdir(dir, mode); err != nil {
			t.Fatal(err)
		}
		at, said := strings.ReplaceAll(c.at, "%s", dir), strings.ReplaceAll(c.said, "%s", dir)
		for _, code := range []int{0, 3} {
			cmd, _ := b.SandboxCommand(nil, "sh", "-c", fmt.Sprintf("pwd; id -u; touch x 2>/dev/null && echo written; exit %d", code))
			cmd.Dir = dir
			r := b.Start(cmd).Wait().Must(t, code)
			if r.Stdout != at+"\n65534\n" {
				t.Errorf("%o: %q", mode, r.Stdout)
			}
			mustContain(t, "banner", r.Stderr, said, "--as-root")
			if n := strings.Count(r.Stderr, "--as-root"); n != 1+min(code, 1) {
				t.Errorf("%o, exit code %d: --as-root is named %d times: %s", mode, code, n, r.Stderr)
			}
		}
		cmd, _ := b.SandboxCommand([]string{"-q", "--as-root"}, "sh", "-c", "pwd; touch x; echo $?")
		cmd.Dir = dir
		if r := b.Start(cmd).Wait().Must(t, 0); r.Stdout != dir+"\n0\n" || r.Stderr != "" {
			t.Errorf("--as-root in %o: %q %q", mode, r.Stdout, r.Stderr)
		}
	}
	cmd, _ := b.SandboxCommand(nil, "true") // the work directory is the command's own
	if r := b.Start(cmd).Wait().Must(t, 0); strings.Contains(r.Stderr, "--as-root") {
		t.Errorf("banner: %s", r.Stderr)
	}
}
