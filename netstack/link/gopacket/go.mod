// This module stands in for github.com/google/gopacket by the replace line of
// outcall's go.mod.
module github.com/google/gopacket

go 1.26
