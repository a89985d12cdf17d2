package httphead

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// maxTrailer bounds the trailer section.
const maxTrailer = 8 << 10

// A Chunked reads a chunked body (RFC 9112 section 7.1) strictly: CRLF only,
// sizes of at most 15 hexadecimal digits, extensions refused where they hold
// a control octet and dropped otherwise. The body's end is io.EOF; every other
// end is an error.
type Chunked struct {
	// Trailers are the fields behind the body, once it has ended.
	Trailers []Field

	r    *bufio.Reader
	left int64
	err  error
	any  bool
}

// NewChunked returns a reader of the body that starts at r's position; it
// consumes exactly the body.
func NewChunked(r *bufio.Reader) *Chunked { return &Chunked{r: r} }

// Read implements io.Reader.
func (c *Chunked) Read(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.left == 0 {
		if c.err = c.next(); c.err != nil {
			return 0, c.err
		}
	}
	n, err := c.r.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	if err != nil {
		c.err = NoEOF(err)
	}
	return n, c.err
}

// Next reads the size line of the next chunk, for a caller who then reads that
// many octets from the body's reader and calls Next again. At the body's end it
// returns io.EOF.
func (c *Chunked) Next() (size int64, err error) {
	if c.err == nil {
		c.err = c.next()
	}
	size, c.left = c.left, 0
	return size, c.err
}

// NoEOF is err where the end of the stream is one too early.
func NoEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next reads the size line of the next chunk, after the CRLF of the last one.
func (c *Chunked) next() error {
	if c.any {
		if l, err := c.line(2); err != nil || l != "" {
			return orMalformed(err)
		}
	}
	c.any = true
	l, err := c.line(1 << 10)
	if err != nil {
		return err
	}
	digits := 0
	for digits < len(l) {
		if strings.IndexByte("0123456789abcdefABCDEF", l[digits]) < 0 {
			break
		}
		digits++
	}
	if digits == 0 || digits > 15 || digits < len(l) && l[digits] != ';' || clean(l) != nil {
		return errChunk
	}
	c.left, err = strconv.ParseInt(l[:digits], 16, 64)
	if err != nil {
		return errChunk
	}
	if c.left > 0 {
		return nil
	}
	return c.trailers()
}

var errChunk = errors.New("malformed chunked body")

func orMalformed(err error) error {
	if err == nil {
		return errChunk
	}
	return err
}

func (c *Chunked) trailers() error {
	for room := maxTrailer; ; {
		l, err := c.line(room)
		if err != nil {
			return err
		}
		if l == "" {
			return io.EOF
		}
		f, err := field(l)
		if err != nil {
			return err
		}
		if !slices.Contains(neverTrailer, strings.ToLower(f.Name)) && !hopByHop[strings.ToLower(f.Name)] {
			c.Trailers = append(c.Trailers, f)
		}
		if room -= len(l) + 2; room <= 2 {
			return fmt.Errorf("trailers longer than %d octets", maxTrailer)
		}
	}
}

// neverTrailer are the end-to-end fields that a client must not find behind a
// body (RFC 9110 section 6.5.1).
var neverTrailer = []string{"host", "set-cookie", "content-type", "content-encoding", "content-range", "location", "www-authenticate", "cache-control"}

// line reads one CRLF line of at most limit octets, its end included.
func (c *Chunked) line(limit int) (string, error) {
	var b []byte
	for {
		o, err := c.r.ReadByte()
		if err != nil {
			return "", NoEOF(err)
		}
		if b = append(b, o); len(b) > limit {
			return "", errChunk
		}
		if o != '\n' {
			continue
		}
		if len(b) < 2 || b[len(b)-2] != '\r' {
			return "", errBareLF
		}
		return string(b[:len(b)-2]), nil
	}
}

// AppendChunk appends the size line of a chunk of n octets, at least one; the
// data and a CRLF follow it.
func AppendChunk(b []byte, n int) []byte {
	return append(strconv.AppendInt(b, int64(n), 16), "\r\n"...)
}

// AppendLastChunk appends the end of a chunked body.
func AppendLastChunk(b []byte, trailers []Field) []byte {
	b = append(b, "0\r\n"...)
	for _, f := range trailers {
		b = appendField(b, f.Name, f.Value)
	}
	return append(b, "\r\n"...)
}
