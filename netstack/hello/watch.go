package hello

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
)

// A Watch looks at a TLS flow after its first ClientHello was judged, for a
// second one: after HelloRetryRequest a server may serve the second hello's
// name (kernel.md, TLS). Both directions pass through it:
//
//	client → Client(b) → server     each plaintext handshake record is read
//	client ← Server(b) ← server     the first message tells whether a retry comes
//
// It is over when the server's first message is a real ServerHello, or when the
// client's handshake goes on with another message; then both calls only look
// at one flag. Client and Server may be called concurrently with each other.
type Watch struct {
	first Hello

	mu   sync.Mutex
	over bool

	// Client side: the part of a record header or handshake record that is
	// not complete yet. Nothing of it has been passed on.
	held []byte
	skip int // octets of the current other record that still pass

	// Server side: its first octets, until they tell.
	server     []byte
	serverDone bool
}

// NewWatch returns a watch for a flow whose first ClientHello was h.
func NewWatch(h Hello) *Watch { return &Watch{first: h} }

// ErrSecondHello means that a second ClientHello asks for something else.
var ErrSecondHello = errors.New("second ClientHello differs in name, ALPN or ECH")

// Client takes the client's next bytes and returns those that may go on now,
// which is b itself for nearly every call. The rest is held. After an error
// nothing more may pass. At the end of the stream what is held never passes.
func (w *Watch) Client(b []byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over && len(w.held) == 0 {
		return b, nil
	}
	if len(w.held) == 0 && w.skip >= len(b) {
		w.skip -= len(b)
		return b, nil
	}
	return w.scan(b)
}

// ClientDone reports that Client has nothing to look at any more, for good.
func (w *Watch) ClientDone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over && len(w.held) == 0
}

// ServerDone is ClientDone for Server.
func (w *Watch) ServerDone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.serverDone
}

// scan walks over records: others pass, handshake records are held until the
// message in them is complete and is the same hello, or another message.
func (w *Watch) scan(b []byte) ([]byte, error) {
	all := append(w.held, b[:len(b):len(b)]...)
	if len(w.held) == 0 {
		all = b
	}
	pass := 0
	for pass < len(all) && !w.over {
		if w.skip > 0 {
			n := min(w.skip, len(all)-pass)
			pass, w.skip = pass+n, w.skip-n
			continue
		}
		n, err := w.step(all[pass:])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		pass += n
	}
	if w.over {
		pass = len(all)
	}
	w.held = bytes.Clone(all[pass:])
	return all[:pass], nil
}

// step reads the record at the start of b and returns how much of b may pass;
// 0 means that more is needed.
func (w *Watch) step(b []byte) (int, error) {
	if b[0] != recordHandshake {
		if len(b) < recordHeader {
			return 0, nil
		}
		w.skip = int(b[3])<<8 | int(b[4])
		return recordHeader, nil
	}
	frag, err := record(b)
	if err == nil && frag[0] != typeClientHello {
		w.over = true // the client's second flight: TLS 1.2 and before
		return len(b), nil
	}
	if err == nil || err == ErrShort {
		h, n, perr := Parse(b)
		switch {
		case perr == nil && !h.Same(w.first):
			return 0, ErrSecondHello
		case perr == nil:
			return n, nil
		case errors.Is(perr, ErrShort) && len(b) < MaxWire:
			return 0, nil
		}
		err = perr
	}
	return 0, fmt.Errorf("second ClientHello: %w", err)
}

// helloRetry is the random of a ServerHello that is a HelloRetryRequest (RFC
// 8446 section 4.1.3).
var helloRetry = []byte{
	0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
	0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
}

// serverNeed is where the random of a ServerHello ends.
const serverNeed = recordHeader + handshakeHeader + 2 + 32

// Server looks at the server's next bytes, before they are passed on.
func (w *Watch) Server(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.serverDone {
		return
	}
	w.server = append(w.server, b[:min(len(b), serverNeed-len(w.server))]...)
	s := w.server
	if len(s) < serverNeed {
		// An alert or anything else first: then the watch simply stays on.
		w.serverDone = len(s) > 0 && s[0] != recordHandshake
		return
	}
	w.serverDone = true
	size := int(s[3])<<8 | int(s[4])
	real := s[0] == recordHandshake && size >= serverNeed-recordHeader && s[recordHeader] == typeServerHello
	if real && !bytes.Equal(s[serverNeed-32:], helloRetry) {
		w.over = true
	}
	w.server = nil
}
