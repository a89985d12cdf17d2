package idmap

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/rootless-containers/rootlesskit/v3/pkg/parent/idtools"
)

// fake is an ordinary machine: uid 1000 is alice with a range, 1001 is bob
// without one.
func fake(euid, egid int) host {
	return host{
		euid: euid, egid: egid, realRoot: euid == 0, setuid: euid == 0,
		mapped: func(int, int) bool { return true },
		owner: func(dir string) (int, int, error) {
			switch dir {
			case "/home/alice":
				return 1000, 50, nil
			case "/srv/unknown":
				return 4000, 4001, nil
			case "/srv/rootgroup":
				return 4000, 0, nil
			case "/root":
				return 0, 0, nil
			}
			return 0, 0, os.ErrNotExist
		},
		lookup: func(uid int) (string, string, int, bool) {
			switch uid {
			case 1000:
				return "alice", "/home/alice", 1000, true
			case 1001:
				return "bob", "/home/bob", 1001, true
			}
			return "", "", 0, false
		},
		subIDs: func(uid int, name string) ([]Range, []Range) {
			if name == "alice" {
				return []Range{{0, 100000, 65536}, {0, 300000, 10}}, []Range{{0, 200000, 65536}}
			}
			return nil, nil
		},
		helper: func(n string) string { return "/usr/bin/" + n },
	}
}

func TestDecide(t *testing.T) {
	single := func(id int) []Range { return []Range{{0, id, 1}} }
	for _, x := range []struct {
		name   string
		r      Request
		h      host
		env    map[string]string
		uid    int // visible
		kernel [2]int
		uids   []Range
		helper bool
		drop   bool
	}{
		{name: "ordinary", h: fake(1000, 1000), uid: 1000, kernel: [2]int{1000, 1000}, uids: single(1000)},
		{name: "ordinary, root inside", r: Request{Root: true}, h: fake(1000, 1000), uid: 0, kernel: [2]int{1000, 1000},
			uids: []Range{{0, 1000, 1}, {1, 100000, 65536}, {65537, 300000, 10}}, helper: true},
		{name: "no range, root inside", r: Request{Root: true}, h: fake(1001, 1001), uid: 0, kernel: [2]int{1001, 1001}, uids: single(1001)},
		{name: "sudo", h: fake(0, 0), env: map[string]string{"SUDO_UID": "1001", "SUDO_GID": "77"}, uid: 1001, kernel: [2]int{1001, 77}, uids: single(1001), drop: true},
		{name: "sudo with root's group", h: fake(0, 0), env: map[string]string{"SUDO_UID": "1001", "SUDO_GID": "0"}, uid: 1001, kernel: [2]int{1001, Nobody}, uids: single(1001), drop: true},
		{name: "sudo from root", r: Request{Dir: "/root"}, h: fake(0, 0), env: map[string]string{"SUDO_UID": "0"}, uid: Nobody, kernel: [2]int{Nobody, Nobody}, uids: single(Nobody), drop: true},
		{name: "sudo, nonsense", r: Request{Dir: "/root"}, h: fake(0, 0), env: map[string]string{"SUDO_UID": "-5"}, uid: Nobody, kernel: [2]int{Nobody, Nobody}, uids: single(Nobody), drop: true},
		{name: "sudo, the id that means none", r: Request{Dir: "/root"}, h: fake(0, 0), env: map[string]string{"SUDO_UID": "4294967295"}, uid: Nobody, kernel: [2]int{Nobody, Nobody}, uids: single(Nobody), drop: true},
		{name: "directory's owner", r: Request{Dir: "/home/alice"}, h: fake(0, 0), uid: 1000, kernel: [2]int{1000, 1000}, uids: single(1000), drop: true},
		{name: "directory's unknown owner", r: Request{Dir: "/srv/unknown"}, h: fake(0, 0), uid: 4000, kernel: [2]int{4000, 4001}, uids: single(4000), drop: true},
		{name: "directory with root's group", r: Request{Dir: "/srv/rootgroup"}, h: fake(0, 0), uid: 4000, kernel: [2]int{4000, Nobody}, uids: single(4000), drop: true},
		{name: "root's directory", r: Request{Dir: "/root"}, h: fake(0, 0), uid: Nobody, kernel: [2]int{Nobody, Nobody}, uids: single(Nobody), drop: true},
		{name: "no directory", r: Request{Dir: "/gone"}, h: fake(0, 0), uid: Nobody, kernel: [2]int{Nobody, Nobody}, uids: single(Nobody), drop: true},
		{name: "root, root inside", r: Request{Root: true, Dir: "/home/alice"}, h: fake(0, 0), uid: 0, kernel: [2]int{1000, 1000},
			uids: []Range{{0, 1000, 1}, {1, 100000, 65536}, {65537, 300000, 10}}, drop: true},
		{name: "as root", r: Request{AsRoot: true, Dir: "/home/alice"}, h: fake(0, 0), uid: 0, kernel: [2]int{0, 0}, uids: single(0)},
	} {
		t.Run(x.name, func(t *testing.T) {
			x.r.Getenv = func(k string) string { return x.env[k] }
			p, err := decide(x.r, x.h)
			if err != nil {
				t.Fatal(err)
			}
			if p.UID != x.uid || p.KernelUID != x.kernel[0] || p.KernelGID != x.kernel[1] || p.Drop != x.drop || (p.UIDHelper != "") != x.helper {
				t.Errorf("%+v", p)
			}
			if !reflect.DeepEqual(p.UIDs, x.uids) {
				t.Errorf("map %v, want %v", p.UIDs, x.uids)
			}
			if p.UIDs[0].Outside != p.KernelUID || p.GIDs[0].Outside != p.KernelGID || p.UIDs[0].Inside != 0 {
				t.Errorf("the first range does not map 0 to the kernel's id: %+v", p)
			}
			if !x.r.AsRoot {
				for _, r := range append(p.UIDs, p.GIDs...) {
					if r.Outside == 0 {
						t.Errorf("root is mapped: %v", r)
					}
				}
			}
			if (x.drop || x.r.AsRoot) != (p.Note != "") {
				t.Errorf("note %q", p.Note)
			}
			if one := p.Single(); len(one.UIDs) != 1 || len(one.GIDs) != 1 || one.UIDHelper != "" {
				t.Errorf("Single: %+v", one)
			}
		})
	}
}

func TestRootCannotBeGivenUp(t *testing.T) {
	h := fake(0, 0)
	h.setuid = false
	_, err := decide(Request{Getenv: func(string) string { return "" }}, h)
	var are *AsRootError
	if !errors.As(err, &are) || !strings.Contains(err.Error(), "--as-root") {
		t.Errorf("without CAP_SETUID: %v", err)
	}
	// `unshare -r` by real root: no other id is there.
	h = fake(0, 0)
	h.mapped = func(uid, gid int) bool { return uid == 0 && gid == 0 }
	_, err = decide(Request{Getenv: func(string) string { return "" }}, h)
	if !errors.As(err, &are) || !strings.Contains(err.Error(), "--as-root") || !strings.Contains(err.Error(), "uid_map") {
		t.Errorf("with no other id: %v", err)
	}
	h.setuid = false
	p, err := decide(Request{AsRoot: true, Root: true}, h)
	if err != nil || p.SetGroups || len(p.UIDs) != 1 {
		t.Errorf("--as-root without CAP_SETUID: %+v, %v", p, err)
	}
	if _, err := decide(Request{AsRoot: true}, fake(1000, 1000)); !errors.As(err, &are) {
		t.Errorf("--as-root by an ordinary user: %v", err)
	}
	// Uid 0 of a namespace is an ordinary user.
	h = fake(0, 0)
	h.realRoot = false
	if p, err := decide(Request{}, h); err != nil || p.Drop || p.UID != 0 {
		t.Errorf("root of a namespace: %+v, %v", p, err)
	}
}

func TestNoHelper(t *testing.T) {
	h := fake(1000, 1000)
	h.helper = func(n string) string { return map[string]string{"newuidmap": "/usr/bin/newuidmap"}[n] }
	p, err := decide(Request{Root: true}, h)
	if err != nil || len(p.UIDs) != 1 || p.UIDHelper != "" || !p.Root {
		t.Errorf("%+v, %v", p, err)
	}
}

// Under no_new_privs a set-uid helper has no power of its own. Real root needs
// none.
func TestHelperUnderNoNewPrivs(t *testing.T) {
	h := fake(1000, 1000)
	h.noNewPrivs = true
	p, err := decide(Request{Root: true}, h)
	if err != nil || len(p.UIDs) != 1 || len(p.GIDs) != 1 || p.UIDHelper != "" || p.GIDHelper != "" || !p.NoNewPrivs || !p.Root {
		t.Errorf("%+v, %v", p, err)
	}
	h = fake(0, 0)
	h.noNewPrivs = true
	p, err = decide(Request{Root: true, Dir: "/home/alice", Getenv: func(string) string { return "" }}, h)
	if err != nil || len(p.UIDs) < 2 || p.NoNewPrivs {
		t.Errorf("real root: %+v, %v", p, err)
	}
}

func TestRanges(t *testing.T) {
	got := ranges([]idtools.SubIDRange{{Start: 0, Length: 5}, {Start: -1, Length: 5}, {Start: 5, Length: 0}, {Start: 1 << 31, Length: 1 << 31}, {Start: 100, Length: 10}})
	if !reflect.DeepEqual(got, []Range{{0, 100, 10}}) {
		t.Errorf("%v", got)
	}
	var many []Range
	for i := range 100 {
		many = append(many, Range{0, 1000 + 10*i, 10})
	}
	if got := stack(many); len(got) != maxRanges || got[maxRanges-1] != (Range{1 + 10*(maxRanges-1), 1000 + 10*(maxRanges-1), 10}) {
		t.Errorf("%d ranges, the last %v", len(got), got[len(got)-1])
	}
}

func TestFindHelper(t *testing.T) {
	if p := findHelper("no-such-helper"); p != "" {
		t.Errorf("found %s", p)
	}
	if p := findHelper("sh"); p == "" && os.Geteuid() != 0 {
		t.Error("sh is not found in the fixed directories")
	}
}

func TestIdentity(t *testing.T) {
	rs, err := Parse(strings.NewReader("         0       1000          1\n         1     100000      65536\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := Format(Identity(rs)); got != "0 0 1\n1 1 65536\n" {
		t.Errorf("%q", got)
	}
	if got := identity("/no/such/file"); !reflect.DeepEqual(got, []Range{{0, 0, 1}}) {
		t.Errorf("%v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0 1000 1\n")
	f.Add("0 0 4294967295\n")
	f.Add("x")
	f.Fuzz(func(t *testing.T, s string) {
		rs, err := Parse(strings.NewReader(s))
		if err != nil {
			return
		}
		again, err := Parse(strings.NewReader(Format(rs)))
		if err != nil || len(again) != len(rs) {
			t.Errorf("%q: %v, %v, %v", s, rs, again, err)
		}
	})
}
