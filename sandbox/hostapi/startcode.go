package hostapi

import (
	"errors"
	"syscall"

	"outcall/sandbox/gate"
)

// StartCode is the shell's code for a command that could not be executed: 127
// not found, 126 found and not executable; 0 for every other error.
func StartCode(err error) int {
	e, ok := errors.AsType[*gate.StageError](err)
	if !ok || e.Stage != "exec" {
		return 0
	}
	if errors.Is(e.Errno, syscall.ENOENT) {
		return 127
	}
	return 126
}
