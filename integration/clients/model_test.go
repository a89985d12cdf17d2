//go:build clients

package clients

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A model stands in for a provider's endpoint: it asks for one tool call and
// ends its turn when it has the result.
type model struct {
	URL  string
	Port string

	mu      sync.Mutex
	tool    string
	input   map[string]any
	results []string // what the agent sent back for the tool call
	seen    []string // paths that were asked for
}

// serveModel speaks Anthropic's Messages API and Gemini's generateContent, as
// far as the two agents use them.
func serveModel(t *testing.T, tool string, input map[string]any) *model {
	t.Helper()
	m := &model{tool: tool, input: input}
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	m.URL = srv.URL
	m.Port = srv.URL[strings.LastIndexByte(srv.URL, ':')+1:]
	return m
}

func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = append(m.seen, r.Method+" "+r.URL.Path)
	switch {
	case strings.HasSuffix(r.URL.Path, "/count_tokens"), strings.HasSuffix(r.URL.Path, ":countTokens"):
		io.WriteString(w, `{"input_tokens":10,"totalTokens":10}`)
	case strings.HasSuffix(r.URL.Path, "/messages"):
		m.messages(w, body)
	case strings.Contains(r.URL.Path, "enerateContent"):
		m.generate(w, r, body)
	default:
		http.Error(w, `{"error":{"type":"not_found_error","message":"no such endpoint"}}`, http.StatusNotFound)
	}
}

// messages answers one request of the Messages API, as a stream where asked.
func (m *model) messages(w http.ResponseWriter, body []byte) {
	var in struct {
		Model    string
		Stream   bool
		Tools    []struct{ Name string }
		Messages []struct{ Content json.RawMessage }
	}
	if err := json.Unmarshal(body, &in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	result, offered := "", false
	for _, msg := range in.Messages {
		var blocks []struct {
			Type    string
			Content json.RawMessage
		}
		if json.Unmarshal(msg.Content, &blocks) != nil {
			continue
		}
		for _, b := range blocks {
			if b.Type == "tool_result" {
				result = string(b.Content)
			}
		}
	}
	for _, tool := range in.Tools {
		offered = offered || tool.Name == m.tool
	}
	block, reason := map[string]any{"type": "text", "text": "done"}, "end_turn"
	if offered && result == "" {
		block, reason = map[string]any{"type": "tool_use", "id": "toolu_01", "name": m.tool, "input": m.input}, "tool_use"
	} else if result != "" {
		m.results = append(m.results, result)
	}
	msg := map[string]any{"id": "msg_01", "type": "message", "role": "assistant", "model": in.Model, "content": []any{block},
		"stop_reason": reason, "stop_sequence": nil, "usage": map[string]int{"input_tokens": 10, "output_tokens": 10}}
	if !in.Stream {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(msg)
		return
	}
	stream(w, msg, block, reason)
}

// stream sends a message as server-sent events.
func stream(w http.ResponseWriter, msg, block map[string]any, reason string) {
	w.Header().Set("Content-Type", "text/event-stream")
	event := func(kind string, fields map[string]any) {
		fields["type"] = kind
		b, _ := json.Marshal(fields)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, b)
	}
	msg["content"], msg["stop_reason"] = []any{}, nil
	event("message_start", map[string]any{"message": msg})
	start, delta := map[string]any{"type": "text", "text": ""}, map[string]any{"type": "text_delta", "text": block["text"]}
	if block["type"] == "tool_use" {
		start = map[string]any{"type": "tool_use", "id": block["id"], "name": block["name"], "input": map[string]any{}}
		input, _ := json.Marshal(block["input"])
		delta = map[string]any{"type": "input_json_delta", "partial_json": string(input)}
	}
	event("content_block_start", map[string]any{"index": 0, "content_block": start})
	event("content_block_delta", map[string]any{"index": 0, "delta": delta})
	event("content_block_stop", map[string]any{"index": 0})
	event("message_delta", map[string]any{"delta": map[string]any{"stop_reason": reason, "stop_sequence": nil}, "usage": map[string]int{"output_tokens": 10}})
	event("message_stop", map[string]any{})
}

// generate answers one request of the Gemini API.
func (m *model) generate(w http.ResponseWriter, r *http.Request, body []byte) {
	type part struct {
		FunctionResponse *struct {
			Response json.RawMessage `json:"response"`
		} `json:"functionResponse"`
	}
	var in struct {
		Contents []struct{ Parts []part }
		Tools    []struct {
			FunctionDeclarations []struct{ Name string }
		}
	}
	if err := json.Unmarshal(body, &in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	result, offered := "", false
	for _, c := range in.Contents {
		for _, p := range c.Parts {
			if p.FunctionResponse != nil {
				result = string(p.FunctionResponse.Response)
			}
		}
	}
	for _, tool := range in.Tools {
		for _, f := range tool.FunctionDeclarations {
			offered = offered || f.Name == m.tool
		}
	}
	answer := map[string]any{"text": "done"}
	if offered && result == "" {
		answer = map[string]any{"functionCall": map[string]any{"name": m.tool, "args": m.input}}
	} else if result != "" {
		m.results = append(m.results, result)
	}
	out := map[string]any{
		"candidates":    []any{map[string]any{"content": map[string]any{"role": "model", "parts": []any{answer}}, "finishReason": "STOP", "index": 0}},
		"usageMetadata": map[string]int{"promptTokenCount": 10, "candidatesTokenCount": 10, "totalTokenCount": 20},
	}
	b, _ := json.Marshal(out)
	if strings.Contains(r.URL.Path, "stream") {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %s\n\n", b)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
}

// told is what the agent sent back, and what it asked for.
func (m *model) told() (results, seen []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.results, m.seen
}
