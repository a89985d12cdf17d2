package harness

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// leftFor is how long a session's parts may take to go after its end.
const leftFor = 2 * time.Second

// snapshot tells all that a session could leave behind, by a readable name:
// processes, namespaces, mounts, links, files of sessions.
func snapshot(t testing.TB) map[string]bool {
	t.Helper()
	got := map[string]bool{}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		status, err := os.ReadFile(p + "/stat")
		if err != nil {
			continue // it has just ended
		}
		comm := string(status)
		if i := strings.LastIndexByte(comm, ')'); i > 0 {
			if strings.HasPrefix(comm[i:], ") Z") {
				continue // dead, about to be reaped
			}
			comm = comm[:i+1]
		}
		got["process "+comm] = true
		for _, ns := range []string{"net", "user", "mnt", "pid"} {
			if l, err := os.Readlink(p + "/ns/" + ns); err == nil {
				got["namespace "+l] = true
			}
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		got["link "+l.Attrs().Name] = true
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		f := strings.Fields(l)
		got["mount "+f[0]+" "+f[4]] = true
	}
	sessionFiles(got)
	return got
}

// sessionFiles adds the files of sessions, wherever outcall may put them. The
// audit stays on purpose, and so does the empty lock that all sessions of a
// user share: removing it would race with the next one's start.
func sessionFiles(got map[string]bool) {
	roots, _ := filepath.Glob("/tmp/outcall*")
	more, _ := filepath.Glob("/home/user-*/run/outcall")
	for _, root := range append(roots, more...) {
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock~" {
				got["file "+path] = true
			}
			return nil
		})
	}
	tmp, _ := os.ReadDir("/tmp")
	for _, e := range tmp {
		if !strings.HasPrefix(e.Name(), "outcall-") {
			got["file /tmp/"+e.Name()] = true
		}
	}
}

// nothingLeft fails the test for whatever was not there before.
func (b *Bed) nothingLeft(before map[string]bool) {
	b.t.Helper()
	if left := b.LeftAfter(before, leftFor); len(left) > 0 {
		b.t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
}

// Snapshot tells what there is now, for LeftAfter.
func (b *Bed) Snapshot() map[string]bool { return snapshot(b.t) }

// LeftAfter waits at most d until nothing is there but what was there before
// and what may stay, and returns what still is.
func (b *Bed) LeftAfter(before map[string]bool, d time.Duration, mayStay ...func(string) bool) []string {
	b.t.Helper()
	var left []string
	Eventually(d, func() bool {
		now := snapshot(b.t)
		maps.DeleteFunc(now, func(k string, _ bool) bool {
			return before[k] || slices.ContainsFunc(mayStay, func(f func(string) bool) bool { return f(k) })
		})
		left = slices.Sorted(maps.Keys(now))
		return len(left) == 0
	})
	return left
}

// Eventually asks a condition again and again until it holds or d has passed.
func Eventually(d time.Duration, ok func() bool) bool {
	deadline := time.Now().Add(d)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}

// MustEventually is Eventually that fails the test.
func MustEventually(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	if !Eventually(d, ok) {
		t.Errorf("not within %v: %s", d, what)
	}
}
