package mcp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"outcall/shim/ask"
)

// maxLine bounds one message, in bytes; a rule file has 64 KiB at most, and
// JSON may write a byte as six.
const maxLine = 512 << 10

// Protocol versions that are served, the newest first. What is used of them is
// the same in all.
var versions = []string{"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"}

// Error codes of JSON-RPC 2.0.
const (
	parseError     = -32700
	invalidRequest = -32600
	noMethod       = -32601
	invalidParams  = -32602
)

// A Server answers one client.
type Server struct {
	Client  ask.Client
	Timeout time.Duration // of one call
	Version string
	Dir     string // what relative paths are relative to
}

type request struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
}

type response struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  any             `json:"result,omitempty"`
	Error   *rpcError       `json:"error,omitempty"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// Serve answers until in ends or ctx is done.
func (s *Server) Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	r := bufio.NewReaderSize(in, 64<<10)
	for ctx.Err() == nil {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var res *response
		switch {
		case errors.Is(err, errLong):
			res = failed(nil, parseError, fmt.Sprintf("a message of more than %d bytes", maxLine))
		case err != nil:
			return err
		case len(bytes.TrimSpace(line)) == 0:
			continue
		default:
			res = s.answer(ctx, line)
		}
		if res == nil {
			continue
		}
		b, err := json.Marshal(res)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return ctx.Err()
}

var errLong = errors.New("line too long")

// readLine reads a line; of one that is too long nothing is kept.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if long = long || len(line)+len(part) > maxLine; long {
			line = nil
		} else {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && (!errors.Is(err, io.EOF) || len(line) == 0 && !long):
			return nil, err
		case long:
			return nil, errLong
		}
		return line, nil
	}
}

func failed(id json.RawMessage, code int, text string) *response {
	if id == nil {
		id = json.RawMessage("null")
	}
	return &response{Version: "2.0", ID: id, Error: &rpcError{code, text}}
}

// answer handles one message; nil where none is due.
func (s *Server) answer(ctx context.Context, line []byte) *response {
	var q request
	if err := json.Unmarshal(line, &q); err != nil {
		if json.Valid(line) {
			return failed(nil, invalidRequest, "no JSON-RPC request")
		}
		return failed(nil, parseError, "no JSON")
	}
	id := q.ID
	if len(id) > 0 && (id[0] == '{' || id[0] == '[' || string(id) == "null" || len(id) > 256) {
		return failed(nil, invalidRequest, "id: want a string or a number")
	}
	if q.Version != "2.0" || q.Method == "" {
		if q.Method == "" && len(id) > 0 {
			return nil // an answer: nothing was asked of the client
		}
		return failed(id, invalidRequest, "no JSON-RPC 2.0 request")
	}
	if len(id) == 0 {
		return nil // a notification
	}
	result, err := s.method(ctx, q)
	if e, ok := errors.AsType[*rpcError](err); ok {
		return failed(id, e.Code, e.Message)
	}
	return &response{Version: "2.0", ID: id, Result: result}
}

// Error implements error.
func (e *rpcError) Error() string { return e.Message }

func (s *Server) method(ctx context.Context, q request) (any, error) {
	switch q.Method {
	case "initialize":
		var in struct {
			ProtocolVersion string `json:"protocolVersion"`
		}
		if err := json.Unmarshal(q.Params, &in); err != nil {
			return nil, &rpcError{invalidParams, "initialize: params cannot be read"}
		}
		if !slices.Contains(versions, in.ProtocolVersion) {
			in.ProtocolVersion = versions[0]
		}
		return map[string]any{
			"protocolVersion": in.ProtocolVersion,
			"capabilities":    map[string]any{"tools": map[string]any{}},
			"serverInfo":      map[string]any{"name": "outcall", "version": s.Version},
			"instructions":    "This session's network and tools are under outcall's policy. A denial carries an id (d-…): ask why, do not retry, and propose a rule if the task needs it.",
		}, nil
	case "ping":
		return map[string]any{}, nil
	case "tools/list":
		return map[string]any{"tools": list()}, nil
	case "tools/call":
		return s.call(ctx, q.Params)
	}
	return nil, &rpcError{noMethod, "no such method"}
}
