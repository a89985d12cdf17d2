package integration

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"outcall/integration/harness"
)

// refusedBy starts outcall under an outer seccomp filter of the probe.
func refusedBy(b *harness.Bed, kind string) harness.Result {
	return b.Start(b.Program(harness.Probe, "outer", kind, harness.Outcall, "run", "--", "echo", "ran")).Wait()
}

// C10: a container runtime's default filter refuses user namespaces.
func TestC10OuterFilterRefusesUserNamespaces(t *testing.T) {
	b := harness.New(t)
	refusedStart(t, refusedBy(b, "userns"), "user namespace", "operation not permitted", "seccomp=unconfined")
}

// C10: a user namespace is granted, its powers are not.
func TestC10GrantedWithoutCapabilities(t *testing.T) {
	b := harness.New(t)
	refusedStart(t, refusedBy(b, "nocaps"), "user namespace", "granted without capabilities", "operation not permitted",
		"AppArmor", "apparmor=unconfined")
}

// withAppArmor, in a user and mount namespace, makes the sysctl of a system whose
// AppArmor restricts user namespaces, and keeps what tells real root.
const withAppArmor = `touch core_pattern && mount --bind /proc/sys/kernel/core_pattern core_pattern &&
mount -t tmpfs none /proc/sys/kernel && touch /proc/sys/kernel/core_pattern &&
mount --bind core_pattern /proc/sys/kernel/core_pattern &&
echo 1 > /proc/sys/kernel/apparmor_restrict_unprivileged_userns && `

// The same on a system whose AppArmor restricts user namespaces: the message
// is the profile for this very binary.
func TestC10AppArmorProfile(t *testing.T) {
	b := harness.New(t)
	script := withAppArmor + `exec %s outer %s %s run -- echo ran`
	for _, kind := range []string{"userns", "nocaps"} {
		r := b.Start(b.Program("unshare", "-Urm", "sh", "-c", fmt.Sprintf(script, harness.Probe, kind, harness.Outcall))).Wait()
		refusedStart(t, r, "user namespace", "operation not permitted", "/etc/apparmor.d/outcall",
			`profile outcall "`+harness.Outcall+`" flags=(unconfined)`, "userns,", "apparmor_parser -r")
	}
}

// C10: nftables cannot be had.
func TestC10NftablesRefused(t *testing.T) {
	b := harness.New(t)
	refusedStart(t, refusedBy(b, "nft"), "nftables", "operation not permitted", "seccomp=unconfined")
}

// C10: the session directory belongs to someone else: a name in /tmp that
// another user took first, and a --socket in a directory of root's.
func TestC10SocketDirectoryOfSomeoneElse(t *testing.T) {
	b := harness.New(t)
	b.Setenv("XDG_RUNTIME_DIR")
	dir := fmt.Sprintf("/tmp/outcall-%d", os.Getuid())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// /usr is the outer root's, who has no name in the world's user namespace.
	if err := unix.Mount("/usr", dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	r := b.Sandbox(allowAPI, "echo", "ran")
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	refusedStart(t, r, dir)
	b.Setenv("XDG_RUNTIME_DIR=" + b.Runtime)
	refusedStart(t, b.Sandbox(append(allowAPI, "--socket", "/usr/share/host.sock"), "echo", "ran"), "/usr/share")
}
