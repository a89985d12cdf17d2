package netstack

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"outcall/netstack/httphead"
)

// exchange sends one judged request to the origin and its response to the
// client. The body goes up while the response comes down.
func (h *httpConn) exchange(ctx context.Context, r *httphead.Request) error {
	o := h.origin
	stop := context.AfterFunc(ctx, o.Abort)
	defer stop()
	closing := r.Close || r.Minor == 0
	if err := h.f.forward(o, r.Append(nil, closing), &h.f.out, nil); err != nil {
		return h.closeWith(err)
	}
	sent := h.sendBody(r)
	up, err := h.response(r, closing)
	if up {
		return h.tunnel()
	}
	if err == nil || errors.Is(err, errDone) {
		// A server may answer before it has the whole body, and then it is done.
		select {
		case berr := <-sent:
			if berr != nil {
				err = errDone
			}
			return err
		case <-time.After(h.s.times.linger):
		}
		err = errDone
	}
	o.Abort()
	_ = h.c.SetReadDeadline(past) // frees the body's goroutine
	<-sent
	return err
}

// sendBody copies the request's body on a goroutine of its own; the channel
// tells that nothing of it reads or writes any more.
func (h *httpConn) sendBody(r *httphead.Request) <-chan error {
	done := make(chan error, 1)
	if r.Body.None() {
		done <- nil
		return done
	}
	o, br := h.origin, h.br
	h.s.wg.Go(func() {
		err := errors.New("internal error")
		h.s.guard("request body", func() { err = h.copyBody(o, br, r.Body, true, &h.f.out) })
		if err != nil {
			o.Abort() // a half-sent body must not look like a whole one
		}
		done <- err
	})
	return done
}

// copyBody copies one framed body. Chunked ones are framed anew where chunk is
// set, and come out plain otherwise.
func (h *httpConn) copyBody(dst io.Writer, br *bufio.Reader, b httphead.Body, chunk bool, count *atomic.Int64) error {
	switch {
	case b.Chunked:
		w := dst
		if chunk {
			w = chunkWriter{dst}
		}
		if err := h.f.pump(w, httphead.NewChunked(br), count, nil); err != nil || !chunk {
			return err
		}
		_, err := dst.Write(httphead.AppendChunk(nil, 0))
		return err
	case b.Length < 0:
		return h.f.pump(dst, br, count, nil)
	}
	l := &io.LimitedReader{R: br, N: b.Length}
	if err := h.f.pump(dst, l, count, nil); err != nil {
		return err
	}
	if l.N > 0 {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// chunkWriter writes each block as one chunk.
type chunkWriter struct{ w io.Writer }

func (c chunkWriter) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b)+16)
	out = append(append(httphead.AppendChunk(out, len(b)), b...), "\r\n"...)
	if _, err := c.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// response reads and passes on the answer, interim ones included. upgraded
// tells that the connection is a WebSocket now.
func (h *httpConn) response(r *httphead.Request, closing bool) (upgraded bool, err error) {
	for first := true; ; first = false {
		resp, err := h.responseHead(r.Method)
		if err != nil {
			if first {
				return false, h.closeWith(err)
			}
			return false, err
		}
		switch {
		case resp.Status == 101:
			if !r.WebSocket || !resp.Switching() {
				return false, h.closeWith(errors.New("the server switched protocols unasked"))
			}
			_, err = h.c.Write(resp.Append(nil, httphead.Body{}, false))
			return err == nil, err
		case resp.Status < 200:
			if r.Minor == 0 {
				continue // RFC 9110 section 15.2: not to a 1.0 client
			}
			if _, err := h.c.Write(resp.Append(nil, httphead.Body{}, false)); err != nil {
				return false, err
			}
			continue
		}
		return false, h.finalResponse(r, resp, closing)
	}
}

// finalResponse passes the answer on, framed as the client can read it.
func (h *httpConn) finalResponse(r *httphead.Request, resp *httphead.Response, closing bool) error {
	out := resp.Body
	if out.Chunked && r.Minor == 0 {
		out = httphead.Body{Length: -1}
	}
	ends := closing || resp.Close || out.Length < 0 && !out.Chunked
	if err := h.f.forward(h.c, resp.Append(nil, out, ends), &h.f.in, nil); err != nil {
		return err
	}
	if err := h.copyBody(h.c, h.origin.br, resp.Body, out.Chunked, &h.f.in); err != nil {
		return err
	}
	if ends {
		return errDone
	}
	return nil
}

func (h *httpConn) responseHead(method string) (*httphead.Response, error) {
	o := h.origin
	for {
		b, _ := o.br.Peek(o.br.Buffered()) // what is buffered is there
		if len(b) > 0 {
			resp, n, err := httphead.ParseResponse(b, method)
			if err == nil {
				_, _ = o.br.Discard(n)
				h.f.touch()
				return resp, nil
			}
			if !errors.Is(err, httphead.ErrShort) {
				return nil, err
			}
		}
		var err error
		if o.br, err = more(o.br, o.stream, len(b)); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// tunnel relays a WebSocket both ways, what is buffered first. There is no
// idle limit.
func (h *httpConn) tunnel() error {
	o := h.origin
	done := make(chan struct{})
	h.s.wg.Go(func() {
		defer close(done)
		err := errors.New("internal error")
		h.s.guard("tunnel", func() { err = h.f.pump(h.c, o.br, &h.f.in, nil) })
		finishWrite(h.c, o, err)
	})
	_ = h.c.SetReadDeadline(time.Time{})
	err := h.f.pump(o, h.br, &h.f.out, nil)
	finishWrite(o, h.c, err)
	<-done
	return errDone
}
