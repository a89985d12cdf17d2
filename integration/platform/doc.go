// Package platform holds the kernel facts that the sandbox stands on, each as
// a test, so that a kernel that differs tells us first. The tests import
// nothing of the program. What cannot be tried without privileges of the
// machine's own (a delegated cgroup, another user's files) is not here.
//
// A fact is a function of its own that runs as an ordinary user's process; it
// starts itself anew in the namespaces that it needs.
package platform
