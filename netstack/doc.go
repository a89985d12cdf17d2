// Package netstack is the userspace side of every flow. A packet that the
// kernel's table passed arrives on the link, becomes a flow in gVisor's
// stack, is judged, and only then is re-opened by the egress dialler as an
// ordinary socket of the user:
//
//	link → stack ─ SYN (tcp.go) ─ judge: flow (verdict.go) ─ egress ─ accept
//	             │                └ first flight (first.go) ─ hello · request · raw ─ relay (relay.go)
//	             ├ gateway:proxy (proxy.go) ─ connect · request ─ egress ─ first flight, as above
//	             ├ port 53, UDP and TCP, to any address ─ dnsfilter → policy → upstream → pins → answer
//	             ├ UDP, echo requests (mux.go) ─ judge: flow ─ egress ─ each datagram: hello · raw (association.go)
//	             └ packets that the table logged (refuse.go) ─ judge ─ reset or ICMP
//
// Two rules hold on every path. The verdict's audit line is written before its
// first effect. And nothing of the client's leaves that has not been judged as
// what it is: a first flight that may still become TLS or HTTP is held.
//
// Limits are named in config.go; at each of them the session says so in a
// limit event. A flow, of TCP or of datagrams, is one goroutine for the client's
// direction and one for the server's, both ending with the flow's context; Run
// waits for all.
//
// The package does not know who the agent is, nor nftables' wire format.
package netstack
