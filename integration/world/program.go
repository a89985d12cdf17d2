package world

import (
	"os/exec"
	"testing"
)

// Serve starts a real server's program in the internet, as the ordinary user
// that the tests are; it ends with the test. Listen at every address: names of
// the zone lead to any of them.
func (w *World) Serve(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := w.internet.do(cmd.Start); err != nil {
		t.Fatalf("world: start %v: %v", cmd.Args, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // killed, or the test sees that nobody answers
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
	})
}
