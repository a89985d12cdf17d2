// Package integration tests the built program end to end in the small
// internet of package world. Tests are named by the attack or the promise
// that they are about, so that each can be run by its id:
//
//	go test ./integration -run TestK10
package integration
