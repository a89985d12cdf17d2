//go:build !shortwaits

package waits

const shrink = 1
