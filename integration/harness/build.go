package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"outcall/integration/world"
)

// The programs, inside the world.
const (
	Outcall = world.Dir + "/outcall"
	Probe   = world.Dir + "/probe"
)

// BuildFlags are those of a release: two builds are the same bytes.
var BuildFlags = []string{"-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid="}

// OutcallShort is outcall with the waits of silent connections and pins made short by
// its build tag: what ten minutes would show, it shows in seconds.
const OutcallShort = world.Dir + "/outcall-short"

// BuildShort makes OutcallShort.
func BuildShort(dir string) error {
	return build(filepath.Join(dir, "outcall-short"), "./cmd/outcall", "-tags", "shortwaits")
}

// Build makes the static binaries in dir. It is run outside the world, with
// the caller's own tool chain and cache.
func Build(dir string) error {
	for name, pkg := range map[string]string{
		"outcall": "./cmd/outcall", "outcall-agent": "./cmd/outcall-agent", "probe": "./integration/probe",
	} {
		if err := build(filepath.Join(dir, name), pkg); err != nil {
			return err
		}
	}
	return nil
}

func build(to, pkg string, flags ...string) error {
	root, err := ModuleRoot()
	if err != nil {
		return err
	}
	args := append(append(append([]string{"build"}, BuildFlags...), flags...), "-o", to, pkg)
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// ModuleRoot finds the directory of go.mod above the working directory.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = up
	}
}
