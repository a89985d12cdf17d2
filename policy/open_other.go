//go:build !unix

package policy

// openFlags has nothing to add here.
const openFlags = 0
