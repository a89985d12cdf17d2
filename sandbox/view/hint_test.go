package view

import (
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A path that the command's user cannot reach is not AppArmor's doing: only a
// mount call that was refused speaks of what stands outside.
func TestHints(t *testing.T) {
	closed := &fs.PathError{Op: "chdir", Path: "/closed", Err: unix.EACCES}
	for _, c := range []struct {
		stage string
		err   error
		want  string // "" for no hint at all
	}{
		{"mount", refused(unix.EPERM), "seccomp=unconfined"},
		{"back", refused(unix.EACCES), "apparmor=unconfined"},
		{"proc", refused(unix.EPERM), "unmask=ALL"},
		{"hide", refused(unix.ENOSPC), "fs.mount-max"},
		{"workdir", closed, "--workdir"},
		{"back", unix.EACCES, "--bind"},
		{"protect", closed, ""},
		{"tmp", &fs.PathError{Op: "mkdir", Path: "/x", Err: unix.ENOSPC}, ""},
	} {
		got := stageError(c.stage, "", c.err).(*Error)
		if (c.want == "") != (got.Hint == "") || !strings.Contains(got.Hint, c.want) {
			t.Errorf("%s: %v: hint %q does not speak of %q", c.stage, c.err, got.Hint, c.want)
		}
		if got.Errno == 0 {
			t.Errorf("%s: %v: the kernel's answer is lost", c.stage, c.err)
		}
	}
	if h := stageError("workdir", "", closed).(*Error).Hint; strings.Contains(h, "seccomp") {
		t.Errorf("workdir: %q", h)
	}
}
