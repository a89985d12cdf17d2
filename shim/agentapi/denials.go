package agentapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"outcall/policy"
)

// denialBody is one denial as the agent sees it.
type denialBody struct {
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	Layer  string    `json:"layer"`
	Target string    `json:"target"`
	Rule   string    `json:"matched_rule"`
	Reason string    `json:"reason"`
	// Smallest is the smallest rule file that would allow it; absent where none
	// would.
	Smallest string `json:"smallest_rule,omitempty"`
	Advice   string `json:"advice,omitempty"`
}

// listDenials answers with the latest denials, at most maxDenials, the oldest
// first; what does not fit into an answer is left out from the oldest on.
func (s *Server) listDenials(r *http.Request) (int, any, *failure) {
	if f := s.authorized(r); f != nil {
		return 0, nil, f
	}
	query := r.URL.Query()
	var events []policy.Event
	switch id, since := query.Get("id"), query.Get("since"); {
	case id != "":
		if e, ok := s.o.Denials.ByID(id); ok {
			events = append(events, e)
		}
	case since == "":
		events = s.o.Denials.After(time.Time{})
	default:
		t, err := time.Parse(time.RFC3339Nano, since)
		if err != nil {
			return 0, nil, fail(http.StatusUnprocessableEntity, "invalid request: since: want a time such as 2006-01-02T15:04:05Z")
		}
		events = s.o.Denials.After(t)
	}
	if f := s.limit(s.denials); f != nil {
		return 0, nil, f
	}
	list := s.remedied(r.Context(), events[max(0, len(events)-maxDenials):])
	return http.StatusOK, map[string]any{"denials": fitting(list)}, nil
}

// remedied adds what would help. That is for people: a denial whose rule is
// not found in time is told without it.
func (s *Server) remedied(ctx context.Context, events []policy.Event) []denialBody {
	ctx, cancel := context.WithTimeout(ctx, s.o.evalTimeout)
	defer cancel()
	out := make([]denialBody, len(events))
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		out[i] = denialBody{ID: e.ID, Time: e.Time, Layer: e.Layer, Target: policy.Cut(Target(e), 512), Rule: e.Rule, Reason: e.Reason}
		type mend struct{ rule, advice string }
		m, why := evaluate(ctx, s.o.evalTimeout, s.remedies, func(ctx context.Context) mend {
			rule, advice := s.o.Backend.Remedy(ctx, e)
			return mend{rule, advice}
		})
		if why != "" {
			m = mend{advice: why}
		}
		out[i].Smallest, out[i].Advice = m.rule, policy.Cut(m.advice, 1<<10)
	}
	return out
}

// fitting leaves out the oldest until the answer keeps the limit of bodies.
func fitting(list []denialBody) []denialBody {
	const frame = 64 // of what stands around the list
	size := frame
	for i := len(list) - 1; i >= 0; i-- {
		b, err := json.Marshal(list[i])
		if size += len(b) + 1; err != nil || size > MaxBody {
			return list[i+1:]
		}
	}
	return list
}

// Target says what an event was about.
func Target(e policy.Event) string {
	host := e.Host
	if host == "" {
		host = e.SNI
	}
	if host == "" {
		host = e.IP
	}
	switch {
	case e.Layer == "run" && e.Host == "":
		return e.Path
	case e.Query != "":
		return e.Query + " " + e.RecordType
	case e.Port != 0 && e.Protocol != "":
		return fmt.Sprintf("%s:%d/%s", host, e.Port, e.Protocol)
	case e.Port != 0:
		return fmt.Sprintf("%s:%d", host, e.Port)
	}
	return host
}
