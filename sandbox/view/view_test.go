package view

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTree is the everyday view of contract 1.1.
func TestTree(t *testing.T) {
	u := newTester(t)
	o := u.options()
	o.Scratch = u.dir("scratch")
	o.Resolvers = []netip.Addr{netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("fd0c:a11::1")}
	out := u.ok(request{Opt: o, Script: `
		exec 2>&1
		pwd; id -u
		ls -A /tmp | wc -l; ls -A /run; ls -A /dev; ls -A /dev/shm /dev/pts; stat -c %a /tmp /dev/shm $XDG
		echo x > /tmp/f && echo tmp-ok; echo x > /dev/shm/f && echo shm-ok; echo x > /run/user/$(id -u)/f && echo xdg-ok
		echo x > /sys/fs/cgroup/x; echo x > /dev/x; echo x > /run/outcall/x; rm -f /run/outcall/bin/outcall
		[ "$(stat -f -c %T /tmp)" = "$(stat -f -c %T .)" ] && echo tmp-on-disk
		cat /etc/resolv.conf /etc/hosts
		[ -e /proc/1 ] || echo init-hidden
		grep -c ' /proc/' /proc/self/mountinfo
		cmp /run/outcall/bin/outcall /run/outcall/bin/outcall-agent && echo same
		echo > /dev/null && head -c 1 /dev/zero | wc -c
		unshare -Urmpf --mount-proc sh -c 'echo nested-$(ls -d /proc/[0-9]* | head -1)'
	`})
	want(t, out, o.Dir, fmt.Sprint(u.uid), "0", "1777", "tmp-ok", "shm-ok", "xdg-ok", "tmp-on-disk",
		"nameserver 10.200.0.1", "nameserver fd0c:a11::1", "options ndots:0", "127.0.0.1 localhost box",
		"init-hidden", "0", "same", "1", "nested-/proc/1")
	for _, l := range []string{"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"} {
		want(t, out, l)
	}
	if strings.Count(out, "Read-only file system") < 4 {
		t.Errorf("something is writable:\n%s", out)
	}
	if _, err := os.Stat(o.Scratch + "/tmp/f"); err != nil {
		t.Errorf("/tmp is not on disk: %v", err)
	}
	must(t, RemoveScratch(o.Scratch))
}

// TestTmpfs: without a scratch directory /tmp is in memory, and a private home
// can be had.
func TestTmpfs(t *testing.T) {
	u := newTester(t)
	o := u.options()
	o.PrivateHome = true
	out := u.ok(request{Opt: o, Script: `stat -f -c %T /tmp; stat -c %a ` + PrivateHome + `; touch ` + PrivateHome + `/x && echo home`})
	want(t, out, "tmpfs", "700", "home")
}

// TestBackAndBind: the working directory below a replaced one and --bind are
// there, read-write, and nothing else of that directory is.
func TestBackAndBind(t *testing.T) {
	u := newTester(t)
	tmp, err := os.MkdirTemp("/tmp", "view")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(tmp) })
	must(t, os.Chmod(tmp, 0o755))
	for _, d := range []string{"work", "other", "bound"} {
		must(t, os.Mkdir(tmp+"/"+d, 0o755))
		u.own(tmp + "/" + d)
	}
	must(t, os.WriteFile(tmp+"/one", []byte("file"), 0o644))
	rules := tmp + "/work/rules.yaml"
	must(t, os.WriteFile(rules, []byte("r"), 0o644))
	u.own(rules)
	o := u.options()
	o.Dir = tmp + "/work"
	o.Binds = []string{tmp + "/bound", tmp + "/one", "/dev/loop-control"}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		o.Binds = o.Binds[:2]
	}
	o.ReadOnly = []string{rules}
	out := u.ok(request{Opt: o, Script: `exec 2>&1; pwd; ls ` + tmp + `; touch here ../bound/there && echo wrote; cat ../one; echo
		echo evil > rules.yaml; mv rules.yaml x; rm -f rules.yaml; cd /; mv ` + tmp + `/work ` + tmp + `/w; cat ` + rules})
	want(t, out, o.Dir, "bound", "one", "work", "wrote", "file")
	if strings.Contains(out, "other") || !strings.HasSuffix(out, "r") {
		t.Errorf("%s", out)
	}
	for _, f := range []string{tmp + "/work/here", tmp + "/bound/there"} {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
}

// TestBindRefused: --bind undoes no protection.
func TestBindRefused(t *testing.T) {
	u := newTester(t)
	u.file(".config/outcall/rules.d/a.yaml", "r")
	for _, b := range []string{"/", "/run", "/run/outcall", "/dev", "/proc", "/sys", u.home + "/.config/outcall", u.home + "/.config/outcall/rules.d/a.yaml", u.home + "/.local/state/outcall", u.home + "/missing"} {
		o := u.options()
		o.Binds = []string{b}
		if res := u.run(request{Opt: o, Script: "echo ran"}); res.stage == nil || res.code != 125 || res.out != "" {
			t.Errorf("--bind %s: %+v", b, res)
		}
	}
}

// TestBindSocket: --bind of a socket is the operator's word.
func TestBindSocket(t *testing.T) {
	u := newTester(t)
	s := filepath.Join(u.home, "s")
	u.listen("", "", "stream:"+s)
	o := u.options()
	o.Binds = []string{s}
	out := u.ok(request{Opt: o, Script: BinDir + "/outcall stage connect stream:" + s})
	want(t, out, "stream:"+s+" <nil>")
}

// TestResolv: /etc/resolv.conf is ours wherever the host's is, or is not.
func TestResolv(t *testing.T) {
	u := newTester(t)
	for _, c := range []struct{ name, before string }{
		{"a file", "echo host > /etc/resolv.conf"},
		{"missing", "true"},
		{"a symlink into /run", "ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"},
		{"a symlink through /var/run", "ln -s /var/run/x/y/resolv.conf /etc/resolv.conf"},
		{"a dangling symlink", "ln -s /nowhere/resolv.conf /etc/resolv.conf"},
		{"a dangling symlink beside it", "ln -s missing.conf /etc/resolv.conf"},
		{"a loop", "ln -s resolv.conf /etc/resolv.conf"},
		{"a directory", "mkdir /etc/resolv.conf"},
		{"hosts missing too", "rm -f /etc/hosts"},
	} {
		o := u.options()
		o.Resolvers = []netip.Addr{netip.MustParseAddr("10.200.0.1")}
		before := `mount -t tmpfs t /mnt && mkdir /mnt/d && echo sub > /mnt/d/f && ln -s d/f /mnt/l && echo 127.0.0.9 host > /mnt/hosts
			cp /etc/passwd /mnt/; mount --bind /mnt /etc; ` + c.before
		out := u.ok(request{Opt: o, Before: before, Script: "cat /etc/resolv.conf /etc/hosts /etc/l; [ -s /etc/passwd ] && echo rest"})
		if !strings.HasPrefix(out, "nameserver 10.200.0.1\noptions ndots:0\n127.0.0.1 localhost box\n") || !strings.HasSuffix(out, "sub\nrest\n") {
			t.Errorf("%s: %q", c.name, out)
		}
	}
}

// TestStagesFail: a stage that fails is named, and nothing runs.
func TestStagesFail(t *testing.T) {
	u := newTester(t)
	for _, st := range []string{"mount", "proc", "sys", "dev", "run", "outcall", "tmp", "back", "resolv.conf", "protect", "hide", "sockets", "sysctl", "workdir"} {
		o := u.options()
		o.FailStage = st
		res := u.run(request{Opt: o, Script: "echo ran"})
		if res.code != 125 || res.out != "" || res.stage == nil || res.stage.Stage != st || res.stage.Errno != unix.EPERM || res.stage.Hint == "" {
			t.Errorf("%s: %d %q %+v", st, res.code, res.out, res.stage)
		}
	}
}

// TestMaskedProc: below an outer mount on /proc a fresh one is refused, with
// the mend; --weak proc goes on.
func TestMaskedProc(t *testing.T) {
	u := newTester(t)
	// A mount namespace of a parent user namespace: its mounts are locked in ours.
	r := request{Opt: u.options(), Script: "echo ran"}
	res := u.runUnder("mount -t tmpfs none /proc/driver", r)
	if res.code != 125 || res.out != "" || res.stage == nil || res.stage.Stage != "proc" || !strings.Contains(res.stage.Hint, "unmask=ALL") {
		t.Errorf("%d %q %+v", res.code, res.out, res.stage)
	}
	r.Opt.WeakProc = true
	if res := u.runUnder("mount -t tmpfs none /proc/driver", r); res.out != "ran\n" {
		t.Errorf("weak: %+v %s", res, res.err)
	}
}

// TestSysctl: what keeps kernel uid 0 from the host's settings.
func TestSysctl(t *testing.T) {
	u := newTester(t)
	o := u.options()
	o.AsRoot = true
	want := 1
	if _, err := os.Stat("/proc/sysrq-trigger"); err == nil { // not every kernel has it
		want = 2
	}
	out := u.ok(request{Opt: o, Script: `for f in sys/vm/swappiness sys/kernel/core_pattern; do sh -c "echo 1 > /proc/$f" 2>&1; done; findmnt -no OPTIONS /proc/sys; findmnt -no OPTIONS /proc/sysrq-trigger; true`})
	if strings.Count(out, "Read-only file system") != 2 || strings.Count(out, "\nro,") < want {
		t.Errorf("%s", out)
	}
}

func TestHardLinkRefused(t *testing.T) {
	u := newTester(t)
	p := u.file(".config/outcall/rules.d/a.yaml", "r")
	must(t, os.Link(p, u.home+"/second"))
	res := u.run(request{Opt: u.options(), Script: "echo ran"})
	if res.code != 125 || res.stage == nil || res.stage.Stage != "protect" || res.stage.Hint == "" {
		t.Errorf("%+v", res)
	}
}

// TestHardLinkOnReadOnly: no name of a file can be written where every mount
// of its file system is read-only, as where outcall stands inside a session.
func TestHardLinkOnReadOnly(t *testing.T) {
	u := newTester(t)
	program, again := u.dir("program"), u.dir("again")
	o := u.options()
	o.Executable = program + "/outcall"
	made := "mount -t tmpfs none " + program + "; echo x > " + o.Executable + "; ln " + o.Executable + " " + program + "/second\n"
	locked := "mount -o remount,bind,ro " + program
	for _, c := range []struct {
		name, script string
		code         int
	}{
		{"read-only", made + locked, 0},
		{"writable", made, 125},
		{"writable elsewhere", made + "mount --bind " + program + " " + again + "\n" + locked, 125},
	} {
		res := u.runUnder(c.script, request{Opt: o, Script: "echo x >> " + program + "/second; echo ran"})
		if res.code != c.code || c.code == 125 && (res.stage == nil || res.stage.Stage != "protect") {
			t.Errorf("%s: %+v", c.name, res)
		}
	}
}

// TestShimOfReplacedDirectory: the agent program is copied from where the
// session itself has other directories, as from /run/outcall inside another.
func TestShimOfReplacedDirectory(t *testing.T) {
	u := newTester(t)
	o := u.options()
	o.Executable = "/run/outcall/bin/outcall"
	made := `mount -t tmpfs none /run; mkdir -p /run/outcall/bin; cd /run/outcall/bin
		echo x > outcall; echo "#!/bin/sh" > outcall-agent; echo echo the-shim >> outcall-agent; chmod 755 outcall*; cd /`
	res := u.runUnder(made, request{Opt: o, Script: "/run/outcall/bin/outcall-agent"})
	if res.code != 0 || res.out != "the-shim\n" {
		t.Errorf("%+v", res)
	}
}

// TestAlias: the same directory under another mount is protected there too.
func TestAlias(t *testing.T) {
	table, err := parseMounts([]byte("1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 /home /mnt/h rw - ext4 a rw\n3 1 8:2 / /home/u/x rw - ext4 b rw\n"))
	must(t, err)
	at, ok := locate(table, "/home/u/c")
	if !ok || at != (place{"8:1", "/home/u/c"}) || !slices.Equal(at.paths(table), []string{"/home/u/c", "/mnt/h/u/c"}) {
		t.Errorf("%v %v", at, at.paths(table))
	}
	if at, _ := locate(table, "/home/u/x/y"); at != (place{"8:2", "/y"}) {
		t.Errorf("%v", at)
	}
}

// TestLost: a protected file that the host replaces is no longer the
// operator's word.
func TestLost(t *testing.T) {
	p := filepath.Join(t.TempDir(), "rules.yaml")
	must(t, os.WriteFile(p, nil, 0o600))
	var st unix.Stat_t
	must(t, unix.Lstat(p, &st))
	s := Spec{ReadOnly: []Guarded{{p, st.Dev, st.Ino}}}
	if l := s.Lost(); len(l) != 0 {
		t.Error(l)
	}
	must(t, os.WriteFile(p+".new", nil, 0o600))
	must(t, os.Rename(p+".new", p))
	if l := s.Lost(); len(l) != 1 {
		t.Error(l)
	}
}

// TestListener: the agent's socket is bound on a directory that is read-only.
func TestListener(t *testing.T) {
	u := newTester(t)
	out := u.ok(request{Opt: u.options(), Listen: true, Script: "stat -c '%F %a' " + AgentSocket + "; touch /run/outcall/x 2>&1; rm -f " + AgentSocket + " 2>&1; " + BinDir + "/outcall stage connect stream:" + AgentSocket})
	want(t, out, "socket 666", "stream:"+AgentSocket+" <nil>")
	if strings.Count(out, "Read-only") != 2 {
		t.Error(out)
	}
}

// TestReadme: the descriptor writes what nobody inside can, not even root with
// all capabilities.
func TestReadme(t *testing.T) {
	u := newTester(t)
	for _, caps := range []bool{false, true} {
		out := u.ok(request{Opt: u.options(), Listen: true, Caps: caps, Script: "stat -c '%F %a' " + Readme + "; cat " + Readme + "; ls -A /run/outcall/void | wc -l; " +
			"for f in " + Readme + "; do echo x >> $f; chmod 666 $f; rm -f $f; mv $f /tmp; mount -o remount,rw,bind /run/outcall; done 2>&1; cat " + Readme})
		want(t, out, "regular file 444", "written from outside", "0")
		if strings.Count(out, "written from outside") != 2 || strings.Contains(out, "\nx\n") {
			t.Error(out)
		}
	}
}

func TestTooManySockets(t *testing.T) {
	p := &planner{}
	for i := range maxSockets + 1 {
		p.s.Sockets = append(p.s.Sockets, fmt.Sprint("/s", i))
	}
	if err := p.sockets(); err == nil {
		t.Error("more sockets than can be covered pass")
	}
}

// TestRemoveScratch: depth, modes, symlinks and odd names do not keep a
// session's /tmp alive, and nothing outside is touched.
func TestRemoveScratch(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/keep", nil, 0o600))
	dir := MakeScratch(os.Getuid(), os.Getgid(), "/dev/shm", "/var/tmp")
	if !strings.HasPrefix(dir, "/var/tmp/") {
		t.Fatalf("scratch at %q", dir)
	}
	must(t, os.Symlink(outside, dir+"/link"))
	must(t, os.MkdirAll(dir+"/.outcall-1/.outcall-2", 0o700))
	must(t, os.MkdirAll(dir+"/a/b\n/c", 0o700))
	must(t, os.WriteFile(dir+"/a/b\n/c/f", nil, 0o400))
	must(t, os.Chmod(dir+"/a/b\n", 0o000))
	must(t, os.Chmod(dir+"/a", 0o500))
	at, err := openDir(unix.AT_FDCWD, dir)
	must(t, err)
	for range 5000 { // deeper than any path and any descriptor limit
		must(t, unix.Mkdirat(at, "d", 0o700))
		next, err := openDir(at, "d")
		must(t, err)
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	must(t, RemoveScratch(dir))
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Error("still there")
	}
	if _, err := os.Lstat(outside + "/keep"); err != nil {
		t.Error(err)
	}
	must(t, RemoveScratch(dir)) // gone is fine
}

// TestRemountReadOnly is the way of kernels without mount_setattr: it keeps
// the flags that are locked, and reaches what is mounted below.
func TestRemountReadOnly(t *testing.T) {
	u := newTester(t)
	d := u.dir("m/sub")
	script := `mount -t tmpfs -o nosuid,nodev,noexec,noatime t $1; exec unshare -Urm sh -ec 'mount --rbind $1 $1; "$0" stage remount $1
		! touch $1/x $(dirname $1)/y; findmnt -no OPTIONS $1' "$0" $1`
	// $1 is the outer directory; its submount is made first.
	script = strings.ReplaceAll(script, "$1", d)
	script = strings.Replace(script, "mount --rbind "+d+" "+d, "mount --rbind "+filepath.Dir(d)+" "+filepath.Dir(d), 1)
	script = strings.Replace(script, "stage remount "+d, "stage remount "+filepath.Dir(d), 1)
	out, err := u.command("/usr/bin/unshare", "-Urm", "/bin/sh", "-ec", script, u.bin).CombinedOutput()
	if err != nil || strings.Count(string(out), "Read-only file system") != 2 || !strings.Contains(string(out), "ro,nosuid,nodev,noexec,noatime") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestOwner: what another uid may do is told from the modes, in doubt yes.
func TestOwner(t *testing.T) {
	dir := t.TempDir()
	other := owner{uid: os.Getuid() + 4242, gid: os.Getgid() + 4242}
	for _, c := range []struct {
		who    owner
		mode   os.FileMode
		change bool
	}{
		{other, 0o755, false}, {other, 0o775, true}, {other, 0o777, true}, {other, 0o1777, true},
		{owner{uid: os.Getuid()}, 0o500, true}, {owner{uid: 1, root: true}, 0o500, true},
	} {
		must(t, os.Chmod(dir, c.mode))
		if got := c.who.canChange(dir); got != c.change {
			t.Errorf("%+v %o: %v", c.who, c.mode, got)
		}
	}
	if !other.canChange(dir + "/missing") {
		t.Error("a directory that cannot be looked at must count as changeable")
	}
	must(t, os.Chmod(dir, 0o700))
	if other.canEnter(dir) {
		t.Error("enters 0700")
	}
	for mode, want := range map[os.FileMode]bool{0o700: false, 0o755: false, 0o702: false, 0o707: true, 0o1777: true} {
		must(t, os.Chmod(dir, mode))
		if got := other.canWrite(dir); got != want {
			t.Errorf("another user writes a directory of mode %o: %v", mode, got)
		}
	}
	if !other.canEnter("/usr") {
		t.Error("does not enter /usr")
	}
}

// TestMoved: where real root stands in a directory that the agent's uid cannot
// enter, the agent starts in / and the caller is told.
func TestMoved(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o700))
	s, err := Plan(Options{UID: os.Getuid() + 4242, GID: os.Getgid() + 4242, Dir: dir})
	must(t, err)
	if s.Dir != "/" || s.Moved != dir {
		t.Errorf("dir %q, moved %q", s.Dir, s.Moved)
	}
	if !s.Unwritable {
		t.Error("another user's / counts as writable")
	}
}
