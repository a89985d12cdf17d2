// Package tools runs the programs that people really use in the sandbox,
// against real servers in the small internet, without any configuration for
// outcall: once with the proxy variables that a session sets, once without. It
// writes the README's table of them. The programs are many, so it stands
// behind the build tag "clients" (make clients).
package tools
