package netstack

import (
	"bufio"
	"bytes"
	"io"
	"sync/atomic"

	"outcall/netstack/httphead"
)

// prefixed is a source behind octets that were read from it already.
type prefixed struct {
	first []byte
	source
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) == 0 {
		return p.source.Read(b)
	}
	n := copy(b, p.first)
	if p.first = p.first[n:]; len(p.first) == 0 {
		p.first = nil
	}
	return n, nil
}

// Wait implements source.
func (p *prefixed) Wait() (int, error) {
	if len(p.first) > 0 {
		return len(p.first), nil
	}
	return p.source.Wait()
}

// Ready implements source.
func (p *prefixed) Ready() int {
	if len(p.first) > 0 {
		return len(p.first)
	}
	return p.source.Ready()
}

// read is a source through a bufio.Reader, which holds what was read of from
// and not used yet. Where it holds nothing, large reads go by it.
type read struct {
	*bufio.Reader
	from source
}

// Wait implements source.
func (r read) Wait() (int, error) {
	if r.Buffered() > 0 {
		return r.Ready(), nil
	}
	return r.from.Wait()
}

// Ready implements source.
func (r read) Ready() int { return r.Buffered() + r.from.Ready() }

// bounded is a source that ends after left octets.
type bounded struct {
	source
	left int64
}

func (c *bounded) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.source.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

// Wait implements source.
func (c *bounded) Wait() (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.source.Wait()
	return int(min(int64(n), c.left)), err
}

// Ready implements source.
func (c *bounded) Ready() int { return int(min(int64(c.source.Ready()), c.left)) }

// copyBody copies one framed body. Chunked ones are framed anew where chunk is
// set, and come out plain otherwise. A request loses its trailers: no rule saw
// them, and some servers take them for fields of the head.
func (h *httpConn) copyBody(dst io.Writer, src read, b httphead.Body, chunk bool, count *atomic.Int64) error {
	switch {
	case b.Chunked:
		return h.f.pump(dst, newChunks(src, chunk, dst != io.Writer(h.origin)), count, nil)
	case b.Length < 0:
		return h.f.pump(dst, src, count, nil)
	}
	c := &bounded{source: src, left: b.Length}
	if err := h.f.pump(dst, c, count, nil); err != nil {
		return err
	}
	if c.left > 0 {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// chunks is the source of a chunked body: framed anew, chunk by chunk of the
// same size (up to maxChunk), or plain. What it holds is at most a size line.
type chunks struct {
	src      read
	in       *httphead.Chunked
	framed   bool
	trailers bool // pass them on

	left int64  // octets of the current chunk that have not been read
	rest int64  // octets of what came as one chunk with it, for the next ones
	line []byte // framing that goes before what comes next
	end  bool   // nothing comes behind line
}

func newChunks(src read, framed, trailers bool) *chunks {
	return &chunks{src: src, in: httphead.NewChunked(src.Reader), framed: framed, trailers: trailers}
}

// Ready implements source.
func (c *chunks) Ready() int {
	if c.left == 0 {
		return len(c.line)
	}
	n := int64(c.src.Ready())
	if n == 0 {
		return 0 // a size without an octet says nothing
	}
	if n < c.left || !c.framed {
		return len(c.line) + int(min(n, c.left))
	}
	return len(c.line) + int(c.left) + len(crlf)
}

const crlf = "\r\n"

// maxChunk bounds the chunks that go on: larger ones are split. A server that
// keeps 32 bits of a size would take the rest of the chunk for a request, which
// nobody judged.
const maxChunk = 16 << 20

// Wait implements source.
func (c *chunks) Wait() (int, error) {
	for c.left == 0 && len(c.line) == 0 {
		if c.end {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if c.left > 0 {
		if _, err := c.src.Wait(); err != nil {
			return 0, httphead.NoEOF(err)
		}
	}
	return c.Ready(), nil
}

func (c *chunks) Read(b []byte) (n int, err error) {
	for n < len(b) {
		k := 0
		switch {
		case len(c.line) > 0:
			k = copy(b[n:], c.line)
			c.line = c.line[k:]
		case c.left > 0 && (n == 0 || c.src.Ready() > 0):
			k, err = c.src.Read(b[n:min(int64(len(b)), int64(n)+c.left)])
			if c.left -= int64(k); c.left == 0 && c.framed {
				c.line = []byte(crlf)
			}
			err = httphead.NoEOF(err)
		case c.left == 0 && c.end && n == 0:
			err = io.EOF
		case c.left == 0 && !c.end && (n == 0 || c.lineReady()):
			err = c.next()
		default:
			return n, nil
		}
		if n += k; err != nil {
			return n, err
		}
	}
	return n, nil
}

// next reads a size line, which may wait, or goes on in a chunk that is split.
func (c *chunks) next() (err error) {
	if c.rest == 0 {
		c.rest, err = c.in.Next()
	}
	switch {
	case err == io.EOF:
		c.end = true
		if !c.framed {
			return nil
		}
		var trailers []httphead.Field
		if c.trailers {
			trailers = c.in.Trailers
		}
		c.line = httphead.AppendLastChunk(c.line, trailers)
		return nil
	case err != nil:
		return err
	}
	c.left = min(c.rest, maxChunk)
	if c.rest -= c.left; c.framed {
		c.line = httphead.AppendChunk(c.line, int(c.left))
	}
	return nil
}

// lineReady reports that the next chunk's size line is there whole, behind the
// CRLF of the one before. The last one's is not, since trailers may follow.
func (c *chunks) lineReady() bool {
	if c.src.Ready() == 0 {
		return false
	}
	if c.rest > 0 {
		return true // of our making
	}
	if _, err := c.src.Peek(1); err != nil {
		return false
	}
	b, _ := c.src.Peek(c.src.Buffered()) // what is buffered is there
	b, ok := bytes.CutPrefix(b, []byte(crlf))
	return ok && b != nil && bytes.IndexByte(b, '\n') > 0 && b[0] != '0'
}
