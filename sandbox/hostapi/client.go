package hostapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Limits of the client.
const (
	maxAnswer = 64 << 20 // a rule list of 10,000 rules, with room
	// MaxLine bounds one audit line of the event stream.
	MaxLine = 1 << 20
)

// A Client speaks to one session. It is safe for concurrent use.
type Client struct {
	path string
	http *http.Client
}

// An UnreachableError says that nothing answers at a socket.
type UnreachableError struct {
	Path string
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("daemon unreachable (%s: %s)", e.Path, cause(e.Err))
}

// Unwrap returns the kernel's answer.
func (e *UnreachableError) Unwrap() error { return e.Err }

// cause is the innermost text: the kernel's answer without the operations
// that led to it.
func cause(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return syscall.ENOENT.Error()
	}
	return err.Error()
}

// A StatusError is a refusal by the server.
type StatusError struct {
	Status int
	Text   string
	Code   int // of an exec: 126 or 127, else 0
}

func (e *StatusError) Error() string { return e.Text }

// NewClient returns a client for the socket at path. Nothing is dialled yet.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableKeepAlives: true,
	}}
	return c
}

// dial connects and looks at the server before a byte is sent.
func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	if len(c.path) > maxSocketPath {
		return nil, &UnreachableError{c.path, syscall.ENAMETOOLONG}
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, &UnreachableError{c.path, err}
	}
	u := conn.(*net.UnixConn)
	if err := CheckPeer(u); err != nil {
		u.Close()
		return nil, fmt.Errorf("the server at %s is not yours, nothing was sent: %w", c.path, err)
	}
	return u, nil
}

// Call does one call and decodes its data into out, which may be nil. in is
// sent as JSON, nil as no body. A refusal is a *StatusError.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var e answer
	if err := e.read(resp); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(e.Data, out); err != nil {
		return fmt.Errorf("%s %s: malformed answer: %w", method, path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	// The host is a name for HTTP's sake; the transport dials the socket.
	req, err := http.NewRequestWithContext(ctx, method, "http://outcall"+prefix+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.plain(err)
	}
	return resp, nil
}

// plain takes net/http's own words off an error of ours, and names a server
// that went away in between.
func (c *Client) plain(err error) error {
	if e, ok := errors.AsType[*UnreachableError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*PeerError](err); ok {
		return fmt.Errorf("the server at %s is not yours, nothing was sent: %w", c.path, e)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return &UnreachableError{c.path, errors.New("it closed the connection")}
	}
	return err
}

// answer is the envelope as the client reads it.
type answer struct {
	OK    bool            `json:"ok"`
	Data  json.RawMessage `json:"data"`
	Error string          `json:"error"`
}

func (a *answer) read(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("read the answer: more than %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(b, a); err != nil {
		return fmt.Errorf("malformed answer (status %d): %w", resp.StatusCode, err)
	}
	if a.OK && resp.StatusCode < 400 {
		return nil
	}
	e := &StatusError{Status: resp.StatusCode, Text: a.Error}
	var d struct{ Code int }
	if len(a.Data) > 0 && json.Unmarshal(a.Data, &d) == nil {
		e.Code = d.Code
	}
	return e
}

// Events calls emit with each audit line of the session, with follow until
// the session ends or ctx does. The line is valid until emit returns.
func (c *Client) Events(ctx context.Context, follow bool, emit func(line []byte) error) error {
	path := "/events"
	if follow {
		path += "?follow=true"
	}
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return new(answer).read(resp)
	}
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(make([]byte, 64<<10), MaxLine)
	for sc.Scan() {
		if err := emit(sc.Bytes()); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil && ctx.Err() == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read the events: %w", err)
	}
	return nil
}
