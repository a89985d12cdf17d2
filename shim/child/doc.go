// Package child runs one command as a job of its own: a process group that gets
// the signals sent to this process, the terminal where it needs it, and SIGKILL
// when it may no longer run.
//
// The command is a child and not this process' next program, because somebody
// has to see the session's end while it runs. What that costs is the work of a
// shell (POSIX job control): who reads a terminal must be in its foreground
// group, and who stops must be seen to stop by whoever waits.
//
//	stdin and stdout are the terminal   the command is in the foreground from the start
//	else (a pipeline)                   it gets the foreground when it stops for want of it,
//	                                    so that "outcall-agent exec a | less" leaves it to less
//	it stops (Ctrl-Z)                   this process' group takes the terminal and stops, too
//	this process is continued           the command is, with the terminal if that is ours again
package child
