package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"outcall/integration/world"
)

// A Bed is one test's machine: a world, an empty home directory and a work
// directory in it. Sessions that a test starts are stopped when it ends.
type Bed struct {
	*world.World
	Home    string // HOME
	Work    string // where commands are started, a git checkout's place
	Runtime string // XDG_RUNTIME_DIR
	Env     []string

	t       testing.TB
	names   atomic.Int32
	cleanup []func()
}

// agentID is the owner of the work directory where the tests are real root:
// it is whom the command must then run as.
const agentID = 1777

// New builds a bed. When the test ends, nothing that was not there before may
// be left.
func New(t testing.TB) *Bed {
	t.Helper()
	w := world.New(t)
	home, err := os.MkdirTemp("/home", "user-")
	if err != nil {
		t.Fatal(err)
	}
	b := &Bed{World: w, Home: home, Work: home + "/work", Runtime: home + "/run", t: t}
	for _, d := range []string{b.Work, b.Runtime} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if world.As() == "root" {
		if err := os.Chmod(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(b.Work, agentID, agentID); err != nil {
			t.Fatal(err)
		}
	}
	b.Env = []string{
		"HOME=" + home, "XDG_RUNTIME_DIR=" + b.Runtime, "USER=agent", "LOGNAME=agent",
		"PATH=" + world.Dir + ":/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
		"LANG=C.UTF-8", "TERM=xterm", "SHELL=/bin/sh",
		"CURL_CA_BUNDLE=" + w.CA.File, "SSL_CERT_FILE=" + w.CA.File, "NODE_EXTRA_CA_CERTS=" + w.CA.File,
	}
	before := snapshot(t)
	t.Cleanup(func() {
		for i := len(b.cleanup) - 1; i >= 0; i-- {
			b.cleanup[i]()
		}
		b.nothingLeft(before)
		os.RemoveAll(home)
	})
	return b
}

// Setenv changes the environment of what is started from now on; an empty
// "K" without "=" removes K.
func (b *Bed) Setenv(kvs ...string) {
	for _, kv := range kvs {
		k, _, set := strings.Cut(kv, "=")
		var env []string
		for _, old := range b.Env {
			if !strings.HasPrefix(old, k+"=") {
				env = append(env, old)
			}
		}
		if set {
			env = append(env, kv)
		}
		b.Env = env
	}
}

// Write makes a file below the home directory and returns its path.
func (b *Bed) Write(path, text string) string {
	b.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(b.Home, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// Rules writes a rule file with the given list items under "rules:".
func (b *Bed) Rules(name, items string) string {
	return b.Write("rules/"+name, "version: \"1\"\nrules:\n"+items)
}

// NewName returns a session name that is free.
func (b *Bed) NewName() string { return fmt.Sprintf("bed%d", b.names.Add(1)) }
