package netstack

import (
	"bytes"
	"io"
	"testing"
)

// However many directions are busy, no more than the bound hold large buffers,
// and those without one go on with less.
func TestLargeBuffersAreBounded(t *testing.T) {
	l := newLender(2)
	a, b, c := l.take(), l.take(), l.take()
	for i, want := range []int{largeBuffer, largeBuffer, middleBuffer} {
		if got := len(*[]*[]byte{a, b, c}[i]); got != want {
			t.Errorf("buffer %d has %d octets, not %d", i, got, want)
		}
	}
	l.giveBack(c)
	l.giveBack(nil)
	if d := l.take(); len(*d) != middleBuffer {
		t.Errorf("a middle buffer freed a large one")
	}
	l.giveBack(a)
	if d := l.take(); len(*d) != largeBuffer {
		t.Errorf("a large buffer that was given back is not lent again")
	}
}

// A stream crosses whole with whichever buffer it gets, and gives it back.
func TestPumpGivesItsBufferBack(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 3*largeBuffer/16)
	for _, n := range []int{0, 1} {
		f := &flow{lender: newLender(n)}
		var dst bytes.Buffer
		// Only Read, else a bytes.Reader would give all at once.
		if err := f.pump(&dst, struct{ io.Reader }{bytes.NewReader(data)}, &f.in, nil); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dst.Bytes(), data) || f.in.Load() != int64(len(data)) {
			t.Errorf("with %d large buffers: %d of %d octets crossed, %d counted", n, dst.Len(), len(data), f.in.Load())
		}
		if len(f.large) != 0 {
			t.Errorf("a buffer was kept")
		}
	}
}
