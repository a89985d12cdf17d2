package httphead

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Field is one field line; Name is as it was sent.
type Field struct{ Name, Value string }

func isToken(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func isTokenString(s string) bool {
	for i := range len(s) {
		if !isToken(s[i]) {
			return false
		}
	}
	return s != ""
}

// end returns the length of the head at the start of b, its empty line
// included. Only CRLF CRLF ends a head; a bare LF is found later, as a control
// octet.
func end(b []byte) (int, error) {
	i := bytes.Index(b[:min(len(b), MaxHead)], []byte("\r\n\r\n"))
	if i >= 0 {
		return i + 4, nil
	}
	if len(b) >= MaxHead {
		return 0, ErrTooLong
	}
	// What can no longer become a head is told now and not at the time-out.
	if j := bytes.Index(b, []byte("\n")); j == 0 || j > 0 && b[j-1] != '\r' {
		return 0, errBareLF
	}
	return 0, ErrShort
}

var errBareLF = errors.New("a line that does not end in CRLF")

// lines splits a head (as found by end) into its start line and fields.
func lines(head []byte) (start string, fields []Field, err error) {
	all := strings.Split(string(head[:len(head)-4]), "\r\n")
	if len(all)-1 > MaxFields {
		return "", nil, fmt.Errorf("more than %d header fields", MaxFields)
	}
	if err := clean(all[0]); err != nil {
		return "", nil, err
	}
	for _, l := range all[1:] {
		f, err := field(l)
		if err != nil {
			return "", nil, err
		}
		fields = append(fields, f)
	}
	return all[0], fields, nil
}

func field(l string) (Field, error) {
	name, value, ok := strings.Cut(l, ":")
	if !ok || !isTokenString(name) {
		return Field{}, errors.New("malformed header field")
	}
	if strings.Contains(name, "_") && slices.Contains(framingNames, strings.ToLower(strings.ReplaceAll(name, "_", "-"))) {
		return Field{}, errors.New("a header field that some servers take for one that frames the message")
	}
	if err := clean(value); err != nil {
		return Field{}, err
	}
	return Field{name, strings.Trim(value, " \t")}, nil
}

// framingNames decide where a message ends and whose it is. CGI and what grew
// from it does not tell '_' from '-'.
var framingNames = []string{"content-length", "transfer-encoding", "host", "connection", "upgrade", "expect"}

// clean refuses control octets; TAB may stand in a value.
func clean(s string) error {
	for i := range len(s) {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			if c == '\n' {
				return errBareLF
			}
			return errors.New("control octet in the head")
		}
	}
	return nil
}

// values returns the values of all fields of one name.
func values(fields []Field, name string) []string {
	var out []string
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			out = append(out, f.Value)
		}
	}
	return out
}

// list returns the comma-separated members of all fields of one name, in
// lower case.
func list(fields []Field, name string) []string {
	var out []string
	for _, v := range values(fields, name) {
		for m := range strings.SplitSeq(v, ",") {
			if m = strings.ToLower(strings.Trim(m, " \t")); m != "" {
				out = append(out, m)
			}
		}
	}
	return out
}

// hopByHop are the fields that end at a proxy (RFC 9110 section 7.6.1, and
// what clients send to proxies); framing is written anew.
var hopByHop = map[string]bool{
	"connection": true, "proxy-connection": true, "keep-alive": true, "te": true, "trailer": true,
	"trailers": true, "upgrade": true, "proxy-authorization": true, "proxy-authenticate": true,
	"proxy-authentication-info": true, "transfer-encoding": true, "content-length": true, "http2-settings": true,
}

// endToEnd returns the fields that go on. named is what Connection names.
func endToEnd(fields []Field, named []string) []Field {
	drop := make(map[string]bool, len(named))
	for _, n := range named {
		drop[n] = true
	}
	out := make([]Field, 0, len(fields))
	for _, f := range fields {
		if n := strings.ToLower(f.Name); !hopByHop[n] && !drop[n] {
			out = append(out, f)
		}
	}
	return out
}
