package view

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stageTmpfile makes a nameless file in a directory and links it to a name.
func stageTmpfile(args []string) int {
	fd, err := unix.Open(args[0], unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err == nil {
		err = unix.Linkat(unix.AT_FDCWD, fdPath(fd), unix.AT_FDCWD, args[1], unix.AT_SYMLINK_FOLLOW)
	}
	fmt.Println("tmpfile", err)
	return 0
}

// digest describes a tree: names, types, contents and link targets.
func digest(t *testing.T, roots ...string) string {
	t.Helper()
	var b strings.Builder
	for _, root := range roots {
		must(t, filepath.Walk(root, func(p string, fi os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s %v ", p, fi.Mode())
			if fi.Mode().IsRegular() {
				data, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, "%q", data)
			} else if fi.Mode().Type() == os.ModeSymlink {
				to, _ := os.Readlink(p)
				b.WriteString(to)
			}
			b.WriteString("\n")
			return nil
		}))
	}
	return b.String()
}

// attack is every way we know to change what stands at a path.
const attack = `
attack() {
	p=$1; d=$(dirname $p); n=$(basename $p)
	echo evil > $p; echo evil >> $p; true > $p
	echo evil > $p/new.yaml; mkdir $p/sub; ln -s /etc/passwd $p/link
	rm -rf $p; rmdir $p; unlink $p
	mv $p $p.x; mv -T $p.x $p
	echo evil > $d/tmp1; mv -fT $d/tmp1 $p; mv -f $d/tmp1 $p/; ln -f $d/tmp1 $p/l; rm -f $d/tmp1
	ln $p/a.yaml hard && echo evil >> hard
	ln $p hard2 && echo evil >> hard2
	truncate -s 0 $p $p/a.yaml; chmod 777 $p $p/a.yaml; touch -d 2001-01-01 $p
	/run/outcall/bin/outcall stage tmpfile $p $p/t
	/run/outcall/bin/outcall stage tmpfile $d $p
	echo evil > /proc/self/root$p; echo evil > /proc/self/root$p/x
	echo evil > /proc/1/root$p
	a=$p
	while [ "$a" != / ]; do
		mv $a $a.moved && mkdir -p $p && echo evil > $p/evil.yaml
		rmdir $a; rm -f $a; exchange=$(mktemp -d -p $(dirname $a)) && mv --exchange $exchange $a; rmdir $exchange
		a=$(dirname $a)
	done
	umount $p; umount -l $p; mount -o remount,rw $p; mount -o remount,bind,rw $p; mount --bind $d $d; mount --bind $p /mnt && echo evil > /mnt/x
	mount -o bind,rw $p /mnt; umount -l /mnt; mount --rbind / /mnt && mount -o remount,bind,rw /mnt$p && echo evil > /mnt$p/x; umount -l /mnt
	a=$p; while [ "$a" != / ]; do umount -l $a; mount -o remount,bind,rw $a; a=$(dirname $a); done
	echo evil > $p; echo evil > $p/x
}
`

// TestProtectedPaths is K7: whatever the agent does, with and without
// capabilities, the rules, the trust store, the executable and the state are
// as before.
func TestProtectedPaths(t *testing.T) {
	u := newTester(t)
	u.file(".config/outcall/rules.d/a.yaml", "rules")
	u.file(".config/outcall/trust/x", "hash")
	u.file(".local/state/outcall/s/audit.jsonl", "line")
	policy := u.file("work/policy.yaml", "policy")
	u.file("work/.outcall/rules/p.yaml", "project")
	u.dir("go/bin")
	bin := u.home + "/go/bin/outcall"
	data, err := os.ReadFile("/bin/true")
	must(t, err)
	must(t, os.WriteFile(bin, data, 0o755))
	u.own(bin)
	// A configuration that is kept elsewhere, reached by symlinks.
	u.file("dotfiles/oc/b.yaml", "linked")
	must(t, os.Symlink("../../../dotfiles/oc/b.yaml", u.home+"/.config/outcall/rules.d/b.yaml"))
	u.dir("xdg")
	u.file("store/outcall/rules.d/c.yaml", "far")
	must(t, os.Symlink("../store/outcall", u.home+"/xdg/outcall"))
	u.own(u.home+"/.config/outcall/rules.d/b.yaml", u.home+"/xdg/outcall")

	o := u.options()
	o.Config = append(o.Config, u.home+"/xdg/outcall")
	o.ReadOnly = []string{policy, u.home + "/work/.outcall"}
	o.Executable = bin
	paths := []string{
		u.home + "/.config/outcall", u.home + "/.config/outcall/rules.d/a.yaml", u.home + "/.config/outcall/rules.d",
		u.home + "/.local/state/outcall", u.home + "/.local/state/outcall/s/audit.jsonl",
		policy, u.home + "/work/.outcall", bin, u.home + "/dotfiles/oc/b.yaml",
		u.home + "/xdg/outcall", u.home + "/store/outcall",
	}
	roots := []string{u.home + "/.config", u.home + "/.local", policy, u.home + "/work/.outcall", bin, u.home + "/dotfiles/oc/b.yaml", u.home + "/xdg", u.home + "/store/outcall"}
	before := digest(t, roots...)
	script := "cd " + u.home + "/work; " + attack
	for _, p := range paths {
		script += "attack " + p + "\n"
	}
	for _, c := range []struct {
		name string
		caps bool
		run  string
	}{
		{"plain", false, script},
		{"all capabilities", true, script},
		{"nested namespace", false, "unshare -Urm sh -c '" + strings.ReplaceAll(script, "'", `'\''`) + "'"},
	} {
		res := u.run(request{Opt: o, Caps: c.caps, Script: "exec 2>/dev/null\n" + c.run + "\necho done; ls " + u.home + "/work"})
		if !strings.Contains(res.out, "done\n") {
			t.Fatalf("%s: exit %d\n%s%s", c.name, res.code, res.out, res.err)
		}
		if after := digest(t, roots...); after != before {
			t.Fatalf("%s: changed\nbefore:\n%s\nafter:\n%s", c.name, before, after)
		}
	}
	// And they can still be read, except for the state.
	out := u.ok(request{Opt: o, Script: "cat " + u.home + "/.config/outcall/rules.d/*.yaml " + policy + " " + u.home + "/xdg/outcall/rules.d/c.yaml; echo; ls -A " + u.home + "/.local/state/outcall | wc -l; touch " + u.home + "/work/free " + u.home + "/free && echo wrote"})
	want(t, out, "ruleslinkedpolicyfar", "0", "wrote")
}
