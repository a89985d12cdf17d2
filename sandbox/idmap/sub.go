package idmap

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/rootless-containers/rootlesskit/v3/pkg/parent/idtools"
)

// subIDs returns the subordinate ids of a user, none where the files give
// none or cannot be read in only one way.
func subIDs(uid int, name string) (uids, gids []Range) {
	u, g, err := idtools.GetSubIDRanges(uid, name)
	if err != nil {
		return nil, nil
	}
	return ranges(u), ranges(g)
}

func ranges(in []idtools.SubIDRange) []Range {
	var out []Range
	for _, r := range in {
		// An entry that reaches kernel id 0 or past 32 bits is no
		// subordinate range, whoever wrote it.
		if r.Start < 1 || r.Length < 1 || r.Start+r.Length > 1<<32-1 {
			continue
		}
		out = append(out, Range{Outside: r.Start, Size: r.Length})
	}
	return out
}

// helperDirs is where newuidmap and newgidmap are looked for; the caller's
// PATH is not, because the helper is run outside of the sandbox.
var helperDirs = []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin", "/run/wrappers/bin"}

// findHelper returns the absolute path of a helper that is not the caller's
// own file, or "".
func findHelper(name string) string {
	for _, d := range helperDirs {
		p := filepath.Join(d, name)
		fi, err := os.Stat(p)
		if err != nil || !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 || fi.Mode().Perm()&0o002 != 0 {
			continue
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && os.Geteuid() != 0 && int(st.Uid) == os.Geteuid() {
			continue
		}
		return p
	}
	return ""
}

// identity returns the map that gives a child exactly the ids that this
// process has, from a uid_map file (user_namespaces(7)).
func identity(path string) []Range {
	f, err := os.Open(path)
	if err != nil {
		return []Range{{0, 0, 1}}
	}
	defer f.Close()
	rs, err := Parse(f)
	if err != nil || len(rs) == 0 {
		return []Range{{0, 0, 1}}
	}
	return Identity(rs)
}

// mapped reports whether this process' user namespace has both ids. A map that
// cannot be read is left to the kernel's own answer.
func mapped(uid, gid int) bool {
	for _, m := range []struct {
		path string
		id   int
	}{{"/proc/self/uid_map", uid}, {"/proc/self/gid_map", gid}} {
		f, err := os.Open(m.path)
		if err != nil {
			continue
		}
		rs, err := Parse(f)
		_ = f.Close() // only read
		if err == nil && !slices.ContainsFunc(rs, func(r Range) bool { return m.id >= r.Inside && m.id-r.Inside < r.Size }) {
			return false
		}
	}
	return true
}

// Identity turns a namespace's own map into one that hands all of its ids on
// to a child namespace unchanged.
func Identity(rs []Range) []Range {
	out := make([]Range, len(rs))
	for i, r := range rs {
		out[i] = Range{r.Inside, r.Inside, r.Size}
	}
	return out
}

// Parse reads a uid_map or gid_map.
func Parse(r io.Reader) ([]Range, error) {
	var out []Range
	sc := bufio.NewScanner(io.LimitReader(r, 64<<10))
	for sc.Scan() {
		var e Range
		if n, err := fmt.Sscanf(sc.Text(), "%d %d %d", &e.Inside, &e.Outside, &e.Size); n != 3 || err != nil {
			return nil, fmt.Errorf("id map: %q is not three numbers", sc.Text())
		}
		out = append(out, e)
	}
	return out, sc.Err()
}

// Format writes a map as the kernel reads it.
func Format(rs []Range) string {
	var b strings.Builder
	for _, r := range rs {
		fmt.Fprintf(&b, "%d %d %d\n", r.Inside, r.Outside, r.Size)
	}
	return b.String()
}
