package gate

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/sandbox/idmap"
)

// envTap is set in the run of a test that has a tun device for everybody.
const envTap = "GATE_TEST_TAP"

// withTap returns whether the tun device is usable here. If it is not and this
// is real root, the calling test is run again in a mount namespace with a
// device of its own, there as root and as an ordinary user (TestMain).
func withTap(t *testing.T) bool {
	t.Helper()
	needNamespaces(t)
	if os.Getenv(envTap) != "" {
		return true
	}
	if !idmap.RealRoot() {
		if err := unix.Access(tunDevice, unix.R_OK|unix.W_OK); err != nil {
			t.Skipf("%s: %v; run as root, this test makes a device of its own", tunDevice, err)
		}
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-ec", `
		mount --make-rprivate /
		mount -t tmpfs -o mode=755 none /dev/net
		mknod -m 666 /dev/net/tun c 10 200
		exec "$@"`, "sh", self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), envTap+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if n := bytes.Count(out, []byte("--- PASS: "+t.Name()+" ")); err != nil || n != 2 {
		t.Errorf("with a device of its own: %d of 2 passed, %v\n%s", n, err, out)
	}
	return false
}

func tapOptions(t *testing.T, link string) Options {
	o := options(t)
	o.Network.Link = link
	return o
}

// A tap in place of the veth pair: the same name and address, nothing of the
// kernel's own on it, and everything that the agent sends comes out.
func TestTapLink(t *testing.T) {
	if !withTap(t) {
		return
	}
	c := session(t, tapOptions(t, LinkTap))
	info, f := c.Info(), c.Tap()
	if !info.Tap || info.Uplink1Index != 0 || f == nil || c.Tap() != nil {
		t.Fatalf("%+v, %v", info, f)
	}
	defer f.Close()
	up := ip(t, c, "-d", "addr", "show", Uplink0)
	for _, want := range []string{"tun type tap pi off", "mtu 1500", "02:6f:75:74:63:20", ",UP"} {
		if !strings.Contains(up, want) {
			t.Errorf("%s lacks %q:\n%s", Uplink0, want, up)
		}
	}
	if strings.Contains(up, "inet") {
		t.Errorf("%s has an address:\n%s", Uplink0, up)
	}
	if links := ip(t, c, "link"); strings.Contains(links, Uplink1) {
		t.Errorf("%s exists:\n%s", Uplink1, links)
	}
	checkRouted(t, c, &wire{f: f, info: info})
}

// Where packet sockets are refused, auto takes the tap; packet alone does not
// start.
func TestLinkIsChosenByTrial(t *testing.T) {
	if !withTap(t) {
		return
	}
	o := tapOptions(t, LinkPacket)
	o.FailStage = StagePacket
	_, err := Start(deadline(t), o)
	checkRefused(t, err, StagePacket)
	o.Network.Link = LinkAuto
	c := session(t, o)
	f := c.Tap()
	if !c.Info().Tap || f == nil {
		t.Fatalf("no tap: %+v", c.Info())
	}
	f.Close()
	if c := session(t, tapOptions(t, "")); c.Info().Tap || c.Tap() != nil {
		t.Error("a tap where packet sockets can be had")
	}
}

// A device that this user may not open: the stage, the path, the kernel's
// answer and the mend, and nothing is left.
func TestTapIsRefused(t *testing.T) {
	needNamespaces(t)
	if fi, err := os.Stat(tunDevice); err != nil || fi.Mode().Perm()&0o006 != 0 {
		t.Skipf("%s is for everybody, or not there: %v", tunDevice, err)
	}
	for _, x := range []struct{ fail, hint string }{
		{"", "chmod 0666"},
		{StagePacket, "RestrictAddressFamilies"}, // by auto: both layers are named
	} {
		o := tapOptions(t, LinkTap)
		if x.fail != "" {
			o.Network.Link, o.FailStage = LinkAuto, x.fail
		}
		_, err := Start(deadline(t), o)
		var se *StageError
		if !errors.As(err, &se) || se.Stage != StageTap || se.Errno != unix.EACCES || !strings.Contains(se.Detail, tunDevice) ||
			!strings.Contains(se.Hint, "chmod 0666") || !strings.Contains(se.Hint, x.hint) {
			t.Errorf("%v, %+v", err, se)
		}
		if kids := children(); len(kids) != 0 {
			t.Errorf("processes are left: %v", kids)
		}
	}
}
