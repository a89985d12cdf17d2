// Package term is the user's terminal while a command runs on a pty of its
// own behind it: raw mode and back, window size, job control.
//
//	user's terminal          supervisor                 command's pty
//	  keys   ------------->  raw bytes  ------------->  line discipline: echo, Ctrl-C, Ctrl-Z
//	  screen <-------------  bytes      <-------------  output
//	  SIGWINCH ----------->  size       ------------->  SIGWINCH
//	  stops, restored <----  kill(0, SIGTSTP) <-------  the command has stopped
//	  fg: raw again ------>  SIGCONT    ------------->  the command goes on
//
// All keys are the command's, so Ctrl-C and Ctrl-Z mean inside what they mean
// without a sandbox. When the command itself stops, we put the terminal back
// and stop our own job; the shell sees what it would have seen. In the
// background nothing is read from the terminal and its mode is left alone.
//
// The terminal is given back also after a crash: a guard, a small process that
// holds the terminal and a pipe to us, restores the mode when the pipe ends
// without our word that it is done.
//
// No flag of the open terminal is ever changed: O_NONBLOCK would stay set for
// the user's shell.
package term
