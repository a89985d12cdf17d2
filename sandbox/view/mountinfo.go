package view

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxMounts bounds a mount table that is read; the kernel's own default bound
// (fs.mount-max) is the same.
const maxMounts = 100000

// A mount is one line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	dev    string // major:minor of the superblock
	root   string // which directory of the file system is mounted
	point  string
	fstype string
	ro     bool // nothing can be written by this mount
}

// readMounts reads a mount table, in the order in which the kernel lists it:
// later lines lie over earlier ones.
func readMounts(path string) ([]mount, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseMounts(data)
}

var errMountinfo = errors.New("malformed mount table")

func parseMounts(data []byte) ([]mount, error) {
	var table []mount
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		sep := -1
		for i, w := range f {
			if w == "-" && i >= 6 {
				sep = i
				break
			}
		}
		if sep < 0 || sep+1 >= len(f) {
			return nil, fmt.Errorf("%w: %q", errMountinfo, line)
		}
		if len(table) == maxMounts {
			return nil, fmt.Errorf("%w: more than %d mounts", errMountinfo, maxMounts)
		}
		table = append(table, mount{dev: f[2], root: unescape(f[3]), point: unescape(f[4]), fstype: f[sep+1],
			ro: hasOption(f[5], "ro") || hasOption(f[len(f)-1], "ro")})
	}
	return table, nil
}

func hasOption(list, want string) bool { return slices.Contains(strings.Split(list, ","), want) }

// unescape undoes the octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// A place is a file by superblock and path within it: the same in every
// mount and mount namespace.
type place struct {
	dev  string
	path string
}

// locate finds on which file system a path lies. The path has no symlinks.
func locate(table []mount, path string) (place, bool) {
	best := -1
	for i, m := range table {
		if below(path, m.point) && (best < 0 || len(m.point) >= len(table[best].point)) {
			best = i
		}
	}
	if best < 0 {
		return place{}, false
	}
	m := table[best]
	return place{m.dev, filepath.Join(m.root, rest(path, m.point))}, true
}

// paths lists every path at which a file is mounted somewhere in the table.
// What is covered by a later mount is listed too; the caller looks.
func (p place) paths(table []mount) []string {
	var out []string
	for _, m := range table {
		if m.dev == p.dev && below(p.path, m.root) {
			out = append(out, filepath.Join(m.point, rest(p.path, m.root)))
		}
	}
	return out
}

// readOnly tells whether every mount of the place's file system in the table is
// read-only: then no file of it has a name by which it could be written. The
// table is copied for the agent into a mount namespace of another user
// namespace, where the kernel keeps it from making one of them writable
// (mount_namespaces(7)).
func (p place) readOnly(table []mount) bool {
	return !slices.ContainsFunc(table, func(m mount) bool { return m.dev == p.dev && !m.ro })
}

// rest is the part of path below dir, "" for dir itself.
func rest(path, dir string) string {
	if dir == "/" {
		return strings.TrimPrefix(path, "/")
	}
	return strings.TrimPrefix(strings.TrimPrefix(path, dir), "/")
}
