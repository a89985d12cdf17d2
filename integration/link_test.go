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

const (
	tunDir    = "/dev/net"
	tunDevice = tunDir + "/tun"
)

// ownTun puts a tun device with the given rights in the place of the
// machine's, in this test's mount namespace: real root can. It is called before
// harness.New, which remembers the mounts.
func ownTun(t *testing.T, rights uint32) {
	t.Helper()
	if err := unix.Mount("tun", tunDir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatalf("mount on %s: %v", tunDir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(tunDir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", tunDir, err)
		}
	})
	err := unix.Mknod(tunDevice, unix.S_IFCHR, int(unix.Mkdev(10, 200)))
	if err == nil {
		err = os.Chmod(tunDevice, os.FileMode(rights))
	}
	if err != nil {
		t.Fatalf("make %s: %v", tunDevice, err)
	}
}

// usableTun skips a test where the device is not for the tests' user and
// nobody here can make another one.
func usableTun(t *testing.T) {
	t.Helper()
	if world.As() == "root" {
		ownTun(t, 0o666)
		return
	}
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("%v: WORLD_AS=root makes a device of its own (make users)", err)
	}
	f.Close()
}

// The same flows as by the packet link: names, both families, the proxy, a
// mebibyte byte for byte; and what is not allowed is refused.
func TestAllowedByTapLink(t *testing.T) {
	usableTun(t)
	b := harness.New(t)
	tap := append(harness.Allow("api.allowed.test"), "--link", "tap")
	for name, args := range map[string][]string{
		"https":    {"https://api.allowed.test/"},
		"no proxy": {"--noproxy", "*", "https://api.allowed.test/"},
		"http":     {"http://api.allowed.test/"},
		"ipv4":     {"-4", "--noproxy", "*", "https://api.allowed.test/"},
		"ipv6":     {"-6", "--noproxy", "*", "https://api.allowed.test/"},
	} {
		t.Run(name, func(t *testing.T) {
			if r := b.Sandbox(tap, curl(args...)...).Must(t, 0); r.Stdout != apiBody || r.Stderr != "" {
				t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
			}
		})
	}
	const size = 1 << 20
	r := b.Sandbox(tap, "sh", "-c", fmt.Sprintf("curl -sS 'http://api.allowed.test/bytes?n=%d' | sha256sum", size)).Must(t, 0)
	if !strings.HasPrefix(r.Stdout, world.BytesSum(size)) {
		t.Errorf("%d bytes came as %s", size, r.Stdout)
	}
	if r := b.Sandbox(tap, curl("--noproxy", "*", "https://denied.test/")...); r.Code != 6 {
		t.Errorf("a name that is not allowed: code %d, %s", r.Code, r.Stderr)
	}
	r = b.Sandbox([]string{"--link", "tap"}, "true").Must(t, 0)
	mustContain(t, "banner", r.Stderr, "link tap")
}

// C10: a device that the kernel does not let the session have.
func TestC10LinkTap(t *testing.T) {
	mend := "chmod 0666"
	if world.As() == "root" {
		ownTun(t, 0o600) // root's alone, and the session has given root up
	} else if f, err := os.OpenFile(tunDevice, os.O_RDWR, 0); err == nil {
		f.Close()
		if err := unix.Mount(os.DevNull, tunDevice, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("cover %s: %v", tunDevice, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(tunDevice, unix.MNT_DETACH); err != nil {
				t.Errorf("uncover %s: %v", tunDevice, err)
			}
		})
		mend = "CONFIG_TUN"
	} else if os.IsNotExist(err) {
		mend = "modprobe tun"
	}
	b := harness.New(t)
	refusedStart(t, b.Sandbox(append(allowAPI, "--link", "tap"), "echo", "ran"), tunDevice, mend)
	b.Sandbox(append(allowAPI, "--link", "auto"), "true").Must(t, 0)
}
