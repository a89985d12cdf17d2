package hostapi

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Metric is one family of GET /metrics. A counter's name ends in _total.
type Metric struct {
	Name, Help string
	Samples    []Sample
}

// A Sample is one value of a metric. Labels are name, value, name, value, …
type Sample struct {
	Labels []string
	Value  float64
}

// Count returns a metric of one value without labels.
func Count[T ~int | ~int64 | ~uint64 | ~float64](name, help string, v T) Metric {
	return Metric{Name: name, Help: help, Samples: []Sample{{Value: float64(v)}}}
}

// Add adds a value with its labels.
func (m *Metric) Add(v float64, labels ...string) {
	m.Samples = append(m.Samples, Sample{Labels: labels, Value: v})
}

// metrics answers GET /metrics in Prometheus' text format, version 0.0.4.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	all, err := s.backend.Metrics(ctx)
	if err != nil {
		fail(w, statusOf(err, http.StatusInternalServerError), err.Error())
		return
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(callTimeout))
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Write(encodeMetrics(all)) // a failed write is a client that has gone
}

// What the format gives a meaning to, in help texts and in label values.
var (
	helpText   = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelValue = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// encodeMetrics writes each family with its samples in the order of their
// labels, so that two readings can be compared line by line.
func encodeMetrics(all []Metric) []byte {
	var b bytes.Buffer
	for _, m := range all {
		kind := "gauge"
		if strings.HasSuffix(m.Name, "_total") {
			kind = "counter"
		}
		b.WriteString("# HELP " + m.Name + " " + helpText.Replace(m.Help) + "\n# TYPE " + m.Name + " " + kind + "\n")
		slices.SortFunc(m.Samples, func(a, b Sample) int { return slices.Compare(a.Labels, b.Labels) })
		for _, s := range m.Samples {
			b.WriteString(m.Name)
			open := "{"
			for l := range slices.Chunk(s.Labels, 2) {
				b.WriteString(open + l[0] + `="` + labelValue.Replace(strings.ToValidUTF8(l[1], "\uFFFD")) + `"`)
				open = ","
			}
			if len(s.Labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteString(" " + strconv.FormatFloat(s.Value, 'f', -1, 64) + "\n")
		}
	}
	return b.Bytes()
}
