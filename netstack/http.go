package netstack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"outcall/netstack/httphead"
	"outcall/policy"
)

// An httpConn serves one client connection of plain HTTP, transparent or to
// the explicit proxy: one request at a time, each with its own verdict.
//
//	head ─ malformed: 400, close
//	     └ judge ─ deny: 403, close
//	             └ origin (dialled already, or by the target) ─ fails: 502, 504
//	                └ head, body → origin; response → client ─ 101: tunnel
//
// Requests that a client sends ahead wait in the buffer: nothing of them leaves
// before the response before them is complete.
type httpConn struct {
	s    *Stack
	f    *flow
	c    stream
	in   source // of the client's octets: c, behind those that were read already
	br   *bufio.Reader
	proc *policy.Process

	// dst and name are those of a transparent flow, whose origin stands.
	transparent bool
	dst         netip.AddrPort
	name        string

	origin *origin
	asked  string // the host that a transparent origin was asked for last
}

// newHTTPConn serves c, of which first was read already.
func newHTTPConn(s *Stack, f *flow, c stream, first []byte) *httpConn {
	in := &prefixed{first: first, source: c}
	return &httpConn{s: s, f: f, c: c, in: in, br: bufio.NewReaderSize(in, smallBuffer)}
}

// An origin is the connection to the server.
type origin struct {
	stream
	br  *bufio.Reader
	key string // name, address and port that it was dialled for
}

func newOrigin(c stream, key string) *origin {
	return &origin{stream: c, br: bufio.NewReaderSize(c, smallBuffer), key: key}
}

// errDone ends a connection in the ordinary way.
var errDone = errors.New("the connection is done")

// serveHTTP takes a transparent flow over as HTTP.
func (d *duplex) serveHTTP(ctx context.Context, first []byte) {
	if err := d.stopDown(); !timedOut(err) {
		d.agent.Abort() // the server ended before the request
		return
	}
	h := newHTTPConn(d.s, d.f, d.agent, first)
	h.proc, h.transparent, h.dst, h.name, h.origin = d.proc, true, d.dst, d.name, newOrigin(d.up, "")
	h.serve(ctx)
}

// serve handles requests until the connection is done, and closes both sides.
func (h *httpConn) serve(ctx context.Context) {
	defer func() {
		if h.origin != nil {
			_ = h.origin.Close()
		}
	}()
	for ctx.Err() == nil {
		r, err := h.head()
		if err == nil {
			err = h.handle(ctx, r)
		}
		if err == nil {
			continue
		}
		if errors.Is(err, errDone) || errors.Is(err, io.EOF) {
			h.s.lastWords(h.c, nil)
		} else {
			h.c.Abort()
		}
		return
	}
	h.c.Abort()
}

// head reads the next request's head. Malformed ones are answered here.
func (h *httpConn) head() (*httphead.Request, error) {
	if err := h.awaitFirst(); err != nil {
		return nil, err
	}
	_ = h.c.SetReadDeadline(time.Now().Add(h.s.times.first))
	defer h.c.SetReadDeadline(time.Time{})
	for {
		b, _ := h.br.Peek(h.br.Buffered()) // what is buffered is there
		r, n, err := httphead.ParseRequest(b)
		if err == nil {
			_, _ = h.br.Discard(n)
			h.f.touch()
			return r, nil
		}
		if errors.Is(err, httphead.ErrShort) {
			if h.br, err = more(h.br, h.in, len(b)); err == nil {
				continue
			}
			if !timedOut(err) && err != io.EOF {
				return nil, err
			}
			err = fmt.Errorf("%w in %s", httphead.ErrShort, h.s.times.first)
		}
		return nil, h.malformed(err)
	}
}

// more waits for at least one octet beyond the n that are buffered, in a larger
// buffer where they fill it.
func more(br *bufio.Reader, src io.Reader, n int) (*bufio.Reader, error) {
	if n == br.Size() {
		old, _ := br.Peek(n)
		head := bytes.NewReader(bytes.Clone(old))
		br = bufio.NewReaderSize(io.MultiReader(head, src), min(4*n, httphead.MaxHead+1))
		if _, err := br.Peek(n); err != nil {
			return br, err
		}
	}
	_, err := br.Peek(n + 1)
	return br, err
}

// awaitFirst waits for the first octet of a request; a server that ends
// meanwhile ends the client's side, too.
func (h *httpConn) awaitFirst() error {
	if h.br.Buffered() > 0 {
		return nil
	}
	_ = h.c.SetReadDeadline(time.Now().Add(h.s.times.idle))
	gone := h.watchOrigin()
	_, err := h.br.Peek(1)
	if gone() && err == nil {
		err = io.EOF
	}
	if timedOut(err) {
		return errDone
	}
	return err
}

// watchOrigin interrupts the wait for a request when the server ends or speaks
// unasked. The returned function ends the watch and reports that.
func (h *httpConn) watchOrigin() (gone func() bool) {
	o := h.origin
	if o == nil {
		return func() bool { return false }
	}
	done := make(chan error, 1)
	h.s.wg.Go(func() {
		_, err := o.br.Peek(1)
		if !timedOut(err) {
			_ = h.c.SetReadDeadline(past)
		}
		done <- err
	})
	return func() bool {
		_ = o.SetReadDeadline(past)
		err := <-done
		_ = o.SetReadDeadline(time.Time{})
		return !timedOut(err)
	}
}

// malformed refuses what cannot be read in one way only.
func (h *httpConn) malformed(err error) error {
	reason := "malformed HTTP request: " + err.Error()
	if errors.Is(err, httphead.ErrHTTP2) {
		reason = err.Error()
	}
	r := structural(reason)
	id := newID()
	h.s.verdict(policy.LayerRequest, r, eventOf(id, h.dst, policy.TCP, h.name, h.proc))
	status := 400
	switch {
	case errors.Is(err, httphead.ErrHTTP2):
		status = 403
	case errors.Is(err, httphead.ErrTooLong):
		status = 431
	case errors.Is(err, httphead.ErrShort):
		status = 408
	}
	if errors.Is(err, httphead.ErrHTTP2) {
		h.end(httphead.RefuseHTTP2(refusalText(status, r, id)))
		return errDone
	}
	h.end(refusal(status, r, id, false))
	return errDone
}

// end sends a last answer: the server's side is closed first.
func (h *httpConn) end(words []byte) {
	if !h.transparent && (bytes.HasPrefix(words, []byte("HTTP/1.1 400")) || bytes.HasPrefix(words, []byte("HTTP/1.1 403"))) {
		h.s.stats.proxyBlocked.Add(1)
	}
	if h.origin != nil {
		h.origin.Abort()
	}
	h.s.lastWords(h.c, words)
}

// handle serves one request. errDone ends the connection.
func (h *httpConn) handle(ctx context.Context, r *httphead.Request) error {
	if !h.transparent {
		h.s.stats.proxyRequests.Add(1)
		return h.explicit(ctx, r)
	}
	if r.Form == httphead.Tunnel {
		return h.malformed(errors.New("CONNECT to a host that is not the proxy"))
	}
	if p := r.Host.Port; p != 0 && p != h.dst.Port() {
		return h.malformed(errors.New("the port in Host is not the one that is dialled"))
	}
	id := newID()
	rul := h.judge(r, h.dst)
	e := h.event(id, r, h.dst)
	rul = h.s.verdict(policy.LayerRequest, rul, e)
	if !rul.pass {
		h.end(refusal(403, rul, id, r.Method == "HEAD"))
		return errDone
	}
	if err := h.separate(ctx, r); err != nil {
		return h.closeWith(err)
	}
	return h.exchange(ctx, r)
}

// separate gives a request for another name of the address a connection of its
// own: a server may lead all of one connection to where its first request went.
func (h *httpConn) separate(ctx context.Context, r *httphead.Request) error {
	was := h.asked
	h.asked = r.Host.Host
	if was == "" || was == h.asked {
		return nil
	}
	_ = h.origin.Close()
	h.origin = nil
	name := r.Host.Host
	if r.Host.IsAddr() {
		name = ""
	}
	up, err := h.s.dial(ctx, name, h.dst)
	if err != nil {
		return err
	}
	h.origin = newOrigin(up, "")
	return nil
}

// requestFacts are the facts of one request towards dst, whose address may be
// unknown yet.
func (h *httpConn) requestFacts(r *httphead.Request, dst netip.AddrPort) *policy.Facts {
	f := h.s.facts(policy.LayerRequest, h.proc, dst, policy.TCP)
	size := int64(-1)
	if !r.Body.Chunked {
		size = r.Body.Length
	}
	f.SetRequest(policy.HTTP{Host: r.Host.Host, Method: r.Method, Path: r.Path, Query: r.Query,
		Headers: r.Headers(), BodySize: size}, r.Host.IsAddr())
	return f
}

// judge asks for the verdict on one request to a dialled or chosen address.
func (h *httpConn) judge(r *httphead.Request, dst netip.AddrPort) ruling {
	snap := h.s.snapshot()
	if snap == nil {
		return structural("no rules are loaded")
	}
	facts := h.requestFacts(r, dst)
	var cands []policy.Candidate
	if dst.Addr().IsValid() {
		cands = h.s.candidates(h.f, facts.Name(), dst.Addr())
	}
	rul := h.s.rule(facts, snap.Content(facts, dst.Addr(), cands, h.s.cfg.Host()), len(cands) > 0)
	if rul.pass && dst.Addr().IsValid() {
		h.f.hold(h.s.cfg.Pins, facts.Name(), dst.Addr())
		h.f.bind(r.Host.Host, dst, step{policy.LayerRequest, facts, dst.Addr(), rul.allowedBy()})
		if !h.s.current(h.f, snap) {
			return structural(errRevoked.Error())
		}
	}
	return rul
}

func (h *httpConn) event(id string, r *httphead.Request, dst netip.AddrPort) policy.Event {
	e := eventOf(id, dst, policy.TCP, r.Host.Host, h.proc)
	e.Method, e.Path = r.Method, r.Path
	return e
}

// refusal is a denial in an HTTP answer (contract 6), or a 400.
func refusal(status int, r ruling, id string, head bool) []byte {
	return answer(status, "X-Outcall-Block-Reason: "+r.RuleID()+"\r\n", "text/plain; charset=utf-8", refusalText(status, r, id), head)
}

func refusalText(status int, r ruling, id string) string {
	body := fmt.Sprintf("Blocked by outcall: %s (%s)\n%s\n", r.RuleID(), id, r.Reason)
	if status == 403 {
		body += "`outcall explain` shows the verdict step by step, and the smallest rule that would allow it.\n"
	}
	return body
}

var statusText = map[int]string{200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 408: "Request Timeout",
	431: "Request Header Fields Too Large", 502: "Bad Gateway", 504: "Gateway Timeout"}

// answer is a whole response of ours; the connection ends with it.
func answer(status int, extra, typ, body string, head bool) []byte {
	a := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: %s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n",
		status, statusText[status], typ, extra, len(body))
	if !head {
		a += body
	}
	return []byte(a)
}

// closeWith ends a failed exchange before any of a response was sent.
func (h *httpConn) closeWith(err error) error {
	if h.transparent && !errors.Is(err, errAnswer) {
		return net.ErrClosed // the client sees what it would see without us
	}
	status, text := failure(err)
	h.end(answer(status, "", "text/plain; charset=utf-8", "outcall: "+text+"\n", false))
	return errDone
}
