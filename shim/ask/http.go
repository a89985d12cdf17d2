package ask

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxHead bounds status line and header fields of a response together, in
// bytes.
const maxHead = 16 << 10

// A request is one call; token "" and body nil are left out.
type request struct {
	method, path, token string
	body                []byte
}

// A response is one answer.
type response struct {
	status int
	body   []byte
	retry  string // Retry-After, if that is a number
}

// roundTrip sends one request and reads the answer (RFC 9112, as much of it as
// a server on a Unix socket uses): one response per connection, its body framed
// by Content-Length, chunks, or the end of the connection.
func roundTrip(rw io.ReadWriter, r request) (response, error) {
	var req bytes.Buffer
	fmt.Fprintf(&req, "%s %s HTTP/1.1\r\nHost: outcall\r\nConnection: close\r\n", r.method, r.path)
	if r.body != nil {
		fmt.Fprintf(&req, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.body))
	}
	if r.token != "" {
		fmt.Fprintf(&req, "Authorization: Bearer %s\r\n", r.token)
	}
	req.WriteString("\r\n")
	req.Write(r.body)
	if _, err := rw.Write(req.Bytes()); err != nil {
		return response{}, err
	}
	return readResponse(rw)
}

var errMalformed = errors.New("malformed answer")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

func readResponse(r io.Reader) (res response, err error) {
	br := bufio.NewReader(r)
	left := maxHead
	line, err := readLine(br, &left)
	if err != nil {
		return res, err
	}
	rest, ok := strings.CutPrefix(line, "HTTP/1.")
	if !ok || len(rest) < 5 || (rest[0] != '0' && rest[0] != '1') || rest[1] != ' ' || len(rest) > 5 && rest[5] != ' ' {
		return res, malformed("status line %.80q", line)
	}
	if res.status, err = strconv.Atoi(rest[2:5]); err != nil || res.status < 200 || res.status > 599 {
		return res, malformed("status %.80q", line)
	}
	h, err := readHeader(br, &left)
	if err != nil {
		return res, err
	}
	res.retry = h.retry
	res.body, err = readBody(br, h.length, h.chunked)
	return res, err
}

// A header is what is read of one. length is -1 where none is given.
type header struct {
	length  int
	chunked bool
	retry   string
}

func readHeader(br *bufio.Reader, left *int) (h header, err error) {
	h.length = -1
	for {
		line, err := readLine(br, left)
		if err != nil {
			return h, err
		}
		if line == "" {
			break
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return h, malformed("header line %.80q", line)
		}
		value = strings.Trim(value, " \t")
		switch {
		case strings.EqualFold(key, "Content-Length"):
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil || h.length >= 0 && int(n) != h.length {
				return h, malformed("Content-Length %.80q", value)
			}
			h.length = int(n)
		case strings.EqualFold(key, "Transfer-Encoding"):
			if !strings.EqualFold(value, "chunked") || h.chunked {
				return h, malformed("Transfer-Encoding %.80q", value)
			}
			h.chunked = true
		case strings.EqualFold(key, "Retry-After"):
			if _, err := strconv.ParseUint(value, 10, 31); err == nil {
				h.retry = value
			}
		}
	}
	if h.chunked && h.length >= 0 {
		return h, malformed("Content-Length and Transfer-Encoding")
	}
	return h, nil
}

func readBody(br *bufio.Reader, length int, chunked bool) ([]byte, error) {
	if chunked {
		return readChunks(br)
	}
	if length > maxBody {
		return nil, malformed("body of %d bytes", length)
	}
	if length >= 0 {
		body := make([]byte, length)
		if _, err := io.ReadFull(br, body); err != nil {
			return nil, early(err, "the body ends early")
		}
		return body, nil
	}
	body, err := io.ReadAll(io.LimitReader(br, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = malformed("body of more than %d bytes", maxBody)
	}
	return body, err
}

func readChunks(br *bufio.Reader) ([]byte, error) {
	var body []byte
	left := maxHead
	for {
		line, err := readLine(br, &left)
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.TrimRight(size, " \t"), 16, 31)
		if err != nil || len(body)+int(n) > maxBody {
			return nil, malformed("chunk %.80q", line)
		}
		if n == 0 {
			return body, nil // trailers are of no interest, the connection closes
		}
		at := len(body)
		body = append(body, make([]byte, n)...)
		if _, err := io.ReadFull(br, body[at:]); err != nil {
			return nil, early(err, "a chunk ends early")
		}
		if line, err := readLine(br, &left); err != nil || line != "" {
			return nil, malformed("a chunk is too long")
		}
	}
}

// early tells the end of the connection from what else can fail, a time-out.
func early(err error, what string) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("%s", what)
	}
	return err
}

// readLine reads to CRLF or LF, within what is left of the head's limit.
func readLine(br *bufio.Reader, left *int) (string, error) {
	var line []byte
	for {
		b, err := br.ReadByte()
		if err == io.EOF {
			return "", malformed("it ends early")
		}
		if err != nil {
			return "", err
		}
		if *left--; *left < 0 {
			return "", malformed("head of more than %d bytes", maxHead)
		}
		if b == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, b)
	}
}
