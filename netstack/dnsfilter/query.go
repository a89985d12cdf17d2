package dnsfilter

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	// MaxQuery bounds a question message. A name takes 255 bytes; the rest is
	// EDNS options, which are not looked at.
	MaxQuery = 4096
	maxName  = 253 // characters of a name, without the trailing dot
	maxLabel = 63
)

// A question is a parsed client message.
type question struct {
	id     uint16
	opcode uint8
	rd, cd bool
	wire   string // the name as it came, letter case kept, with trailing dot
	name   string // lower case, without trailing dot; "." for the root
	qtype  uint16
	edns   bool
	do     bool   // DNSSEC OK, echoed as RFC 3225 asks; no such records are passed
	size   uint16 // the client's EDNS payload size, 0 without EDNS
}

// errDrop marks messages that get no answer at all: too short for a header,
// or themselves answers (answering those could start a loop).
var errDrop = errors.New("not a question")

// A refusal is a message that is answered with a bare rcode.
type refusal struct {
	rcode int
	why   string
}

func (r *refusal) Error() string { return r.why }

func formErr(why string) error { return &refusal{dns.RcodeFormatError, "malformed: " + why} }

// parseQuery reads a client's message strictly: what tolerant and strict
// readers could take differently is an error. On a refusal the header fields
// of q are set. The work is linear in the message.
func parseQuery(msg []byte) (q question, err error) {
	if len(msg) < headerLen || msg[2]&0x80 != 0 {
		return q, errDrop
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.opcode = msg[2] >> 3 & 0xf
	q.rd = msg[2]&1 != 0
	q.cd = msg[3]&0x10 != 0
	if len(msg) > MaxQuery {
		return q, formErr("longer than 4096 bytes")
	}
	if q.opcode != dns.OpcodeQuery {
		return q, &refusal{dns.RcodeNotImplemented, "opcode " + strconv.Itoa(int(q.opcode))}
	}
	count := func(off int) uint16 { return binary.BigEndian.Uint16(msg[off:]) }
	if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 1 || msg[2]&2 != 0 {
		return q, formErr("not exactly one question")
	}
	off, err := q.parseName(msg)
	if err != nil {
		return q, err
	}
	if len(msg) < off+4 {
		return q, formErr("question cut short")
	}
	q.qtype = count(off)
	if class := count(off + 2); class != dns.ClassINET {
		return q, &refusal{dns.RcodeRefused, "class " + strconv.Itoa(int(class))}
	}
	off += 4
	if count(10) == 1 {
		if off, err = q.parseOPT(msg, off); err != nil {
			return q, err
		}
	}
	if off != len(msg) {
		return q, formErr("trailing bytes")
	}
	return q, nil
}

// parseName reads the question's name. No pointer can be valid here, since
// nothing stands before the name.
func (q *question) parseName(msg []byte) (off int, err error) {
	var b strings.Builder
	for off = headerLen; ; {
		if off >= len(msg) {
			return 0, formErr("name cut short")
		}
		n := int(msg[off])
		off++
		if n == 0 {
			break
		}
		if n > maxLabel || off+n > len(msg) {
			return 0, formErr("bad label")
		}
		for _, c := range msg[off : off+n] {
			if !nameByte(c) {
				return 0, formErr("a name with other characters than letters, digits, '-' and '_'")
			}
		}
		b.Write(msg[off : off+n])
		b.WriteByte('.')
		if off += n; b.Len() > maxName+1 {
			return 0, formErr("name longer than 253 characters")
		}
	}
	if b.Len() == 0 {
		q.wire, q.name = ".", "."
		return off, nil
	}
	q.wire = b.String()
	q.name = strings.ToLower(strings.TrimSuffix(q.wire, "."))
	return off, nil
}

// nameByte reports the bytes that a name can have and be written in a rule.
func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// parseOPT reads the one additional record, which must be an OPT (RFC 6891).
// Its options are checked for their framing and then forgotten.
func (q *question) parseOPT(msg []byte, off int) (int, error) {
	const fixed = 11 // root name, type, size, ttl, length
	if len(msg) < off+fixed || msg[off] != 0 || binary.BigEndian.Uint16(msg[off+1:]) != dns.TypeOPT {
		return 0, formErr("additional record that is no OPT")
	}
	q.edns = true
	q.size = binary.BigEndian.Uint16(msg[off+3:])
	q.do = msg[off+7]&0x80 != 0
	version := msg[off+6]
	rest := msg[off+fixed:]
	n := int(binary.BigEndian.Uint16(msg[off+9:]))
	if n > len(rest) {
		return 0, formErr("OPT cut short")
	}
	for opts := rest[:n]; len(opts) > 0; {
		if len(opts) < 4 || int(binary.BigEndian.Uint16(opts[2:])) > len(opts)-4 {
			return 0, formErr("EDNS option cut short")
		}
		opts = opts[4+binary.BigEndian.Uint16(opts[2:]):]
	}
	if version != 0 {
		return 0, &refusal{dns.RcodeBadVers, "EDNS version " + strconv.Itoa(int(version))}
	}
	return off + fixed + n, nil
}

// Normalize returns a name as rules and pins spell it: lower case, without
// trailing dot. ok is false for what no question could carry: empty or
// over-long labels, and characters beyond letters, digits, '-' and '_'.
func Normalize(name string) (_ string, ok bool) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel {
			return "", false
		}
		for i := range len(label) {
			if !nameByte(label[i]) {
				return "", false
			}
		}
	}
	return strings.ToLower(name), true
}

// typeName returns the mnemonic that rules use (RFC 3597 for unknown types).
func typeName(t uint16) string {
	if s, ok := dns.TypeToString[t]; ok && t != 0 {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}

// metaType reports types that ask for no record of their own: ANY, zone
// transfers, OPT, TSIG and the rest of the range of RFC 6895. They cannot be
// judged as one type of one name.
func metaType(t uint16) bool {
	return t == 0 || t == dns.TypeOPT || t >= 128 && t <= 255
}

// below reports whether name is domain or a name below it.
func below(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}
