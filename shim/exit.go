package shim

// Exit codes. A command that was allowed and started gives its own.
const (
	exitAllowed       = 0
	exitDenied        = 1
	exitUsage         = 2
	exitNoVerdict     = 5 // and nothing was run
	exitNotExecutable = 126
	exitNotFound      = 127
)
