package netstack

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Relay buffers. A direction waits with a small buffer of its own and takes a
// larger one only while it is busy, so that idle flows hold little. The large
// ones are what makes one stream fast (fewer, longer writes), and there are
// only so many of them: a direction that finds none goes on with a middle one.
const (
	smallBuffer  = 4 << 10
	middleBuffer = 64 << 10
	largeBuffer  = 1 << 20
	largeBuffers = 64
)

// A lender has the larger buffers of one stack. It is safe for concurrent use.
type lender struct {
	large  chan struct{} // holds a token for each large buffer that is out
	pooled sync.Pool
	middle sync.Pool
}

func newLender(n int) *lender {
	return &lender{
		large:  make(chan struct{}, n),
		pooled: sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }},
		middle: sync.Pool{New: func() any { b := make([]byte, middleBuffer); return &b }},
	}
}

// take lends the largest buffer that there is; it never waits.
func (l *lender) take() *[]byte {
	select {
	case l.large <- struct{}{}:
		return l.pooled.Get().(*[]byte)
	default:
		return l.middle.Get().(*[]byte)
	}
}

// giveBack takes a buffer of take; nil is none.
func (l *lender) giveBack(b *[]byte) {
	switch {
	case b == nil:
	case len(*b) == largeBuffer:
		l.pooled.Put(b)
		<-l.large
	default:
		l.middle.Put(b)
	}
}

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
	var lent *[]byte
	defer func() { f.giveBack(lent) }()
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
		case lent == nil && n == len(buf):
			lent = f.take()
			buf = *lent
		case lent != nil && n < smallBuffer:
			f.giveBack(lent)
			lent, buf = nil, small
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
