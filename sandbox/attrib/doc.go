// Package attrib tells which process is behind a packet, by what the kernel
// says of sockets, and reads the packets that the table dropped.
//
//	NFLOG ──> Log.Run ──> the supervisor: judge, audit, answer
//	tuple ──> Attributor: sock_diag ──> socket inode ──> Finder ──> process
//
// The table logs and drops instead of rejecting, because a socket that has
// been refused is gone before anyone can look it up. Both sockets are opened
// inside their namespace and passed out: NETLINK_NETFILTER in the gateway's,
// NETLINK_SOCK_DIAG in the agent's.
//
// What comes out is advisory. A process can hide (it is nil then), hand its
// socket to another one, or be made to run other code. Every wait is bounded;
// an answer that is late is no answer.
package attrib
