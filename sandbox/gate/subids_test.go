//go:build subids

package gate

import (
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"

	"outcall/sandbox/idmap"
	"outcall/sandbox/view"
)

// What newuidmap does needs a machine that has it, set-uid, and a user with a
// range; so these tests are asked for:
//
//	go test -tags subids -run SetUIDHelpers ./sandbox/gate
//
// Started by root they run as the first such user.
const subIDsMend = "install package uidmap, and give an ordinary user a range: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"

func TestSetUIDHelpers(t *testing.T) {
	if os.Geteuid() == 0 {
		u := userWithRange(t)
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := runAs(uid, gid, []string{"-test.run", "^TestSetUIDHelpers$", "-test.v"}); err != nil {
			t.Errorf("as %s: %v", u.Username, err)
		}
		return
	}
	if os.Geteuid() == testUID {
		return // root's run was as a user with a range
	}
	o := options(t, func(r *idmap.Request, vo *view.Options) { r.Root, vo.Subordinate = true, true })
	if o.IDs.UIDHelper == "" || len(o.IDs.UIDs) < 2 {
		t.Fatalf("uid %d has no range, or newuidmap is not there: %s", os.Geteuid(), subIDsMend)
	}
	c := session(t, o)
	if !c.Info().Subordinate {
		t.Error("Info.Subordinate is not set")
	}
	if got := sh(t, c, "touch /tmp/x && chown 42:43 /tmp/x && stat -c %u:%g /tmp/x"); got != "42:43" {
		t.Errorf("owner %s, want 42:43", got)
	}
	wantPowers(t, probe(t, c, "powers"), "EINVAL")
}

func userWithRange(t *testing.T) *user.User {
	t.Helper()
	text, err := os.ReadFile("/etc/subuid")
	if err != nil {
		t.Fatalf("%v: %s", err, subIDsMend)
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, ":")
		if u, err := user.Lookup(name); err == nil && u.Uid != "0" {
			return u
		}
	}
	t.Fatalf("no user of this machine has a range in /etc/subuid: %s", subIDsMend)
	return nil
}
