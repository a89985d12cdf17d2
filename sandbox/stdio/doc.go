// Package stdio decides what a sandboxed command gets as its descriptors 0-2
// in place of the caller's.
//
// A descriptor is a capability: a connected socket can be connected anew and
// so leaves the network namespace, a file can be opened again through
// /proc/self/fd with more rights than its mount gives, a directory is the
// host's tree. So only pipes and /dev/null are handed in. The rest is pumped
// through a pipe, byte for byte:
//
//	caller's file, socket, device           command
//	  read  --> [pump] --> pipe  ---------> 0
//	  write <-- [pump] <-- pipe  <--------- 1, 2   one pipe where 1 and 2 are one open file
//
// End of file travels with the bytes, and so does the other direction: when
// the caller's side takes no more, the command gets EPIPE; when the command
// closes its input, nothing more is read. What the command has left unread of
// a regular file is given back by moving the file's offset.
//
// The package never changes a flag of the caller's open files: O_NONBLOCK set
// here would be set for the caller's shell, too.
package stdio
