package audit

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"outcall/policy"
)

// full returns an event with every field set.
func full(t testing.TB) policy.Event {
	t.Helper()
	var e policy.Event
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case f.Type() == reflect.TypeFor[time.Time]():
			f.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 678000, time.UTC)))
		case f.Type() == reflect.TypeFor[*policy.Process]():
			f.Set(reflect.ValueOf(&policy.Process{PID: 7, Exe: "/bin/x", Args: []string{"x", `"quoted"`, ""}}))
		case f.Kind() == reflect.String:
			f.SetString("v-" + name)
		case f.Kind() == reflect.Bool:
			f.SetBool(true)
		case f.CanInt():
			f.SetInt(int64(i + 2))
		case f.CanUint():
			f.SetUint(uint64(i + 2))
		default:
			t.Fatalf("field %s: of a kind that this test does not know", name)
		}
	}
	return e
}

// A line has every field of an event, in the contract's order.
func TestLineHasEveryField(t *testing.T) {
	e := full(t)
	line := appendEvent(nil, &e)
	got, err := Decode(line)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, e) {
		t.Errorf("read back %+v\nwant %+v", got, e)
	}
	last := -1
	for _, key := range []string{"time", "seq", "prev", "event", "session", "agent", "id", "layer", "verdict", "rule", "reason",
		"structural", "query", "record_type", "host", "ip", "port", "protocol", "method", "path", "sni", "process", "via",
		"count", "bytes_in", "bytes_out", "duration_ms"} {
		i := strings.Index(string(line), `"`+key+`":`)
		if i <= last {
			t.Errorf("%q at %d, want after %d", key, i, last)
		}
		last = i
	}
	empty := policy.Event{Event: "stop"}
	if got, want := string(appendEvent(nil, &empty)), `{"time":"0001-01-01T00:00:00.000000Z","seq":0,"prev":"","event":"stop"}`+"\n"; got != want {
		t.Errorf("empty event: %s", got)
	}
}

// What could move a cursor, turn text around or end a line is escaped, and
// reads back as it was.
func TestEscapes(t *testing.T) {
	for _, s := range []string{"\x1b]52;c;eA\x07", "a\nb\r\tc", "\u202eevil", "\u2066x\u2069", "\u2028\u2029", "\x7f\u0085\u009b",
		"\ufeff", "\U000e0041", "\u00ad\u200b\u200f", "\u00a0", "é😀日本", "\ufffd", `\"`} {
		b := appendString(nil, s)
		for _, r := range string(b) {
			if !unicode.IsPrint(r) {
				t.Errorf("%q: %U is in %s", s, r, b)
			}
		}
		var back string
		if err := json.Unmarshal(b, &back); err != nil || back != s {
			t.Errorf("%q: read back %q (%v) from %s", s, back, err, b)
		}
	}
	if b := appendString(nil, "a\xff\xc3b"); string(b) != `"a\ufffd\ufffdb"` {
		t.Errorf("not UTF-8: %s", b)
	}
}

func TestBounds(t *testing.T) {
	long := strings.Repeat("é\x1b", 4096)
	e := full(t)
	v := reflect.ValueOf(&e).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			f.SetString(long)
		}
	}
	e.Process = &policy.Process{PID: 1, Exe: long, Args: []string{"a", long, "never"}}
	e.Prev = Genesis
	b := bounded(e)
	for name, c := range map[string]struct {
		s string
		n int
	}{"exe": {b.Process.Exe, policy.MaxExe}, "query": {b.Query, MaxName}, "path": {b.Path, MaxPath}, "reason": {b.Reason, maxReason},
		"args": {strings.Join(b.Process.Args, " "), policy.MaxArgs}} {
		if len(c.s) > c.n || len(c.s) < c.n-8 || !utf8.ValidString(c.s) || !strings.HasSuffix(c.s, policy.CutMark) {
			t.Errorf("%s: %d bytes, at most %d", name, len(c.s), c.n)
		}
	}
	if line := appendEvent(nil, &b); len(line) > MaxLine/2 {
		t.Errorf("the longest line has %d bytes", len(line))
	}
	b = bounded(policy.Event{Path: "/a?token=secret", Process: &policy.Process{Args: make([]string, 1e6)}})
	if b.Path != "/a" || len(b.Process.Args) > policy.MaxArgs {
		t.Errorf("path %q, %d arguments", b.Path, len(b.Process.Args))
	}
}

func TestText(t *testing.T) {
	e := full(t)
	e.Event, e.Verdict, e.Query = "verdict", "deny", "evil\x1b[2J.test"
	s := Text(e)
	if strings.ContainsRune(s, 0x1b) || !strings.Contains(s, `evil\x1b[2J.test`) || !strings.Contains(s, "v-Rule") {
		t.Errorf("%q", s)
	}
	if s := Text(policy.Event{Event: "end", BytesIn: 5}); !strings.Contains(s, "in 5 out 0 bytes") {
		t.Errorf("%q", s)
	}
}
