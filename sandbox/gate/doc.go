// Package gate is the gatekeeper: the process in U1 and the gateway network
// namespace that makes descriptors and processes for the supervisor. It knows
// no table and no policy; what it can do is the whole of its protocol:
//
//	supervisor                                gatekeeper
//	config                               -->
//	                                     <--  linked(info; the tap device with --link tap)
//	                                     <--  started(info; agent.sock, README.md)
//	                                          | error of the stage that failed
//	socket(netns, domain, type, proto)   -->
//	                                     <--  descriptor | errno
//	spawn(where, argv, env, cwd, stdio)  -->  (descriptors of stdio beside it)
//	                                     <--  id, pid | error of the stage that failed
//	signal(id, signo)                    -->
//	                                     <--  ok | errno
//	                                     <--  exit(id, wait status)   (unasked)
//	who(socket inode)                    -->
//	                                     <--  pid inside, exe, args | hidden
//
// One SOCK_SEQPACKET pair carries it; its EOF is the lifeline in both
// directions. A stop of a command that has a terminal is told unasked, too.
//
// All processes are this program, started again by itself as a stage (Main
// dispatches), each with one control socket:
//
//	supervisor ── keeper (U1, gateway netns)
//	              ├─ init → pid1     U1, then no capabilities; the agent's namespaces
//	              ├─ command         U2: becomes the command
//	              ├─ session         U2: leads a terminal's session
//	              │  └─ command
//	              └─ gateway         U1: an operator's tool, host read-only, own pids
package gate
