package gate

import (
	"errors"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process that is stopped between clone and execve holds up whoever waits
// for the execve. startInTime ends it.
func TestStartOfAStoppedProcessEnds(t *testing.T) {
	k := &keeper{procs: map[uint64]*child{}}
	err := k.startInTime(20*time.Millisecond, func() error {
		cmd := exec.Command("/bin/sh", "-c", "kill -STOP $$")
		if err := cmd.Start(); err != nil {
			return err
		}
		_ = cmd.Wait() // would wait for ever
		return nil
	})
	var se *StageError
	if !errors.As(err, &se) || se.Errno != unix.ETIMEDOUT {
		t.Errorf("%v", err)
	}
}

// What runs already may well be stopped, by the agent's own job control.
func TestStartInTimeSparesWhatRuns(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "kill -STOP $$; exit 7")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k := &keeper{procs: map[uint64]*child{1: {pid: cmd.Process.Pid}}}
	stopped := func() bool {
		p, ok := readProcess(cmd.Process.Pid)
		return ok && p.stopped()
	}
	eventually(t, 20*time.Second, "stopped", stopped)
	if err := k.startInTime(time.Millisecond, func() error {
		time.Sleep(20 * time.Millisecond)
		return nil
	}); err != nil {
		t.Errorf("a start that was only slow: %v", err)
	}
	if !stopped() {
		t.Error("a running command was taken for the start")
	}
	_ = unix.Kill(cmd.Process.Pid, unix.SIGCONT)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit %d", code)
	}
}
