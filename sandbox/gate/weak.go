package gate

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Without a pid namespace (--weak proc) nothing holds the agent's processes
// together but that they are all descendants of the gatekeeper, which is a
// subreaper (PR_SET_CHILD_SUBREAPER). It reaps what they leave, and ends them
// one by one. What outlives it when it is killed itself has no way out: its
// network namespace is empty then.

// orphanInterval is how often orphans are reaped.
const orphanInterval = time.Second

// reapOrphans runs as long as the gatekeeper.
func (k *keeper) reapOrphans() {
	for range time.Tick(orphanInterval) {
		k.spawning.Lock()
		mine := k.known()
		for _, p := range processes() {
			if p.zombie() && p.parent == os.Getpid() && !mine[p.pid] {
				_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
			}
		}
		k.spawning.Unlock()
	}
}

// killDescendants ends all that is left. Those that startStage made are
// waited for elsewhere as well; whoever comes first has the status, and at
// this point nobody asks for it.
func killDescendants() {
	deadline := time.Now().Add(stopGrace)
	for time.Now().Before(deadline) {
		pids := descendants(os.Getpid())
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}

type process struct {
	pid, parent int
	state       byte // proc_pid_stat(5)
}

func (p process) zombie() bool { return p.state == 'Z' }

// stopped is also what a traced process is between its tracer's calls.
func (p process) stopped() bool { return p.state == 'T' || p.state == 't' }

// processes reads the outer /proc.
func processes() []process {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	var out []process
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			out = append(out, p)
		}
	}
	return out
}

func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	// The name in brackets may hold anything; state and parent stand after
	// the last bracket.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 2 {
		return process{}, false
	}
	parent, err := strconv.Atoi(string(f[1]))
	return process{pid, parent, f[0][0]}, err == nil
}

// descendants lists the living processes below pid.
func descendants(pid int) []int {
	all := processes()
	parent := make(map[int]int, len(all))
	for _, p := range all {
		parent[p.pid] = p.parent
	}
	var out []int
	for _, p := range all {
		for at, steps := p.parent, 0; at > 1 && steps < len(all); at, steps = parent[at], steps+1 {
			if at == pid && !p.zombie() {
				out = append(out, p.pid)
				break
			}
		}
	}
	return out
}
