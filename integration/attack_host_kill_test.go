package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"outcall/integration/harness"
)

// children lists the processes that a process has started, by any thread.
func children(pid int) []int {
	var out []int
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		for f := range strings.FieldsSeq(string(text)) {
			var n int
			if _, err := fmt.Sscan(f, &n); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// kill -9 of the gatekeeper, of init and of the command's first process, at
// random points of start and run: outcall ends by itself, and nothing is left.
func TestKillGatekeeperAndInit(t *testing.T) {
	points := 60
	if testing.Short() {
		points = 6
	}
	b := harness.New(t)
	start := b.StartSandbox(allowAPI, "echo", "ready").Wait().Must(t, 0).Took
	before := b.Snapshot()
	for i := range points {
		p := b.StartSandbox(allowAPI, "sh", "-c", harness.Probe+" daemon >/dev/null; sleep 1000")
		delay := time.Duration(rand.Int64N(int64(start) * 2))
		time.Sleep(delay)
		var victims []int
		harness.MustEventually(t, harness.Patience, "outcall starts its gatekeeper", func() bool {
			victims = children(p.Cmd.Process.Pid)
			return len(victims) > 0
		})
		if i%3 > 0 {
			below := children(victims[0])
			harness.Eventually(2*start, func() bool { below = children(victims[0]); return len(below) >= i%3 })
			victims = append(victims, below...)
		}
		// Its own death may come first.
		_ = syscall.Kill(victims[len(victims)-1], syscall.SIGKILL)
		if r := p.Wait(); r.Code == 0 || strings.Contains(r.Stderr, "goroutine ") {
			t.Errorf("point %d, %v after the start: code %d %s", i, delay, r.Code, r.Stderr)
		}
		if left := b.LeftAfter(before, 2*time.Second); len(left) > 0 {
			t.Fatalf("point %d, %v after the start: left: %v", i, delay, left)
		}
	}
}
