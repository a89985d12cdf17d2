//go:build !unix

package hookfile

const nonblock = 0
