package harness

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An Event is one audit line as the contract has it. It is written down here
// anew, so that a change of the program's own type is noticed.
type Event struct {
	Time       string `json:"time"`
	Seq        uint64 `json:"seq"`
	Prev       string `json:"prev"`
	Event      string `json:"event"`
	Session    string `json:"session"`
	Agent      string `json:"agent"`
	ID         string `json:"id"`
	Layer      string `json:"layer"`
	Verdict    string `json:"verdict"`
	Rule       string `json:"rule"`
	Reason     string `json:"reason"`
	Structural bool   `json:"structural"`
	Query      string `json:"query"`
	RecordType string `json:"record_type"`
	Host       string `json:"host"`
	IP         string `json:"ip"`
	Port       uint16 `json:"port"`
	Protocol   string `json:"protocol"`
	Method     string `json:"method"`
	Path       string `json:"path"`
	SNI        string `json:"sni"`
	Process    *struct {
		PID  int      `json:"pid"`
		Exe  string   `json:"exe"`
		Args []string `json:"args"`
	} `json:"process"`
	Via        string `json:"via"`
	Count      int    `json:"count"`
	BytesIn    int64  `json:"bytes_in"`
	BytesOut   int64  `json:"bytes_out"`
	DurationMS int64  `json:"duration_ms"`

	Line string `json:"-"` // as written
}

func (e Event) String() string { return e.Line }

// Denied tells whether the line is a denial.
func (e Event) Denied() bool { return e.Event == "verdict" && e.Verdict == "deny" }

// AuditFile is where a session's audit stands by default.
func (b *Bed) AuditFile(session string) string {
	return filepath.Join(b.Home, ".local/state/outcall", session, "audit.jsonl")
}

// Events reads a session's audit. Every line must be JSON and chained to the
// one before.
func (b *Bed) Events(t testing.TB, session string) []Event {
	t.Helper()
	return ReadAudit(t, b.AuditFile(session))
}

// ReadAudit reads one audit file.
func ReadAudit(t testing.TB, file string) []Event {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatalf("audit: %v", err)
	}
	defer f.Close()
	var out []Event
	prev := ""
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		e := Event{Line: sc.Text()}
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			t.Errorf("audit line %q: %v", sc.Text(), err)
			continue
		}
		if prev != "" && !strings.EqualFold(e.Prev, prev) {
			t.Errorf("audit: line %d is not chained to the one before", len(out)+1)
		}
		prev = fmt.Sprintf("%x", sha256.Sum256([]byte(sc.Text()+"\n")))
		out = append(out, e)
	}
	if err := sc.Err(); err != nil {
		t.Errorf("audit: %v", err)
	}
	return out
}

// Denials returns the denials of a session that match accepts; nil is all.
func (b *Bed) Denials(t testing.TB, session string, match func(Event) bool) []Event {
	t.Helper()
	var out []Event
	for _, e := range b.Events(t, session) {
		if e.Denied() && (match == nil || match(e)) {
			out = append(out, e)
		}
	}
	return out
}

// OneDenial demands exactly one denied attempt that matches, with an id, a
// reason, a rule and, if exe is not empty, the process. Repeats of equal
// denials summed in a count are several attempts.
func (b *Bed) OneDenial(t testing.TB, session, exe string, match func(Event) bool) Event {
	t.Helper()
	got := b.Denials(t, session, match)
	if len(got) != 1 || got[0].Count > 1 {
		t.Errorf("audit: %d denials, not one: %v\nwhole audit: %v", len(got), got, b.Events(t, session))
		if len(got) == 0 {
			return Event{}
		}
	}
	e := got[0]
	if !strings.HasPrefix(e.ID, "d-") || len(e.ID) != 10 || e.Reason == "" || e.Rule == "" {
		t.Errorf("audit: a denial without id, reason or rule: %s", e.Line)
	}
	if exe != "" && (e.Process == nil || !strings.HasSuffix(e.Process.Exe, exe)) {
		t.Errorf("audit: the denial does not name %s: %s", exe, e.Line)
	}
	return e
}

// SomeDenial demands at least one denied attempt that matches.
func (b *Bed) SomeDenial(t testing.TB, session string, match func(Event) bool) {
	t.Helper()
	if len(b.Denials(t, session, match)) == 0 {
		t.Errorf("audit: no such denial in %v", b.Events(t, session))
	}
}
