package quic

import (
	"errors"
	"fmt"

	"outcall/netstack/hello"
)

// MaxStream is how much a client may send in CRYPTO frames of its Initial
// packets: its ClientHello, and the second one after a HelloRetryRequest.
const MaxStream = hello.MaxMessage

var (
	errStreamLong = fmt.Errorf("CRYPTO beyond octet %d", MaxStream)
	// errOverlap means that the client said two things for one place: servers
	// differ in which they take.
	errOverlap = errors.New("CRYPTO frames that contradict each other")
)

// A stream is the CRYPTO stream of one connection at the Initial level. The
// octets of messages that were read stay, to be compared with what comes again.
type stream struct {
	buf   []byte
	have  []bool // which of buf are there
	ready int    // all before are there
	base  int    // where the next message begins
}

// insert takes the data of one CRYPTO frame, in any order.
func (s *stream) insert(at uint64, data []byte) error {
	if at > MaxStream || uint64(len(data)) > MaxStream-at {
		return errStreamLong
	}
	if len(data) == 0 {
		return nil
	}
	end := int(at) + len(data)
	if more := end - len(s.buf); more > 0 {
		s.buf = append(s.buf, make([]byte, more)...)
		s.have = append(s.have, make([]bool, more)...)
	}
	for i, c := range data {
		i += int(at)
		if s.have[i] && s.buf[i] != c {
			return errOverlap
		}
		s.buf[i], s.have[i] = c, true
	}
	for s.ready < len(s.buf) && s.have[s.ready] {
		s.ready++
	}
	return nil
}

const (
	messageHeader   = 4
	typeClientHello = 1
)

// next returns the next whole message; nil asks for more. It may be called
// until then.
func (s *stream) next() ([]byte, error) {
	b := s.buf[s.base:s.ready]
	if len(b) > 0 && b[0] != typeClientHello {
		return nil, fmt.Errorf("handshake message %d where a ClientHello must be", b[0])
	}
	if len(b) < messageHeader {
		return nil, nil
	}
	size := messageHeader + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
	if size > MaxStream-s.base {
		return nil, errStreamLong
	}
	if len(b) < size {
		return nil, nil
	}
	s.base += size
	return b[:size:size], nil
}

// pending reports octets that belong to a message that is not whole.
func (s *stream) pending() bool { return len(s.buf) > s.base }
