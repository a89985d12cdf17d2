//go:build shortwaits

package waits

// shrink makes a second out of KeepIdle, and of ten minutes less than a test
// may last.
const shrink = 60
