package hostapi

import (
	"io"
	"net/http"
	"testing"
)

// The text format word for word: types by name, labels escaped and in order.
func TestMetricsText(t *testing.T) {
	rules := Metric{Name: "x_rules_total", Help: "Two\nlines and a \\."}
	rules.Add(2, "rule", `b"\`+"\n\xff", "action", "allow")
	rules.Add(1.5, "rule", "a", "action", "block")
	got := string(encodeMetrics([]Metric{Count("x_flows", "Now.", 1<<53), rules, {Name: "x_none_total", Help: "None yet."}}))
	const want = "# HELP x_flows Now.\n# TYPE x_flows gauge\nx_flows 9007199254740992\n" +
		"# HELP x_rules_total Two\\nlines and a \\\\.\n# TYPE x_rules_total counter\n" +
		"x_rules_total{rule=\"a\",action=\"block\"} 1.5\nx_rules_total{rule=\"b\\\"\\\\\\n\uFFFD\",action=\"allow\"} 2\n" +
		"# HELP x_none_total None yet.\n# TYPE x_none_total counter\n"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// What stands outside of the table of the API: other types than JSON.
func TestOtherTypes(t *testing.T) {
	b := &fakeBackend{lines: [][]byte{[]byte(`{"seq":1}`), []byte(`{"seq":2}`)}}
	_, path := serve(t, b)
	for _, tt := range []struct {
		method, path, accept string
		status               int
		kind, want           string
	}{
		{"GET", "/metrics", "", 200, "text/plain; version=0.0.4; charset=utf-8", "# HELP outcall_flows Now.\n# TYPE outcall_flows gauge\noutcall_flows 3\n"},
		{"POST", "/metrics", "", 405, "application/json", `{"ok":false,"error":"method not allowed: POST"}` + "\n"},
		{"GET", prefix + "/metrics", "", 404, "application/json", `{"ok":false,"error":"no such endpoint: /api/v1/metrics"}` + "\n"},
		{"GET", prefix + "/events", "text/html, text/event-stream;q=0.5", 200, "text/event-stream", "data: {\"seq\":1}\n\ndata: {\"seq\":2}\n\n"},
		{"GET", prefix + "/events", "application/json", 200, "application/x-ndjson", "{\"seq\":1}\n{\"seq\":2}\n"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://outcall"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.accept != "" {
			req.Header.Set("Accept", tt.accept)
		}
		resp, err := plainHTTP(path).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != tt.kind || string(got) != tt.want {
			t.Errorf("%s %s: %d %s\n%s\nwant %d %s\n%s", tt.method, tt.path, resp.StatusCode, resp.Header.Get("Content-Type"), got, tt.status, tt.kind, tt.want)
		}
	}
}
