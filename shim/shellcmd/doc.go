// Package shellcmd reads a shell's command line and says what it would do that
// a policy can be asked about: the simple commands it may run, the files its
// redirections open, the hosts it opens through /dev/tcp.
//
//	s, err := shellcmd.Split("cd sub && git push | tee log", "/project", "/home/u")
//	// s.Commands: cd in /project; git, tee in /project/sub
//
// Every simple command counts, wherever it stands: in a pipeline, a branch that
// may not be taken, a function, a substitution inside a string, a here-document,
// and behind a program that runs another (env, sudo, xargs, timeout, find -exec,
// sh -c, eval), which is judged as itself, too.
//
// What cannot be read is an error, and then nothing is to be run: text that is
// no shell, a command whose name is an expansion, a redirection to a path that
// is one, a change of directory that cannot be followed. An argument that holds
// an expansion is told as it is written, and Inexact says so: a rule about
// arguments is a rule about text. A program's own scripts, make files and
// interpreters are not looked into; what they do meets the sandbox.
package shellcmd
