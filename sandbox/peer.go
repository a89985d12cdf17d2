package sandbox

import (
	"io"
	"os"
	"strconv"
	"strings"

	"outcall/policy"
)

// maxProc bounds what is read of one file below /proc.
const maxProc = 16 << 10

// peerProcess describes who has connected to the agent's socket, by its pid as
// the supervisor sees it; nil where it has gone. It is for people to read: the
// pid may have been handed on.
func peerProcess(pid int) *policy.Process {
	dir := "/proc/" + strconv.Itoa(pid)
	status, ok := readProc(dir + "/status")
	if !ok {
		return nil
	}
	p := &policy.Process{}
	for line := range strings.Lines(status) {
		if list, found := strings.CutPrefix(line, "NSpid:"); found {
			if pids := strings.Fields(list); len(pids) > 0 {
				p.PID, _ = strconv.Atoi(pids[len(pids)-1])
			}
		}
	}
	p.Exe, _ = os.Readlink(dir + "/exe")
	if line, ok := readProc(dir + "/cmdline"); ok && line != "" {
		p.Args = strings.Split(strings.TrimSuffix(line, "\x00"), "\x00")
	}
	return p.Bounded()
}

// readProc reads a file that is not longer than maxProc.
func readProc(path string) (string, bool) {
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProc+1))
	return string(b), err == nil && len(b) <= maxProc
}
