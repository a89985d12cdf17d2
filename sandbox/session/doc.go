// Package session keeps what says that a session runs: a directory of its
// own, a locked file in it, and the name.
//
//	ROOT/                     $XDG_RUNTIME_DIR/outcall, else /tmp/outcall-<uid>; 0700
//	ROOT/lock~                held while a session is made or removed; the last
//	                          one to leave removes it, and ROOT
//	ROOT/<name>/session.json  Info; flock'ed by the supervisor while it lives
//	ROOT/<name>/host.sock     unless --socket says otherwise
//
// The lock, not the pid in the file, says that a session lives: it ends with
// the supervisor, however that ends, and no pid can be reused into it. A
// directory whose file is not locked is stale, and the next Create or List
// removes it, except for an audit log that could not be written elsewhere.
//
// The package neither starts nor stops anything.
package session
