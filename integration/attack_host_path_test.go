package integration

import (
	"os"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// K1: a socket is listed under the name that it was bound by. A session that
// could rename a directory above it would hand it to the next one uncovered.
func TestK1SocketMovedByAnEarlierSession(t *testing.T) {
	b := harness.New(t)
	path := b.Home + "/above/agents/s"
	if err := os.MkdirAll(b.Home+"/above/agents", 0o755); err != nil {
		t.Fatal(err)
	}
	host := b.Start(b.Program(harness.Probe, "listen", path))
	host.WaitFor("listening")
	b.Sandbox(allowAPI, "sh", "-c", "mv ~/above/agents ~/above/moved; mv ~/above ~/upper; mv ~/above/agents/s ~/above/agents/s2; ln ~/above/agents/s ~/above/agents/s3; rm -f ~/above/agents/s; true")
	for _, p := range []string{path, b.Home + "/above/moved/s", b.Home + "/upper/agents/s", b.Home + "/upper/moved/s"} {
		_, lines := b.Attempts(allowAPI, "unix", p)
		harness.Refused(t, lines, 1000)
	}
	host.Cmd.Process.Kill()
	mustLack(t, "the host's listener", host.Wait().Stdout, "accepted at")
}

// K6: kernel uid 0 without capabilities writes what only the uid guards, and so
// much more of /proc than its sysctls.
func TestRootProcIsReadOnlyAsRoot(t *testing.T) {
	if world.As() != "root" {
		t.Skip("needs real root: run with WORLD_AS=root (make users)")
	}
	b := harness.New(t)
	r := b.Sandbox(append([]string{"--as-root", "--workdir", b.Home}, allowAPI...), "sh", "-c",
		`id -u; find /proc -maxdepth 4 -type f -not -path '/proc/[0-9]*' -not -path '/proc/self*' -not -path '/proc/thread-self*' | while read f; do (exec 3>>"$f") 2>/dev/null && echo "writable $f"; done; true`).Must(t, 0)
	mustContain(t, "stdout", r.Stdout, "0\n")
	mustLack(t, "K6", r.Stdout, "writable")
}
