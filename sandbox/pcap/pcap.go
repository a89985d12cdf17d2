package pcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Specification: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html
const (
	magicNano    = 0xa1b23c4d
	versionMajor = 2
	versionMinor = 4
	linkEthernet = 1
	headerLen    = 24
	recordLen    = 16
)

// MaxFrame is the longest frame that is kept whole: a segment of 64 KiB as
// the kernel hands it over before it is cut, with its Ethernet header. What
// is longer is cut, and its true length stays in the record.
const MaxFrame = 65535 + 14

// A Frame is one Ethernet frame.
type Frame struct {
	Time   time.Time
	Length int    // on the wire
	Data   []byte // at most MaxFrame of it
}

// A Writer writes one capture.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter writes the file's header to w.
func NewWriter(w io.Writer) (*Writer, error) {
	h := make([]byte, headerLen)
	binary.NativeEndian.PutUint32(h, magicNano)
	binary.NativeEndian.PutUint16(h[4:], versionMajor)
	binary.NativeEndian.PutUint16(h[6:], versionMinor)
	binary.NativeEndian.PutUint32(h[16:], MaxFrame)
	binary.NativeEndian.PutUint32(h[20:], linkEthernet)
	if _, err := w.Write(h); err != nil {
		return nil, fmt.Errorf("write the capture: %w", err)
	}
	return &Writer{w: w}, nil
}

// Write appends a frame, in one call of the underlying Write: a file that is
// cut off ends with a whole frame.
func (w *Writer) Write(f Frame) error {
	data := f.Data[:min(len(f.Data), MaxFrame)]
	b := w.buf[:0]
	b = binary.NativeEndian.AppendUint32(b, uint32(f.Time.Unix()))
	b = binary.NativeEndian.AppendUint32(b, uint32(f.Time.Nanosecond()))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(data)))
	b = binary.NativeEndian.AppendUint32(b, uint32(max(f.Length, len(data))))
	w.buf = append(b, data...)
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}
	return nil
}

// A Reader reads what a Writer of the same machine wrote.
type Reader struct {
	r   io.Reader
	buf []byte
}

// NewReader reads the file's header.
func NewReader(r io.Reader) (*Reader, error) {
	h := make([]byte, headerLen)
	if _, err := io.ReadFull(r, h); err != nil {
		return nil, fmt.Errorf("read the capture's header: %w", err)
	}
	if m := binary.NativeEndian.Uint32(h); m != magicNano {
		return nil, fmt.Errorf("read the capture's header: magic number %#x, not %#x", m, uint32(magicNano))
	}
	if l := binary.NativeEndian.Uint32(h[20:]); l != linkEthernet {
		return nil, fmt.Errorf("read the capture's header: link type %d, not Ethernet", l)
	}
	return &Reader{r: r}, nil
}

// Next returns the next frame, whose Data is valid until the following call,
// or io.EOF.
func (r *Reader) Next() (Frame, error) {
	var h [recordLen]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return Frame{}, io.EOF
		}
		return Frame{}, fmt.Errorf("read the capture: %w", err)
	}
	n := binary.NativeEndian.Uint32(h[8:])
	if n > MaxFrame {
		return Frame{}, fmt.Errorf("read the capture: a frame of %d bytes, more than %d", n, MaxFrame)
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, MaxFrame)
	}
	data := r.buf[:n]
	if _, err := io.ReadFull(r.r, data); err != nil {
		return Frame{}, fmt.Errorf("read the capture: %w", io.ErrUnexpectedEOF)
	}
	at := time.Unix(int64(binary.NativeEndian.Uint32(h[:])), int64(binary.NativeEndian.Uint32(h[4:])))
	return Frame{Time: at, Length: int(binary.NativeEndian.Uint32(h[12:])), Data: data}, nil
}
