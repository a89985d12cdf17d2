package integration

import (
	"os"
	"testing"

	"outcall/integration/harness"
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
