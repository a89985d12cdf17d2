// Package habits holds the tests of the tree itself: that each package says
// what it is, that imports go down only, that sizes stay readable, and that
// two builds are the same bytes.
package habits
