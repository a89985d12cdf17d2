package netstack

import (
	"context"
	"errors"
	"fmt"
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
	if o.br.Buffered() > 0 {
		// It would be taken for the answer to this request.
		return h.closeWith(fmt.Errorf("%w: it sent more than the one before", errAnswer))
	}
	closing := r.Close || r.Once || r.Minor == 0
	if err := h.f.forward(o, r.Append(nil, closing), &h.f.out, nil); err != nil {
		return h.closeWith(err)
	}
	up := h.send(r)
	upgraded, err := h.response(r, closing, up)
	if upgraded {
		return h.tunnel()
	}
	if err == nil || errors.Is(err, errDone) {
		if up.finish(h.s.times.linger) {
			return err
		}
		err = errDone // the server has answered, and does not want the rest
	}
	o.Abort()
	up.finish(0)
	return err
}

// An upload is the client's half of an exchange: it copies the body, and then
// watches for the client's end, which the server is told of as it would be
// without us. Nothing else reads from the client until finish.
type upload struct {
	h    *httpConn
	sent chan error    // the body has left, or failed
	done chan struct{} // nothing of it reads or writes any more
	told atomic.Bool   // it is decided whether the body goes
	ask  chan bool     // what the server decided
}

// send starts the upload of a request's body.
func (h *httpConn) send(r *httphead.Request) *upload {
	u := &upload{h: h, sent: make(chan error, 1), done: make(chan struct{}), ask: make(chan bool, 1)}
	if r.WebSocket {
		u.sent <- nil
		close(u.done)
		return u
	}
	o, br := h.origin, h.br
	h.s.wg.Go(func() {
		defer close(u.done)
		err := errors.New("internal error")
		h.s.guard("request body", func() {
			if err = u.wait(r); err == nil {
				err = h.copyBody(o, read{br, h.in}, r.Body, true, &h.f.out)
			}
		})
		if err != nil && err != errUnwanted {
			o.Abort() // a half-sent body must not look like a whole one
		}
		u.sent <- err
		if err != nil {
			return
		}
		switch _, err := br.Peek(1); {
		case err == io.EOF:
			_ = o.CloseWrite() // the answer may come all the same
		case err != nil && !timedOut(err):
			o.Abort()
		}
	})
	return u
}

// errUnwanted ends an upload whose body the server answered without.
var errUnwanted = errors.New("the server does not want the body")

// wait holds the body of a client that asked first. A server that has answered
// for good might take a body that comes after that for the next request. One
// that says nothing gets it in the end, as by any client.
func (u *upload) wait(r *httphead.Request) error {
	if !r.Continue {
		return nil
	}
	t := time.NewTimer(u.h.s.times.ask)
	defer t.Stop()
	select {
	case wanted := <-u.ask:
		if !wanted {
			return errUnwanted
		}
	case <-t.C:
		if !u.told.CompareAndSwap(false, true) && !<-u.ask {
			return errUnwanted
		}
	}
	return nil
}

// answered tells of the server's first word, and reports that it decides.
func (u *upload) answered(wanted bool) bool {
	first := u.told.CompareAndSwap(false, true)
	if first {
		u.ask <- wanted
	}
	return first
}

// finish ends the upload and reports whether the whole body has left; d is how
// long it may still take.
func (u *upload) finish(d time.Duration) bool {
	whole := false
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-u.sent:
		whole = err == nil
	case <-t.C:
		_ = u.answered(false)
		u.h.origin.Abort() // it does not read
	}
	_ = u.h.c.SetReadDeadline(past)
	<-u.done
	_ = u.h.c.SetReadDeadline(time.Time{})
	return whole
}

// errAnswer is an answer of the server that cannot be passed on.
var errAnswer = errors.New("the server's answer cannot be read in one way")

// maxInterim bounds the 1xx answers to one request.
const maxInterim = 64

// response reads and passes on the answer, interim ones included. upgraded
// tells that the connection is a WebSocket now.
func (h *httpConn) response(r *httphead.Request, closing bool, up *upload) (upgraded bool, err error) {
	for n := 0; n <= maxInterim; n++ {
		first := n == 0
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
				return false, h.closeWith(fmt.Errorf("%w: it switches protocols unasked", errAnswer))
			}
			_, err = h.c.Write(resp.Append(nil, httphead.Body{}, false))
			return err == nil, err
		case resp.Status < 200:
			if resp.Status == 100 {
				_ = up.answered(true)
			}
			if r.Minor == 0 {
				continue // RFC 9110 section 15.2: not to a 1.0 client
			}
			if _, err := h.c.Write(resp.Append(nil, httphead.Body{}, false)); err != nil {
				return false, err
			}
			continue
		}
		unwanted := up.answered(false) && r.Continue
		return false, h.finalResponse(r, resp, closing || unwanted)
	}
	return false, fmt.Errorf("%w: more than %d interim ones", errAnswer, maxInterim)
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
	if err := h.copyBody(h.c, read{h.origin.br, h.origin.stream}, resp.Body, out.Chunked, &h.f.in); err != nil {
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
				return nil, fmt.Errorf("%w: %w", errAnswer, err)
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
		h.s.guard("tunnel", func() { err = h.f.pump(h.c, read{o.br, o.stream}, &h.f.in, nil) })
		finishWrite(h.c, o, err)
	})
	_ = h.c.SetReadDeadline(time.Time{})
	err := h.f.pump(o, read{h.br, h.in}, &h.f.out, nil)
	finishWrite(o, h.c, err)
	<-done
	return errDone
}
