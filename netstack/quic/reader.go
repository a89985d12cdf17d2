package quic

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"outcall/netstack/hello"
)

// Limits of one flow. Beyond each, the answer is Malformed and the flow ends.
const (
	// MaxHeld and MaxHeldOctets bound the datagrams that are held for a
	// message to become whole: a client's first flight with early data, and
	// its repetitions while nothing leaves.
	MaxHeld       = 64
	MaxHeldOctets = 96 << 10
	// MaxConns is how many connections of a flow are known at a time. One that
	// is complete makes room for another.
	MaxConns = 8
	// MaxBuffered bounds the streams of all connections together.
	MaxBuffered = 2 * MaxStream
)

// An Answer is what a datagram comes to.
type Answer uint8

const (
	// NotQUIC: no long header of QUIC, in a flow without a hello. It is judged
	// as any other UDP; the reader must still see every datagram after it.
	NotQUIC Answer = iota
	// NeedMore: hold it. A ClientHello is not whole yet.
	NeedMore
	// Complete: every ClientHello so far is whole and asks for Report.Hello.
	// With First it is judged now. What was held may leave, then this one.
	Complete
	// Pass: it may leave, alone; what is held stays held.
	Pass
	// UnknownVersion: it could be QUIC of a version that nobody here reads, and
	// must not leave. The reader goes on.
	UnknownVersion
	// Malformed: it must not leave, and no datagram after it.
	Malformed
)

func (a Answer) String() string {
	return [...]string{"not QUIC", "need more", "complete", "pass", "unknown version", "malformed"}[a]
}

// A Report is the answer to one datagram.
type Report struct {
	Answer  Answer
	First   bool        // Complete: the flow's first hello
	Hello   hello.Hello // Complete
	Version uint32      // of a long header
	Err     error       // why UnknownVersion or Malformed
}

var (
	errUnreadable = errors.New("an Initial that no key of the flow opens")
	errTwoKeys    = errors.New("an Initial that opens with two keys")
	errNumber     = errors.New("a packet number with two readings")
	errDiffers    = errors.New("another ClientHello differs in name, ALPN or ECH")
	errShared     = errors.New("two ClientHellos under one connection ID")
)

// A Reader follows the client's side of one UDP flow.
type Reader struct {
	seen  *Seen
	conns []*conn      // the last one used is last
	asks  *hello.Hello // what the flow's hellos ask for, once one is whole
	err   error        // Malformed for good

	held, heldOctets int
}

// A conn is one connection of the client.
type conn struct {
	id       []byte // of its first Initial
	v1, v2   *keys  // made when first needed
	expected uint64 // one more than the largest packet number
	stream   stream
}

// NewReader returns the reader of a new flow. seen is the session's.
func NewReader(seen *Seen) *Reader { return &Reader{seen: seen} }

// Datagram answers for the client's next datagram, which it neither keeps nor
// changes.
func (r *Reader) Datagram(b []byte) Report {
	if r.err != nil {
		return Report{Answer: Malformed, Err: r.err}
	}
	cl, v := classify(b)
	switch {
	case cl == classShort && r.asks != nil:
		return Report{Answer: Pass}
	case cl == classShort, cl == classOther:
		return Report{Answer: NotQUIC}
	case cl == classUnknown:
		return Report{Answer: UnknownVersion, Version: v, Err: fmt.Errorf("QUIC of version %#08x cannot be read", v)}
	case cl == classNegotiation:
		return r.fail(v, errors.New("a Version Negotiation from the client"))
	}
	waiting, known := r.pending(), r.asks != nil
	if err := r.packets(b); err != nil {
		return r.fail(v, err)
	}
	if r.asks == nil || r.pending() {
		return r.hold(v, len(b))
	}
	r.held, r.heldOctets = 0, 0
	if known && !waiting {
		return Report{Answer: Pass, Version: v}
	}
	return Report{Answer: Complete, First: !known, Hello: *r.asks, Version: v}
}

// fail makes every later answer Malformed, too, and frees the flow's memory.
func (r *Reader) fail(v uint32, err error) Report {
	r.err, r.conns = err, nil
	return Report{Answer: Malformed, Version: v, Err: err}
}

func (r *Reader) hold(v uint32, size int) Report {
	r.held++
	r.heldOctets += size
	if r.held > MaxHeld || r.heldOctets > MaxHeldOctets {
		return r.fail(v, fmt.Errorf("no whole ClientHello in %d datagrams of %d octets", r.held, r.heldOctets))
	}
	return Report{Answer: NeedMore, Version: v}
}

func (r *Reader) pending() bool {
	return slices.ContainsFunc(r.conns, func(c *conn) bool { return c.stream.pending() })
}

// packets reads each packet of a datagram. All are of one connection (RFC 9000
// section 12.2): servers differ in whether they read the others. What stands
// behind the last long header is a 1-RTT packet or padding.
func (r *Reader) packets(b []byte) error {
	var first packet
	for n := 0; len(b) > 0 && b[0]&formBit != 0; n++ {
		p, rest, err := parseHeader(b)
		if err != nil {
			return err
		}
		if n == 0 {
			first = p
		}
		if p.version != first.version || !bytes.Equal(p.dcid, first.dcid) {
			return errors.New("packets of two connections in one datagram")
		}
		if p.kind == kindInitial {
			if err := r.initial(p); err != nil {
				return err
			}
		}
		b = rest
	}
	return nil
}

// initial opens an Initial and reads its frames into its connection.
func (r *Reader) initial(p packet) error {
	c, o, err := r.open(p)
	if err != nil {
		return err
	}
	if o.reserved {
		return errors.New("a reserved bit in an Initial")
	}
	// A server may have missed any of the packets before. With this one
	// reading at the highest number, there is one below, too.
	if decode(o.pn, o.window, c.expected) != o.pn {
		return errNumber
	}
	c.expected = max(c.expected, o.pn+1)
	before := len(c.stream.buf)
	if err := readFrames(o.frames, &c.stream); err != nil {
		return err
	}
	if len(c.stream.buf) > before {
		if err := r.room(c); err != nil {
			return err
		}
	}
	return r.messages(c)
}

// open finds the one connection, known or new, whose keys open p, and makes it
// the last one used.
func (r *Reader) open(p packet) (hit *conn, o opened, err error) {
	try := r.conns
	if !slices.ContainsFunc(try, func(c *conn) bool { return bytes.Equal(c.id, p.dcid) }) {
		try = append(slices.Clip(try), &conn{id: bytes.Clone(p.dcid)})
	}
	for _, c := range try {
		k, err := c.keys(p.version)
		if err != nil {
			return nil, o, err
		}
		got, ok := k.open(p, make([]byte, 0, len(p.raw)))
		switch {
		case !ok:
		case hit != nil:
			return nil, o, errTwoKeys
		default:
			hit, o = c, got
		}
	}
	switch {
	case hit == nil:
		return nil, o, errUnreadable
	case len(hit.id) < minFirstID:
		return nil, o, fmt.Errorf("a first Initial to a connection ID of %d octets", len(hit.id))
	}
	r.conns = append(slices.DeleteFunc(r.conns, func(c *conn) bool { return c == hit }), hit)
	return hit, o, r.room(hit)
}

// room forgets the longest unused complete connections while the flow is over
// its limits. What was whole stays remembered in Seen; packet numbers that are
// not small must be remembered here, see errNumber.
func (r *Reader) room(keep *conn) error {
	for {
		octets := 0
		for _, c := range r.conns {
			octets += len(c.stream.buf)
		}
		if len(r.conns) <= MaxConns && octets <= MaxBuffered {
			return nil
		}
		old := slices.IndexFunc(r.conns, func(c *conn) bool {
			return c != keep && !c.stream.pending() && c.expected < 128
		})
		if old < 0 {
			return fmt.Errorf("%d connections with %d octets in one flow", len(r.conns), octets)
		}
		r.conns = slices.Delete(r.conns, old, old+1)
	}
}

// messages reads what has become whole.
func (r *Reader) messages(c *conn) error {
	for {
		at := c.stream.base
		msg, err := c.stream.next()
		if err != nil || msg == nil {
			return err
		}
		h, err := hello.ParseMessage(msg)
		if err != nil {
			return err
		}
		if !r.seen.claim(c.id, at, msg) {
			return errShared
		}
		if r.asks == nil {
			r.asks = &h
		} else if !r.asks.Same(h) {
			return errDiffers
		}
	}
}

func (c *conn) keys(version uint32) (*keys, error) {
	k := &c.v1
	if version == Version2 {
		k = &c.v2
	}
	if *k != nil {
		return *k, nil
	}
	var err error
	*k, err = deriveKeys(version, c.id)
	return *k, err
}
