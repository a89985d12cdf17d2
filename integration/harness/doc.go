// Package harness starts the built program in the small internet of package
// world as its user would, and looks at what the contract promises: standard
// output and error, exit code, audit lines, and that nothing is left behind.
// It knows the command line, the paths and the audit format of the contract,
// and nothing of how they are made.
//
// A test package's TestMain calls world.Main(m, harness.Build); a test begins
// with harness.New, which builds a world and an empty home, and ends with a
// check for leftovers.
package harness
