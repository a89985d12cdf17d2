// Package shim is outcall-agent, the small program inside the sandbox that
// asks before it does:
//
//	outcall-agent exec git push     asks about git push, then becomes it
//	outcall-agent fetch URL         asks only
//
// It speaks to the session's agent socket and to nothing else. It fails
// closed: without a verdict nothing is run and the exit code is 5. It is a
// courtesy to a willing agent, never an enforcement: a command that does not
// ask meets the same rules on the wire.
//
// The program stays small, for it is copied into each session: it speaks
// HTTP/1.1 by itself (http.go) rather than through net/http.
package shim
