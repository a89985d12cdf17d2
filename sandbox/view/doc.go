// Package view makes what the agent sees of the file system.
//
// Plan runs outside, as the user: it looks at the host (mounts, listening
// sockets, paths to protect and who may rename their ancestors) and writes
// down a complete description, a Spec. Apply runs inside, once, as pid 1 of
// the agent's pid namespace and with every capability in U1, in a mount
// namespace of its own owned by U1, and makes every mount of the Spec. The
// agent's own user namespace is made afterwards, so that the kernel locks all
// of it: no capability that the agent can get undoes a cover, a read-only flag
// or a replaced directory.
//
// The view is the host's tree, mounted over in place, in this order:
//
//	/proc            fresh, hidepid: init is not seen; nothing is mounted below it
//	/sys, cgroups    read-only
//	/dev             tmpfs with the usual dozen, own devpts, shm, mqueue
//	/run, /tmp,      own; the working directory and --bind paths that lie
//	$XDG_RUNTIME_DIR below them are bound back
//	protected paths  read-only, each ancestor the agent could rename a mount point
//	hidden paths     an empty directory stands in their place
//	sockets          each path socket that a host process has bound is covered
//	resolv.conf      /etc/resolv.conf and /etc/hosts are the session's
//	/run/outcall     read-only: bin/outcall, bin/outcall-agent, agent.sock, README.md
//
// Nothing is ever created in the user's tree to serve as a mount point.
package view
