package gate

import (
	"bytes"
	"os"
	"sort"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"outcall/policy"
)

// Bounds on one question. The agent chooses how many processes and
// descriptors there are to look through; what is not found in time is hidden.
const (
	maxWho      = 256 // questions that wait
	whoFiles    = 1 << 16
	whoTime     = 200 * time.Millisecond
	whoExe      = 4096      // PATH_MAX
	whoArgs     = 16 << 10  // longer arguments are hidden, not cut: a rule must not see half of them
	whoDirChunk = 16 * 1024 // of directory entries
)

// who finds the process that holds a socket. Only the gatekeeper can: a
// process with a subordinate uid hides its descriptors from the caller's own.
// nil means hidden: gone, unreadable, or not found within the bounds.
func (k *keeper) who(inode uint64) *policy.Process {
	if inode == 0 {
		return nil
	}
	s := &search{proc: k.proc, want: "socket:[" + strconv.FormatUint(inode, 10) + "]", until: time.Now().Add(whoTime), files: whoFiles}
	if k.lastPID != 0 && s.holds(k.lastPID) {
		return s.describe(k.lastPID)
	}
	pids := s.pids()
	// The newest first: a flow's first packet is most often sent by a process
	// that has just begun.
	sort.Sort(sort.Reverse(sort.IntSlice(pids)))
	for _, pid := range pids {
		if s.spent() {
			return nil
		}
		if s.holds(pid) {
			k.lastPID = pid
			return s.describe(pid)
		}
	}
	return nil
}

type search struct {
	proc  int
	want  string
	until time.Time
	files int
}

func (s *search) spent() bool { return s.files <= 0 || time.Now().After(s.until) }

func (s *search) pids() []int {
	var out []int
	for _, name := range s.list(".") {
		if pid, err := strconv.Atoi(name); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// list reads a directory below /proc, as far as the bounds go.
func (s *search) list(path string) []string {
	fd, err := openAt(s.proc, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var names []string
	for !s.spent() {
		more, err := f.Readdirnames(256)
		names = append(names, more...)
		s.files -= len(more)
		if err != nil {
			break
		}
	}
	return names
}

func (s *search) holds(pid int) bool {
	dir := strconv.Itoa(pid) + "/fd"
	buf := make([]byte, 64)
	for _, name := range s.list(dir) {
		n, err := unix.Readlinkat(s.proc, dir+"/"+name, buf)
		if err == nil && string(buf[:n]) == s.want {
			return true
		}
	}
	return false
}

// describe tells pid, program and arguments; what cannot be read stays empty.
func (s *search) describe(pid int) *policy.Process {
	p := &policy.Process{PID: pid}
	dir := strconv.Itoa(pid)
	exe := make([]byte, whoExe)
	if n, err := unix.Readlinkat(s.proc, dir+"/exe", exe); err == nil && n < whoExe {
		p.Exe = string(exe[:n])
	}
	fd, err := openAt(s.proc, dir+"/cmdline", unix.O_RDONLY)
	if err != nil {
		return p
	}
	defer unix.Close(fd)
	args := make([]byte, whoArgs+1)
	n := 0
	for n < len(args) {
		m, err := unix.Read(fd, args[n:])
		if err == unix.EINTR {
			continue
		}
		if m <= 0 {
			break
		}
		n += m
	}
	if n == 0 || n > whoArgs {
		return p
	}
	for _, a := range bytes.Split(bytes.TrimSuffix(args[:n], []byte{0}), []byte{0}) {
		p.Args = append(p.Args, string(a))
	}
	return p
}
