// Package sandbox runs one command under a policy. It owns the namespaces, the
// bridge, the nftables table, the agent's view of the file system, the
// session's directory and its host socket, and the audit. It does not know
// what a rule file looks like.
//
// Processes, from the outside in:
//
//	outcall run          supervisor: unprivileged, netstack, policy, host.sock, audit
//	└─ gatekeeper        U1, gateway netns: opens sockets, starts processes (package gate)
//	   ├─ init           U1 without capabilities, pid 1 of the agent's pid namespace
//	   └─ command        U2 (a child of U1 made after all mounts), no capabilities, seccomp
//
// Run starts them in this order and stops at the first layer that fails: the
// command is not started, and the error names the layer, the kernel's answer
// and the mend.
package sandbox
