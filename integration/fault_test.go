package integration

import (
	"os"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// refusedStart demands that nothing ran, code 125, and a message that names
// the layer and the mend.
func refusedStart(t *testing.T, r harness.Result, parts ...string) {
	t.Helper()
	if r.Code != 125 {
		t.Errorf("code %d, not 125: %s", r.Code, r.Stderr)
	}
	mustLack(t, "stdout", r.Stdout, "ran")
	mustContain(t, "message", r.Stderr, append(parts, "outcall: ")...)
	mustLack(t, "message", r.Stderr, "goroutine ")
}

// C10: a host that refuses a layer. Each fault is a real refusal of the kernel.
func TestC10NoUserNamespaces(t *testing.T) {
	if world.As() == "root" {
		t.Skip("real root needs no user namespace of the user's own (WORLD_AS=user)")
	}
	b := harness.New(t)
	// A user namespace whose own limit is 0 refuses every further one.
	r := b.Start(b.Program("unshare", "-Ur", "sh", "-c",
		"echo 0 > /proc/sys/user/max_user_namespaces; exec "+harness.Outcall+" run -- echo ran")).Wait()
	refusedStart(t, r, "user namespace", "user.max_user_namespaces")
}

func TestC10NoNetworkNamespaces(t *testing.T) {
	b := harness.New(t)
	r := b.Start(b.Program("unshare", "-Ur", "sh", "-c",
		"echo 0 > /proc/sys/user/max_net_namespaces; exec "+harness.Outcall+" run -- echo ran")).Wait()
	refusedStart(t, r, "namespace", "max_net_namespaces")
}

func TestC10NoMountNamespaces(t *testing.T) {
	b := harness.New(t)
	r := b.Start(b.Program("unshare", "-Ur", "sh", "-c",
		"echo 0 > /proc/sys/user/max_mnt_namespaces; exec "+harness.Outcall+" run -- echo ran")).Wait()
	refusedStart(t, r, "namespace")
}

func TestC10MaskedProc(t *testing.T) {
	b := harness.New(t)
	// As an OCI runtime masks it: one mount below /proc.
	r := b.Start(b.Program("unshare", "-Urm", "sh", "-c",
		"mount --bind /dev/null /proc/timer_list; exec "+harness.Outcall+" run -- echo ran")).Wait()
	refusedStart(t, r, "proc", "unmask")
}

func TestC10NoResolver(t *testing.T) {
	b := harness.New(t)
	b.SetResolvers(t)
	refusedStart(t, b.Sandbox(allowAPI, "echo", "ran"), "resolv", "--dns-upstream")
	b.Sandbox(append(allowAPI, "--dns-upstream", b.Resolver.String()), "true").Must(t, 0)
	r := b.Sandbox(append(allowAPI, "--dns-upstream", "not-an-address"), "echo", "ran")
	if r.Code != 2 && r.Code != 125 {
		t.Errorf("a bad --dns-upstream: code %d", r.Code)
	}
}

func TestC10SocketDirectory(t *testing.T) {
	b := harness.New(t)
	dir := b.Home + "/open"
	if err := os.MkdirAll(dir+"/outcall", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/outcall", 0o777); err != nil {
		t.Fatal(err)
	}
	b.Setenv("XDG_RUNTIME_DIR=" + dir)
	refusedStart(t, b.Sandbox(allowAPI, "echo", "ran"), dir)
	b.Setenv("XDG_RUNTIME_DIR=" + b.Runtime)
	refusedStart(t, b.Sandbox(append(allowAPI, "--socket", b.Work+"/host.sock"), "echo", "ran"), "host.sock")
	refusedStart(t, b.Sandbox(append(allowAPI, "--audit", "/proc/no/such/a.jsonl"), "echo", "ran"), "audit")
}
