package httphead

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"outcall/policy/urlpath"
)

// A Form is the form of a request target (RFC 9112 section 3.2).
type Form uint8

// The forms.
const (
	Origin   Form = iota // /path?query
	Absolute             // http://host/path?query, to a proxy
	Tunnel               // host:port, of CONNECT
	Asterisk             // *, of OPTIONS
)

// A Body says how the octets after a head are framed.
type Body struct {
	Chunked bool
	// Length is the number of octets, 0 for none; -1 where only the end of the
	// connection tells (responses).
	Length int64
}

// None reports a message without body.
func (b Body) None() bool { return !b.Chunked && b.Length == 0 }

// A Request is one request's head, read strictly.
type Request struct {
	Method string
	Form   Form
	// Target is the authority of an Absolute or Tunnel target.
	Target Authority
	// Host is the Host field. For Absolute and Tunnel it agrees with Target.
	Host  Authority
	Path  string // normalised; "*" for Asterisk, "" for Tunnel
	Query string // without '?'
	// HasQuery tells "/a?" from "/a".
	HasQuery bool
	Minor    int // HTTP/1.Minor: 0 or 1
	Fields   []Field
	Body     Body
	// Close is set where the client will send no further request.
	Close bool
	// Once is set where the body has no meaning by the method (RFC 9110 section
	// 9.3), so that a server might take it for the next request: the connection
	// to the server must end with the answer.
	Once bool
	// WebSocket is set where an upgrade to it is asked for.
	WebSocket bool
	// Continue is set where the client waits for 100 Continue.
	Continue bool
	// Trailers is set where the client takes trailers.
	Trailers bool

	named []string // what Connection names
}

// maxEarly bounds the heads whose first line is looked at before they are
// whole, so that a head that comes octet by octet costs little.
const maxEarly = 4 << 10

// ParseRequest reads the head at the start of b; n is its length. ErrShort
// asks for more bytes; every other error is final and its text is for people.
func ParseRequest(b []byte) (r *Request, n int, err error) {
	if strings.HasPrefix(string(b[:min(len(b), 14)]), "PRI * HTTP/2.0") {
		return nil, 0, ErrHTTP2
	}
	n, err = end(b)
	if err == ErrShort && len(b) <= maxEarly {
		// A request line that is whole and wrong is told at once: an HTTP/0.9
		// client sends nothing more.
		if line, _, ok := bytes.Cut(b, []byte("\r\n")); ok {
			if lerr := new(Request).startLine(string(line)); lerr != nil {
				err = lerr
			}
		}
	}
	if err != nil {
		return nil, 0, err
	}
	start, fields, err := lines(b[:n])
	if err != nil {
		return nil, 0, err
	}
	r = &Request{Fields: fields}
	if err := r.startLine(start); err != nil {
		return nil, 0, err
	}
	for _, step := range []func() error{r.host, r.connection, r.framing, r.expect} {
		if err := step(); err != nil {
			return nil, 0, err
		}
	}
	return r, n, nil
}

func (r *Request) startLine(s string) error {
	w := strings.Split(s, " ")
	if len(w) != 3 || strings.Contains(s, "\t") {
		return errors.New("malformed request line")
	}
	switch w[2] {
	case "HTTP/1.1":
		r.Minor = 1
	case "HTTP/1.0":
	default:
		return errors.New("unknown protocol version in the request line")
	}
	if !isTokenString(w[0]) || len(w[0]) > maxMethod || w[0] != strings.ToUpper(w[0]) {
		return errors.New("malformed method")
	}
	r.Method = w[0]
	return r.target(w[1])
}

func (r *Request) target(t string) (err error) {
	switch {
	case r.Method == "CONNECT":
		r.Form = Tunnel
		r.Target, err = ParseAuthority(t)
		if err == nil && r.Target.Port == 0 {
			err = errors.New("CONNECT without a port")
		}
		return err
	case t == "*" && r.Method == "OPTIONS":
		r.Form, r.Path = Asterisk, "*"
		return nil
	case t != "" && t[0] == '/':
		r.Form = Origin
		return r.pathQuery(t)
	}
	scheme, rest, ok := strings.Cut(t, "://")
	if !ok {
		return errors.New("malformed request target")
	}
	if !strings.EqualFold(scheme, "http") {
		return errors.New("only http:// can be asked of a proxy; other schemes need CONNECT")
	}
	r.Form = Absolute
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		i = len(rest)
	}
	if r.Target, err = ParseAuthority(rest[:i]); err != nil {
		return err
	}
	pq := rest[i:]
	if pq == "" && r.Method == "OPTIONS" {
		r.Path = "*" // RFC 9112 section 3.2.4
		return nil
	}
	if pq == "" || pq[0] == '?' {
		pq = "/" + pq
	}
	return r.pathQuery(pq)
}

// checkQuery refuses what would end the request line or the target early. It
// is passed on as it is.
func checkQuery(q string) error {
	for i := range len(q) {
		if c := q[i]; c <= 0x20 || c == 0x7f || c == '#' {
			return errors.New("octet in the query that ends a target")
		}
	}
	return nil
}

func (r *Request) pathQuery(t string) (err error) {
	path, query, has := strings.Cut(t, "?")
	if err := checkQuery(query); err != nil {
		return err
	}
	r.Query, r.HasQuery = query, has
	r.Path, err = urlpath.Normal(path)
	return err
}

// host wants exactly one Host (also of HTTP/1.0 in origin form: without it
// nothing tells which name is asked for) and no disagreement with the target.
// A target that names its host is enough for HTTP/1.0: Python's CONNECT has
// no Host.
func (r *Request) host() error {
	v := values(r.Fields, "Host")
	if len(v) == 0 && r.Minor == 0 && (r.Form == Absolute || r.Form == Tunnel) {
		r.Host = r.Target
		return nil
	}
	if len(v) != 1 {
		return fmt.Errorf("%d Host fields", len(v))
	}
	a, err := ParseAuthority(v[0])
	if err != nil {
		return fmt.Errorf("host field: %w", err)
	}
	r.Host = a
	if r.Form != Absolute && r.Form != Tunnel {
		return nil
	}
	def := uint16(80)
	if r.Form == Tunnel {
		// Clients leave the port of Host out, or write it, for a CONNECT.
		def = r.Target.Port
	}
	if a.Host != r.Target.Host || orPort(a.Port, def) != orPort(r.Target.Port, def) {
		return errors.New("the Host does not agree with the request target")
	}
	return nil
}

func orPort(p, def uint16) uint16 {
	if p == 0 {
		return def
	}
	return p
}

// PortOr returns the port that is asked for, def where none is named.
func (a Authority) PortOr(def uint16) uint16 { return orPort(a.Port, def) }

// forbidden are the fields that Connection must not name: their loss would
// change what was judged.
var forbidden = []string{"host", "content-length", "transfer-encoding", "expect", "content-type", "authorization", "cookie"}

func (r *Request) connection() error {
	r.named = list(r.Fields, "Connection")
	for _, n := range r.named {
		if !isTokenString(n) || slices.Contains(forbidden, n) {
			return errors.New("the field Connection names a field that it must not")
		}
	}
	pc := list(r.Fields, "Proxy-Connection")
	keep := slices.Contains(r.named, "keep-alive") || slices.Contains(pc, "keep-alive")
	r.Close = slices.Contains(r.named, "close") || slices.Contains(pc, "close") || r.Minor == 0 && !keep
	r.Trailers = r.Minor == 1 && slices.ContainsFunc(list(r.Fields, "TE"), func(m string) bool { return m == "trailers" })
	r.WebSocket = r.Minor == 1 && r.Method == "GET" && slices.Contains(r.named, "upgrade") &&
		slices.Equal(list(r.Fields, "Upgrade"), []string{"websocket"})
	return nil
}

func (r *Request) framing() (err error) {
	r.Body, err = framing(values(r.Fields, "Transfer-Encoding"), values(r.Fields, "Content-Length"), r.Minor)
	if err != nil {
		return err
	}
	if r.Body.Length < 0 { // neither field: a request has no body then
		r.Body.Length = 0
	}
	if !r.Body.None() && (r.WebSocket || r.Form == Tunnel) {
		return errors.New("a body where none can be")
	}
	if r.Method == "TRACE" && !r.Body.None() {
		return errors.New("a TRACE with a body")
	}
	r.Once = !r.Body.None() && slices.Contains([]string{"GET", "HEAD", "DELETE"}, r.Method)
	return nil
}

// framing applies RFC 9112 section 6.3 where it has one answer, and refuses
// where a server might take another.
func framing(te, cl []string, minor int) (Body, error) {
	switch {
	case len(te) > 0 && len(cl) > 0:
		return Body{}, errors.New("both Content-Length and Transfer-Encoding")
	case len(te) > 1 || len(cl) > 1:
		return Body{}, errors.New("framing given twice")
	case len(te) == 1:
		if !strings.EqualFold(te[0], "chunked") || minor == 0 {
			return Body{}, errors.New("transfer coding other than chunked")
		}
		return Body{Chunked: true}, nil
	case len(cl) == 1:
		if cl[0] == "" || strings.Trim(cl[0], "0123456789") != "" {
			return Body{}, errors.New("malformed Content-Length")
		}
		n, err := strconv.ParseInt(cl[0], 10, 64)
		if err != nil {
			return Body{}, errors.New("a Content-Length out of range")
		}
		return Body{Length: n}, nil
	}
	return Body{Length: -1}, nil
}

func (r *Request) expect() error {
	switch e := list(r.Fields, "Expect"); {
	case len(e) == 0:
	case len(e) == 1 && e[0] == "100-continue" && r.Minor == 1:
		r.Continue = !r.Body.None()
	default:
		return errors.New("an expectation other than 100-continue")
	}
	return nil
}

// Headers returns the end-to-end fields as rules see them: names in lower
// case, several of one name joined with ", ".
func (r *Request) Headers() map[string]string {
	m := make(map[string]string, len(r.Fields))
	for _, f := range r.forwarded() {
		n := strings.ToLower(f.Name)
		if v, ok := m[n]; ok {
			m[n] = v + ", " + f.Value
		} else {
			m[n] = f.Value
		}
	}
	return m
}

func (r *Request) forwarded() []Field { return endToEnd(r.Fields, r.named) }

// Append appends the head as it is sent to an origin: origin form, the judged
// path, Host from the judged authority, hop-by-hop fields dropped, framing
// written anew. closing adds Connection: close.
func (r *Request) Append(b []byte, closing bool) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.Path...)
	if r.HasQuery {
		b = append(append(b, '?'), r.Query...)
	}
	b = append(b, " HTTP/1."...)
	b = append(b, '0'+byte(r.Minor))
	b = appendField(append(b, "\r\n"...), "Host", r.Host.String())
	for _, f := range r.forwarded() {
		if strings.EqualFold(f.Name, "Host") || strings.EqualFold(f.Name, "Expect") && !r.Continue {
			continue
		}
		b = appendField(b, f.Name, f.Value)
	}
	closing = closing || r.Once || r.Minor == 0
	switch {
	case r.WebSocket:
		b = appendField(appendField(b, "Connection", "Upgrade"), "Upgrade", "websocket")
	case r.Trailers && closing:
		b = appendField(appendField(b, "TE", "trailers"), "Connection", "TE, close")
	case r.Trailers:
		b = appendField(appendField(b, "TE", "trailers"), "Connection", "TE")
	case closing:
		b = appendField(b, "Connection", "close")
	}
	b = r.Body.append(b, len(values(r.Fields, "Content-Length")) > 0)
	return append(b, "\r\n"...)
}

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// append writes the framing fields; zero says whether a length of 0 is written.
func (o Body) append(b []byte, zero bool) []byte {
	switch {
	case o.Chunked:
		return appendField(b, "Transfer-Encoding", "chunked")
	case o.Length > 0 || o.Length == 0 && zero:
		return appendField(b, "Content-Length", strconv.FormatInt(o.Length, 10))
	}
	return b
}
