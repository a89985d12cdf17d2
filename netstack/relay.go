package netstack

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Relay buffers. A direction that waits holds none. What has arrived tells how
// large a buffer is worth it, and that is given back before the next wait; so
// idle flows hold nothing, and busy ones write much at a time. There are only so
// many of the large ones: a direction that finds none goes on with a middle one.
const (
	smallBuffer  = 4 << 10
	middleBuffer = 64 << 10
	largeBuffer  = 1 << 20
	largeBuffers = 64
)

// A lender has the buffers of one stack. It is safe for concurrent use.
type lender struct {
	large                 chan struct{} // holds a token for each large buffer that is out
	pooled, middle, small sync.Pool
}

func newLender(n int) *lender {
	sized := func(n int) sync.Pool { return sync.Pool{New: func() any { b := make([]byte, n); return &b }} }
	return &lender{large: make(chan struct{}, n),
		pooled: sized(largeBuffer), middle: sized(middleBuffer), small: sized(smallBuffer)}
}

// take lends a buffer for n octets, or the largest that there is; it never waits.
func (l *lender) take(n int) *[]byte {
	switch {
	case n <= smallBuffer:
		return l.small.Get().(*[]byte)
	case n <= middleBuffer:
		return l.middle.Get().(*[]byte)
	}
	select {
	case l.large <- struct{}{}:
		return l.pooled.Get().(*[]byte)
	default:
		return l.middle.Get().(*[]byte)
	}
}

// giveBack takes a buffer of take.
func (l *lender) giveBack(b *[]byte) {
	switch len(*b) {
	case largeBuffer:
		l.pooled.Put(b)
		<-l.large
	case middleBuffer:
		l.middle.Put(b)
	default:
		l.small.Put(b)
	}
}

// A source is what a direction is read from.
type source interface {
	io.Reader
	// Wait waits until Read gives at least one octet at once, and returns how
	// many there are. Read then gives that many without waiting, in one call or
	// several. An error is what Read would have returned.
	Wait() (int, error)
	// Ready is Wait without waiting: zero where nothing is there yet.
	Ready() int
}

// A taker is a source of which what Wait has announced can be read whatever its
// deadline is.
type taker interface{ Take([]byte) (int, error) }

// A puller is a destination that reads from a source by itself, into the memory
// that it keeps its octets in: that saves a copy.
type puller interface {
	// pull moves at most n octets that src has ready. It does not wait: zero and
	// no error mean that there is no room.
	pull(src source, n int) (int, error)
}

func pullerOf(dst io.Writer) puller {
	if b, ok := dst.(*buffered); ok {
		dst = b.stream
	}
	p, _ := dst.(puller)
	return p
}

// pullFrom is from how many octets on a pull pays; below, the copy is cheaper.
const pullFrom = smallBuffer

// A filter looks at the bytes of one direction before they go on, and returns
// those that may. Its error ends the flow.
type filter func([]byte) ([]byte, error)

// errFiltered marks an error of a filter and not of a connection.
type errFiltered struct{ error }

// pump moves bytes from src to dst until src ends (nil), or one of them fails.
// count and f's clock see every byte; look may be nil, and so may its filter,
// where nothing needs to be looked at (any more).
func (f *flow) pump(dst io.Writer, src source, count *atomic.Int64, look func() filter) error {
	direct := pullerOf(dst)
	for {
		n, err := src.Wait()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		// What is announced came before the filter is asked for, so none of it is
		// a later one's.
		if direct != nil && n >= pullFrom && (look == nil || look() == nil) {
			moved, err := direct.pull(src, n)
			count.Add(int64(moved))
			if err != nil {
				return err
			}
			f.touch()
			if moved > 0 {
				continue
			}
			n = smallBuffer // the client reads slowly: little is held while that lasts
		}
		if end, err := f.move(dst, src, n, count, look); end || err != nil {
			return err
		}
	}
}

// move moves about n octets, which src has ready, by a buffer. end is src's.
func (f *flow) move(dst io.Writer, src source, n int, count *atomic.Int64, look func() filter) (end bool, err error) {
	b := f.take(n)
	defer f.giveBack(b)
	n, rerr := src.Read(*b)
	if n > 0 {
		f.touch()
		if err := f.forward(dst, (*b)[:n], count, look); err != nil {
			return false, err
		}
	}
	if rerr == io.EOF {
		return true, nil
	}
	return false, rerr
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
