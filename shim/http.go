package shim

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

// roundTrip sends one POST and reads the answer (RFC 9112, as much of it as a
// server on a Unix socket uses): one response per connection, its body framed
// by Content-Length, chunks, or the end of the connection.
func roundTrip(rw io.ReadWriter, path, token string, body []byte) (status int, answer []byte, err error) {
	var req bytes.Buffer
	fmt.Fprintf(&req, "POST %s HTTP/1.1\r\nHost: outcall\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", path, len(body))
	if token != "" {
		fmt.Fprintf(&req, "Authorization: Bearer %s\r\n", token)
	}
	req.WriteString("\r\n")
	req.Write(body)
	if _, err := rw.Write(req.Bytes()); err != nil {
		return 0, nil, err
	}
	return readResponse(rw)
}

var errMalformed = errors.New("malformed answer")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

func readResponse(r io.Reader) (status int, body []byte, err error) {
	br := bufio.NewReader(r)
	left := maxHead
	line, err := readLine(br, &left)
	if err != nil {
		return 0, nil, err
	}
	rest, ok := strings.CutPrefix(line, "HTTP/1.")
	if !ok || len(rest) < 5 || (rest[0] != '0' && rest[0] != '1') || rest[1] != ' ' || len(rest) > 5 && rest[5] != ' ' {
		return 0, nil, malformed("status line %.80q", line)
	}
	if status, err = strconv.Atoi(rest[2:5]); err != nil || status < 200 || status > 599 {
		return 0, nil, malformed("status %.80q", line)
	}
	length, chunked, err := readHeader(br, &left)
	if err != nil {
		return 0, nil, err
	}
	body, err = readBody(br, length, chunked)
	return status, body, err
}

// readHeader returns what frames the body; length is -1 where none is given.
func readHeader(br *bufio.Reader, left *int) (length int, chunked bool, err error) {
	length = -1
	for {
		line, err := readLine(br, left)
		if err != nil {
			return 0, false, err
		}
		if line == "" {
			break
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return 0, false, malformed("header line %.80q", line)
		}
		value = strings.Trim(value, " \t")
		switch {
		case strings.EqualFold(key, "Content-Length"):
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil || length >= 0 && int(n) != length {
				return 0, false, malformed("Content-Length %.80q", value)
			}
			length = int(n)
		case strings.EqualFold(key, "Transfer-Encoding"):
			if !strings.EqualFold(value, "chunked") || chunked {
				return 0, false, malformed("Transfer-Encoding %.80q", value)
			}
			chunked = true
		}
	}
	if chunked && length >= 0 {
		return 0, false, malformed("Content-Length and Transfer-Encoding")
	}
	return length, chunked, nil
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
			return nil, malformed("the body ends early")
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
			return nil, malformed("a chunk ends early")
		}
		if line, err := readLine(br, &left); err != nil || line != "" {
			return nil, malformed("a chunk is too long")
		}
	}
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
