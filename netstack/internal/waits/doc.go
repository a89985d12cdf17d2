// Package waits holds how long an open connection may be silent, how its peers
// are asked whether they still live (both sides of a flow alike, so that
// neither outlives the other for long), and how long an address stays pinned.
//
// A tunnel may be silent for ever, and a client may keep an address for longer
// than its pin lives. To see that through the whole program in a test, the
// build tag shortwaits shrinks these waits, and these only; a
// released program is built without it, and has nothing of it.
package waits

import "time"

const (
	// HTTP is how long plain HTTP may be silent between two requests.
	HTTP = 300 * time.Second / shrink
	// UDP is how long a flow of UDP may be silent both ways, Echo the same for
	// the echo requests of one ping.
	UDP  = 300 * time.Second / shrink
	Echo = 60 * time.Second / shrink
	// KeepIdle, KeepInterval and KeepCount: a dead peer is found after about
	// three minutes (60 s + 8 × 15 s).
	KeepIdle     = 60 * time.Second / shrink
	KeepInterval = 15 * time.Second / shrink
	KeepCount    = 8
	// PinLife is the shortest life of a pin, PinGrace what is added to every
	// life, PinLinger how long the kernel keeps what has run out, PinSweep how
	// often that is looked for.
	PinLife   = 300 * time.Second / shrink
	PinGrace  = 60 * time.Second / shrink
	PinLinger = 5 * time.Second / shrink
	PinSweep  = 5 * time.Second / shrink
)
