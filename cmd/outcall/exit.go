package main

import (
	"errors"

	"outcall/sandbox/hostapi"
)

// Exit codes. `run` and `exec` give the command's own code, 128+n for a
// signal, and 124 for a time-out beside these.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitSetup       = 125 // run: outcall could not set up, nothing ran
	exitNotExec     = 126
	exitNotFound    = 127
	exitInterrupted = 130 // exec: the caller went away before the command ended
)

// A usageError is a command line that cannot be meant.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// A codeError carries an exit code; a nil error prints nothing.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *codeError) Unwrap() error { return e.err }

// exitCode is the code for what a command returned.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*codeError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if e, ok := errors.AsType[*hostapi.StatusError](err); ok && e.Code != 0 {
		return e.Code
	}
	return exitError
}
