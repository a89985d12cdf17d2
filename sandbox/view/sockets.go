package view

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSockets bounds the sockets that are covered. More of them fail the start:
// an uncovered one is a way out.
const maxSockets = 4096

// sockets finds every path socket that can be reached in the view: those
// listed in the network namespaces of all processes that we may look into,
// also when bound in another mount namespace, and those that the environment
// names. What is bound later, and what cannot be found, stays reachable where
// its directory is.
func (p *planner) sockets() error {
	f := &finder{p: p, seen: map[string]bool{}}
	if err := f.scan("/proc"); err != nil {
		return err
	}
	for _, kv := range p.o.Env {
		_, v, _ := strings.Cut(kv, "=")
		for _, w := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ';' }) {
			f.add(strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(w, "unix:path="), "unix://"), "unix:"))
		}
	}
	slices.Sort(p.s.Sockets)
	if n := len(p.s.Sockets); n > maxSockets {
		return fmt.Errorf("%d path sockets are bound, more than the %d that can be covered", n, maxSockets)
	}
	return nil
}

type finder struct {
	p    *planner
	seen map[string]bool // paths looked at
}

// An mntns is a mount namespace by one process in it.
type mntns struct {
	dir   string // /proc/PID
	own   bool
	table []mount
}

// A netns is a network namespace with the names bound in it.
type netns struct {
	abs []string
	rel []string
}

// scan visits every process once, every network and mount namespace once.
func (f *finder) scan(proc string) error {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return err
	}
	ownMnt, err := os.Readlink(proc + "/self/ns/mnt")
	if err != nil {
		return err
	}
	nets, mnts := map[string]*netns{}, map[string]*mntns{}
	var pids []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := proc + "/" + e.Name()
		net, err := os.Readlink(dir + "/ns/net")
		if err != nil {
			continue // not ours to look into, or gone
		}
		pids = append(pids, dir)
		if nets[net] == nil {
			if data, err := os.ReadFile(dir + "/net/unix"); err == nil {
				nets[net] = parseUnix(data)
			}
		}
		if mnt, err := os.Readlink(dir + "/ns/mnt"); err == nil && mnts[mnt] == nil {
			mnts[mnt] = &mntns{dir: dir, own: mnt == ownMnt}
		}
	}
	f.absolute(nets, mnts)
	f.relative(nets, mnts, pids)
	return nil
}

func (f *finder) absolute(nets map[string]*netns, mnts map[string]*mntns) {
	for _, n := range nets {
		for _, name := range n.abs {
			f.add(name)
			for _, m := range mnts {
				f.foreign(m, name)
			}
		}
	}
}

// relative tries a name that was bound relative to a directory: the kernel
// lists it as it was given. Its owner's working directory comes first; but the
// owner may have moved since, so all others are tried too.
func (f *finder) relative(nets map[string]*netns, mnts map[string]*mntns, pids []string) {
	names := map[string]bool{}
	for _, n := range nets {
		for _, name := range n.rel {
			names[name] = true
		}
	}
	if len(names) == 0 {
		return
	}
	dirs := map[[2]string]bool{{"", f.p.s.Dir}: true}
	for _, pid := range pids {
		cwd, err := os.Readlink(pid + "/cwd")
		if err != nil || !filepath.IsAbs(cwd) {
			continue
		}
		mnt, err := os.Readlink(pid + "/ns/mnt")
		if err == nil {
			dirs[[2]string{mnt, cwd}] = true
		}
	}
	for d := range dirs {
		for name := range names {
			path := filepath.Join(d[1], name)
			if m := mnts[d[0]]; m != nil && !m.own {
				f.foreign(m, path)
			} else {
				f.add(path)
			}
		}
	}
}

// parseUnix reads /proc/PID/net/unix: every name but the abstract ones, which
// end at their network namespace. Datagram sockets count like listening ones,
// for sendto reaches them.
func parseUnix(data []byte) *netns {
	n := &netns{}
	for line := range bytes.Lines(data) {
		// Num RefCount Protocol Flags Type St Inode Path; the path is the rest
		// of the line and may hold blanks.
		text := strings.TrimSuffix(string(line), "\n")
		var inode string
		for i := range 7 {
			text = strings.TrimLeft(text, " ")
			word, after, ok := strings.Cut(text, " ")
			if !ok {
				text = ""
				break
			}
			text = after
			if i == 6 {
				inode = word
			}
		}
		_, err := strconv.ParseUint(inode, 10, 64)
		switch {
		case err != nil || text == "" || text[0] == '@':
		case text[0] == '/':
			n.abs = append(n.abs, text)
		default:
			n.rel = append(n.rel, text)
		}
	}
	return n
}

// add covers a path of our own mount namespace, and the same socket under
// every other mount of its file system.
func (f *finder) add(path string) {
	if !filepath.IsAbs(path) || f.seen[path] {
		return
	}
	f.seen[path] = true
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return
	}
	real := filepath.Join(dir, filepath.Base(path))
	if !isSocket(real) {
		return
	}
	for _, q := range f.p.aliases(real) {
		f.cover(q)
	}
}

// foreign covers a path of another mount namespace where the same file is
// mounted in ours.
func (f *finder) foreign(m *mntns, path string) {
	if m.own {
		return
	}
	if m.table == nil {
		m.table, _ = readMounts(m.dir + "/mountinfo")
		if m.table == nil {
			m.table = []mount{}
		}
	}
	root, err := unix.Open(m.dir+"/root", unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, strings.TrimLeft(path, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var st, here unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return
	}
	real, err := os.Readlink(fdPath(fd))
	if err != nil {
		return
	}
	where, ok := locate(m.table, real)
	if !ok {
		return
	}
	for _, q := range where.paths(f.p.table) {
		if unix.Lstat(q, &here) == nil && here.Dev == st.Dev && here.Ino == st.Ino {
			f.cover(q)
		}
	}
}

// cover notes a socket, and the names on the way to it: the kernel goes on
// listing it under the name that it was bound by, so once its directory is
// renamed inside, no later session would find it.
func (f *finder) cover(path string) {
	if !f.p.seen(path) || slices.Contains(f.p.s.Sockets, path) || slices.Contains(f.p.o.Binds, path) {
		return
	}
	f.p.s.Sockets = append(f.p.s.Sockets, path)
	// A socket that went away in between needs nothing any more.
	_, _ = f.p.pin(path)
}

func isSocket(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}
