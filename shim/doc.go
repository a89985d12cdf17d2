// Package shim is outcall-agent, the small program inside the sandbox that
// asks before it does:
//
//	outcall-agent exec git push     asks about git push, then runs it
//	outcall-agent fetch URL         asks only
//	outcall-agent why d-1a2b3c4d    explains a denial
//
// It speaks to the session's agent socket (package ask) and to nothing else. It
// fails closed: without a verdict nothing is run and the exit code is 5. While a
// command runs (package child) the session is looked at; when that has ended,
// the command is killed and the exit code is 5 again, with a line on standard
// error that tells it from a command that ended so itself.
//
// It is a courtesy to a willing agent, never an enforcement: a command that
// does not ask meets the same rules on the wire.
package shim
