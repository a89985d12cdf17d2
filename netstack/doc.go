// Package netstack is the userspace side of every flow. A packet that the
// kernel's table passed arrives on the link, becomes a flow in gVisor's
// stack, is judged, and only then is re-opened by the egress dialler as an
// ordinary socket of the user:
//
//	link → stack → flow (judge) → [first bytes → judge] → egress → relay
//
// A DNS question, to the gateway or to port 53 of any other address, goes
// link → stack → dnsfilter → policy → upstream → pins → kernel maps → answer.
//
// The package does not know who the agent is, nor nftables' wire format.
package netstack
