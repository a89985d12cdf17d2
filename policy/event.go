package policy

import (
	"strings"
	"time"
)

// An Event is one line of the audit (contract 7). Zero fields are absent from
// the line. Seq and Prev are the writer's.
type Event struct {
	Time       time.Time `json:"time"`
	Seq        uint64    `json:"seq"`
	Prev       string    `json:"prev"`
	Event      string    `json:"event"` // verdict|end|limit|overflow|policy|start|stop
	Session    string    `json:"session,omitempty"`
	Agent      string    `json:"agent,omitempty"`
	ID         string    `json:"id,omitempty"`
	Layer      string    `json:"layer,omitempty"`
	Verdict    string    `json:"verdict,omitempty"` // allow|deny|would_deny
	Rule       string    `json:"rule,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Structural bool      `json:"structural,omitempty"`
	Query      string    `json:"query,omitempty"`
	RecordType string    `json:"record_type,omitempty"`
	Host       string    `json:"host,omitempty"`
	IP         string    `json:"ip,omitempty"`
	Port       uint16    `json:"port,omitempty"`
	Protocol   string    `json:"protocol,omitempty"`
	Method     string    `json:"method,omitempty"`
	Path       string    `json:"path,omitempty"`
	SNI        string    `json:"sni,omitempty"`
	Process    *Process  `json:"process,omitempty"`
	Via        string    `json:"via,omitempty"`
	Count      int       `json:"count,omitempty"`
	BytesIn    int64     `json:"bytes_in,omitempty"`
	BytesOut   int64     `json:"bytes_out,omitempty"`
	DurationMS int64     `json:"duration_ms,omitempty"`
}

// ViaPublish is Event.Via of a connection that came in by a published port. It
// is the operator's and not the agent's: ip is where it came from, port the
// one inside, and no rule is about it.
const ViaPublish = "publish"

// maxWhy bounds the cause of a failure in the audit.
const maxWhy = 200

// FailureEvent is the line that tells of a rule that could not be evaluated:
// who writes verdicts writes it beside them.
func FailureEvent(l Layer, x *Failure) Event {
	why := x.Why
	if len(why) > maxWhy {
		why = strings.ToValidUTF8(why[:maxWhy], "")
	}
	effect := "it allows nothing"
	if x.Rule.Block {
		effect = "it blocks"
	}
	return Event{Event: "policy", Layer: l.String(), Rule: x.Rule.ID, Reason: "the condition could not be evaluated, so " + effect + ": " + why}
}
