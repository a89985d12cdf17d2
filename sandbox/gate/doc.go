// Package gate is the gatekeeper: the process in U1 and the gateway network
// namespace that makes descriptors and processes for the supervisor. It knows
// no table and no policy; what it can do is the whole of its protocol:
//
//	supervisor                                gatekeeper
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
// directions.
package gate
