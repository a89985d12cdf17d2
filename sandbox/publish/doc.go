// Package publish lets programs of the host reach ports inside: a listener on
// the host for each published port, and sockets of the agent's network
// namespace that connect to the agent's own loopback.
//
//	host client ── Ports (listener) ── Serve ── netstack.Inbound: audit, relay
//	                                               └ Inside.Dial ── 127.0.0.1, ::1, the agent's address
//
// Nothing of it crosses the bridge, and what stands on the agent's loopback
// stays there: the sockets were made inside and connect to the inside's own
// addresses alone.
//
// The sockets inside are opened before the agent runs, since a descriptor
// that has to travel later would depend on a budget that the agent can use
// up. There are Max of each family, and each is used again and again: a
// connect(2) to AF_UNSPEC takes a TCP socket back to its beginning.
package publish
