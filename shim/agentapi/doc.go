// Package agentapi is the server half of the agent API: what a willing agent
// may ask about its own policy, over the socket that is bound inside its
// sandbox.
//
//	POST /v1/checkin               {}            → a token
//	POST /v1/permissions/check     an action     → allowed or not, and why
//	POST /v1/requests/rules        a rule file   → kept for the operator
//	GET  /v1/requests/rules/{id}                 → its state
//	GET  /v1/denials?since=TIME|?id=ID           → the latest denials, each with its mend
//	GET  /v1/policy                              → what is reachable, as a text
//
// One listener is one session: whoever can connect is the agent, so there is
// no identity in a request, and nothing of other sessions or of the host's
// side is told. The peer's credentials serve the audit's `process` alone.
//
// Nobody inside is trusted. A connection, a head, a body, an evaluation and
// every store has a bound; descriptors that are sent along are never received,
// so the kernel closes them; and whatever goes wrong is no verdict, or a
// denial. The package imports no HTTP client and decides nothing itself: a
// Backend does.
package agentapi
