// Package mcp is the agent API as tools of the Model Context Protocol, for
// agents that speak it:
//
//	outcall-agent mcp     JSON-RPC 2.0 on standard input and output, a message a line
//
// Its tools ask and propose, and change nothing: check (would this be allowed?),
// why (a denial explained), request_rule (a rule file for the operator), policy
// (what is reachable). What the agent does with an answer is its own affair; the
// hooks (package hook) are what stands before its other tools.
//
// One message is answered after the other, each within the time that
// OUTCALL_TIMEOUT_SECS gives; a line has a limit, and what is no request is
// answered as JSON-RPC says, never by ending.
package mcp
