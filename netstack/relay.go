package netstack

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Relay buffers. A direction waits with a small buffer of its own, and takes a
// large pooled one only while it is busy: idle flows hold no large buffers.
const (
	smallBuffer = 4 << 10
	largeBuffer = 256 << 10
)

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

// A filter looks at the bytes of one direction before they go on, and returns
// those that may. Its error ends the flow.
type filter func([]byte) ([]byte, error)

// errFiltered marks an error of a filter and not of a connection.
type errFiltered struct{ error }

// pump moves bytes from src to dst until src ends (nil), or one of them fails.
// count and f's clock see every byte; look may be nil.
func (f *flow) pump(dst io.Writer, src io.Reader, count *atomic.Int64, look func() filter) error {
	small := make([]byte, smallBuffer)
	buf := small
	var large *[]byte
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	for {
		n, rerr := src.Read(buf)
		if n > 0 {
			f.touch()
			if err := f.forward(dst, buf[:n], count, look); err != nil {
				return err
			}
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return rerr
		}
		switch {
		case large == nil && n == len(buf):
			large = largeBuffers.Get().(*[]byte)
			buf = *large
		case large != nil && n < smallBuffer:
			largeBuffers.Put(large)
			large, buf = nil, small
		}
	}
}

func (f *flow) forward(dst io.Writer, b []byte, count *atomic.Int64, look func() filter) error {
	if look != nil {
		if fl := look(); fl != nil {
			var err error
			if b, err = fl(b); err != nil {
				return errFiltered{err}
			}
		}
	}
	if len(b) == 0 {
		return nil
	}
	n, err := dst.Write(b)
	count.Add(int64(n))
	return err
}

// finishWrite passes the end of one direction on: the end of a stream as FIN,
// an error as a reset of both sides.
func finishWrite(dst, src stream, err error) {
	if err == nil && dst.CloseWrite() == nil {
		return
	}
	dst.Abort()
	src.Abort()
}

// isFiltered reports that a filter ended the flow, and with what.
func isFiltered(err error) (error, bool) {
	var e errFiltered
	if errors.As(err, &e) {
		return e.error, true
	}
	return nil, false
}
