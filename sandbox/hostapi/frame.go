package hostapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The stream of POST /api/v1/exec. The request is an ExecRequest as JSON with
// `Connection: Upgrade` and `Upgrade: outcall-exec`; the answer is 101 once
// the command runs, or an ordinary envelope. Then both sides send frames
//
//	type (1 byte)  length (4 bytes, big endian)  payload
//
//	client                                server
//	stdin    bytes; none = end of input -->
//	resize   rows, cols (2 bytes each)  -->
//	signal   number (1 byte)            -->
//	                                    <--  stdout   bytes
//	                                    <--  stderr   bytes (not with a tty)
//	                                    <--  window   stdin bytes taken (4 bytes)
//	                                    <--  exit     code (1 byte); the last frame
//
// A client has at most stdinWindow bytes of stdin under way that the server
// has not reported as taken: so signals and the client's end are seen also
// while the command does not read.
//
// A client that goes away without an exit frame takes the command with it:
// SIGHUP, then SIGKILL.
const (
	frameStdin  = 1
	frameResize = 2
	frameSignal = 3
	frameStdout = 4
	frameStderr = 5
	frameExit   = 6
	frameWindow = 7
)

// Upgrade is the protocol name of the exec stream.
const Upgrade = "outcall-exec"

// stdinWindow bounds the input that waits in the server; more is an error.
const stdinWindow = 256 << 10

// maxFrame bounds one payload; a longer one ends the stream.
const maxFrame = 64 << 10

const frameHeader = 5

var errFrameSize = errors.New("frame is too long")

// A frame is one message of the exec stream. Payload is valid until the next
// read.
type frame struct {
	typ     byte
	payload []byte
}

// A frameReader reads frames into one buffer.
type frameReader struct {
	r   io.Reader
	buf [maxFrame]byte
}

// next returns io.EOF at a clean end, io.ErrUnexpectedEOF inside a frame.
func (f *frameReader) next() (frame, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(f.r, h[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > maxFrame {
		return frame{}, fmt.Errorf("exec stream: %w: %d bytes", errFrameSize, n)
	}
	if _, err := io.ReadFull(f.r, f.buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	fr := frame{typ: h[0], payload: f.buf[:n]}
	return fr, fr.check()
}

// check refuses what no peer of ours sends.
func (f frame) check() error {
	want := -1
	switch f.typ {
	case frameStdin, frameStdout, frameStderr:
		return nil
	case frameResize, frameWindow:
		want = 4
	case frameSignal, frameExit:
		want = 1
	default:
		return fmt.Errorf("exec stream: unknown frame type %d", f.typ)
	}
	if len(f.payload) != want {
		return fmt.Errorf("exec stream: frame type %d has %d bytes, want %d", f.typ, len(f.payload), want)
	}
	return nil
}

// A frameWriter writes whole frames; it is safe for concurrent use.
type frameWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf [frameHeader + maxFrame]byte
}

// write sends payload as one frame, or several where it is longer than one
// may be. An empty payload is a frame, too.
func (f *frameWriter) write(typ byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		n := copy(f.buf[frameHeader:], payload)
		f.buf[0] = typ
		binary.BigEndian.PutUint32(f.buf[1:], uint32(n))
		if _, err := f.w.Write(f.buf[:frameHeader+n]); err != nil {
			return err
		}
		if payload = payload[n:]; len(payload) == 0 {
			return nil
		}
	}
}

// stream returns a writer whose bytes become frames of one type.
func (f *frameWriter) stream(typ byte) io.Writer { return frameStream{f, typ} }

type frameStream struct {
	w   *frameWriter
	typ byte
}

func (s frameStream) Write(p []byte) (int, error) {
	if len(p) == 0 { // an empty frame would mean the end of input
		return 0, nil
	}
	if err := s.w.write(s.typ, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
