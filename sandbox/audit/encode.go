package audit

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"outcall/policy"
)

// Bounds of the fields, in bytes before escaping. A longer value is cut and
// ends in an ellipsis.
const (
	MaxName   = 255 // query, host, sni, session, agent
	MaxPath   = 1 << 10
	maxReason = 512
	maxRule   = 128
	maxWord   = 64 // all other texts

	// MaxLine bounds a line with its newline. A byte can become six characters,
	// and all fields together stay far below.
	MaxLine = 64 << 10
)

// timeFormat is RFC 3339 with microseconds, in UTC.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// bounded returns the event with every field cut to its bound, sharing no
// memory with the caller's. A path loses its query: that may hold secrets.
func bounded(e policy.Event) policy.Event {
	for _, f := range []struct {
		s *string
		n int
	}{
		{&e.Event, maxWord}, {&e.Session, MaxName}, {&e.Agent, MaxName}, {&e.ID, maxWord}, {&e.Layer, maxWord},
		{&e.Verdict, maxWord}, {&e.Rule, maxRule}, {&e.Reason, maxReason}, {&e.Query, MaxName},
		{&e.RecordType, maxWord}, {&e.Host, MaxName}, {&e.IP, maxWord}, {&e.Protocol, maxWord},
		{&e.Method, maxWord}, {&e.SNI, MaxName}, {&e.Via, maxWord},
	} {
		*f.s = policy.Cut(*f.s, f.n)
	}
	if i := strings.IndexAny(e.Path, "?#"); i >= 0 {
		e.Path = e.Path[:i]
	}
	e.Path = policy.Cut(e.Path, MaxPath)
	if e.Process != nil {
		e.Process = e.Process.Bounded()
	}
	return e
}

// appendString appends a JSON string. What is not printable (control and
// format characters, so escape sequences and bidi overrides, too, and line
// separators) becomes \u escapes; what is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r != utf8.RuneError && unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		default:
			b = appendEscape(b, r)
		}
	}
	return append(b, '"')
}

func appendEscape(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	put := func(u rune) {
		b = append(b, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
	}
	if r > 0xffff { // a surrogate pair, RFC 8259 section 7
		r -= 0x10000
		put(0xd800 + r>>10)
		put(0xdc00 + r&0x3ff)
		return b
	}
	put(r)
	return b
}

// appendEvent appends an event as one line.
func appendEvent(b []byte, e *policy.Event) []byte {
	str := func(key, v string) {
		if v != "" {
			b = append(append(append(b, ',', '"'), key...), '"', ':')
			b = appendString(b, v)
		}
	}
	num := func(key string, v int64) {
		if v != 0 {
			b = append(append(append(b, ',', '"'), key...), '"', ':')
			b = strconv.AppendInt(b, v, 10)
		}
	}
	b = append(b, `{"time":"`...)
	b = e.Time.UTC().Round(time.Microsecond).AppendFormat(b, timeFormat)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, e.Seq, 10)
	b = append(b, `,"prev":`...)
	b = appendString(b, e.Prev)
	b = append(b, `,"event":`...)
	b = appendString(b, e.Event)
	str("session", e.Session)
	str("agent", e.Agent)
	str("id", e.ID)
	str("layer", e.Layer)
	str("verdict", e.Verdict)
	str("rule", e.Rule)
	str("reason", e.Reason)
	if e.Structural {
		b = append(b, `,"structural":true`...)
	}
	str("query", e.Query)
	str("record_type", e.RecordType)
	str("host", e.Host)
	str("ip", e.IP)
	num("port", int64(e.Port))
	str("protocol", e.Protocol)
	str("method", e.Method)
	str("path", e.Path)
	str("sni", e.SNI)
	b = appendProcess(b, e.Process)
	str("via", e.Via)
	num("count", int64(e.Count))
	num("bytes_in", e.BytesIn)
	num("bytes_out", e.BytesOut)
	num("duration_ms", e.DurationMS)
	return append(b, '}', '\n')
}

func appendProcess(b []byte, p *policy.Process) []byte {
	if p == nil {
		return b
	}
	b = append(b, `,"process":{"pid":`...)
	b = strconv.AppendInt(b, int64(p.PID), 10)
	if p.Exe != "" {
		b = append(b, `,"exe":`...)
		b = appendString(b, p.Exe)
	}
	for i, a := range p.Args {
		if i == 0 {
			b = append(b, `,"args":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendString(b, a)
	}
	if len(p.Args) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}
