package netstack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"outcall/netstack/httphead"
)

// chunkedBody is a body in chunks of random sizes, and its plain octets.
func chunkedBody(r *rand.Rand) (wire, plain []byte) {
	for range r.IntN(20) {
		b := bytes.Repeat([]byte{byte('a' + r.IntN(26))}, 1+r.IntN([]int{3, 100, 5000, 70000}[r.IntN(4)]))
		ext := []string{"", ";x=y"}[r.IntN(2)]
		wire = append(fmt.Appendf(wire, "%X%s\r\n", len(b), ext), b...)
		wire, plain = append(wire, "\r\n"...), append(plain, b...)
	}
	wire = append(wire, "0\r\n"...)
	if r.IntN(2) == 0 {
		wire = append(wire, "X-Sum: 42\r\n"...)
	}
	return append(wire, "\r\n"...), plain
}

// arriving cuts b into pieces.
func arriving(t *testing.T, r *rand.Rand, b []byte) *pieces {
	p := &pieces{t: t, l: newLender(1)}
	for len(b) > 0 {
		n := min(len(b), 1+r.IntN([]int{1, 10, 5000, 200000}[r.IntN(4)]))
		p.next, b = append(p.next, b[:n]), b[n:]
	}
	return p
}

// However a chunked body arrives, what goes on is one chunked body of the same
// octets (or these, plain), nothing behind it is read, what Wait announces is
// read without waiting, and a read does not wait with something in its hand.
func TestChunksAreFramedAnew(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		wire, plain := chunkedBody(r)
		from := arriving(t, r, append(wire, "GET /next"...))
		src := read{bufio.NewReaderSize(from, smallBuffer), from}
		framed := r.IntN(3) > 0
		c := newChunks(src, framed, true)
		var out []byte
		for {
			n, err := c.Wait()
			if err == io.EOF {
				break
			}
			if err != nil || n == 0 {
				t.Fatalf("seed %d: Wait: %d, %v", seed, n, err)
			}
			from.still = true
			exact := r.IntN(2) == 0 // as a puller does, or by a buffer
			for buf := make([]byte, 1<<20); n > 0; {
				b := buf
				if exact {
					b = buf[:1+r.IntN(n)]
				}
				k, err := c.Read(b)
				if err != nil || k == 0 {
					t.Fatalf("seed %d: Read with %d announced: %d, %v", seed, n, k, err)
				}
				out, n = append(out, b[:k]...), n-k
			}
			from.still = false
		}
		got := out
		if framed {
			var err error
			if got, err = io.ReadAll(httphead.NewChunked(bufio.NewReader(bytes.NewReader(out)))); err != nil {
				t.Fatalf("seed %d: what goes on: %v", seed, err)
			}
		}
		if !bytes.Equal(got, plain) {
			t.Fatalf("seed %d: %d octets of %d, or others", seed, len(got), len(plain))
		}
		if rest, err := io.ReadAll(src); string(rest) != "GET /next" {
			t.Fatalf("seed %d: behind the body: %q, %v", seed, rest, err)
		}
	}
}

// A body that is cut off or malformed does not end like a whole one.
func TestChunksCutOff(t *testing.T) {
	for _, wire := range []string{"", "5", "5\r\n", "5\r\nab", "5\r\nabcde", "5\r\nabcde\r\n", "5\r\nabcdeX\r\n0\r\n\r\n",
		"5\r\nabcde\r\n0\r\n", "5\nabcde\r\n0\r\n\r\n", "x\r\n", "5\r\nabcde\r\nx\r\n"} {
		from := &pieces{t: t, l: newLender(1), next: [][]byte{[]byte(wire)}}
		f := &flow{lender: from.l}
		var out bytes.Buffer
		err := f.pump(&out, newChunks(read{bufio.NewReaderSize(from, smallBuffer), from}, true, true), &f.in, nil)
		if err == nil || strings.HasSuffix(out.String(), "0\r\n\r\n") {
			t.Errorf("%q went on as %q: %v", wire, out.String(), err)
		}
	}
}

// A size that some server's integer does not hold would end there early, and
// what follows be its next request: no chunk goes on with such a size.
func TestLargeChunksAreSplit(t *testing.T) {
	for _, size := range []int64{maxChunk, maxChunk + 1, 2*maxChunk + 7, 1 << 31, 1 << 32, 1<<32 + 5, 1<<60 - 1} {
		data := bytes.Repeat([]byte("0123456789abcde\n"), 3*maxChunk/16)
		data = data[:min(size, int64(len(data)))]
		wire, whole := append(fmt.Appendf(nil, "%x\r\n", size), data...), int64(len(data)) == size
		if whole {
			wire = append(wire, "\r\n0\r\n\r\n"...)
		}
		from := arriving(t, rand.New(rand.NewPCG(uint64(size), 1)), wire)
		f := &flow{lender: from.l}
		var out bytes.Buffer
		err := f.pump(&out, newChunks(read{bufio.NewReaderSize(from, smallBuffer), from}, true, true), &f.in, nil)
		if whole != (err == nil) {
			t.Errorf("%x: %v", size, err)
		}
		for rest, got := out.Bytes(), []byte(nil); ; {
			line, behind, _ := bytes.Cut(rest, []byte(crlf))
			n, err := strconv.ParseInt(string(line), 16, 64)
			if err != nil || n > maxChunk {
				t.Errorf("%x: behind %d octets, a chunk of %q goes on", size, len(got), line)
				break
			}
			k := min(int(n), len(behind))
			if got = append(got, behind[:k]...); k < int(n) || n == 0 {
				if !bytes.Equal(got, data[:len(got)]) || whole && len(got) < len(data) {
					t.Errorf("%x: %d octets of %d, or others", size, len(got), len(data))
				}
				break
			}
			rest = bytes.TrimPrefix(behind[k:], []byte(crlf))
			if len(rest) == 0 {
				break // cut off at a chunk's end
			}
		}
	}
}

// Whatever is sent as a chunked body, what goes on says what the strict reader
// says: the same octets, whole where that one finds it whole, and as much of
// what follows is left.
func TestChunksAgreeWithTheReader(t *testing.T) {
	whole := 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 3))
		wire, _ := chunkedBody(r)
		if len(wire) > 20000 {
			continue
		}
		for range r.IntN(3) {
			odd := []byte("\r\n\r\n00019afAFg;= \x00\xff-+x")
			switch at := r.IntN(len(wire)); r.IntN(4) {
			case 0:
				wire[at] = odd[r.IntN(len(odd))]
			case 1:
				wire = append(wire[:at], wire[at+1:]...)
			case 2:
				wire = append(wire[:at], append([]byte{odd[r.IntN(len(odd))]}, wire[at:]...)...)
			case 3:
				wire = wire[:at+1]
			}
			if len(wire) == 0 {
				wire = []byte("0")
			}
		}
		wire = append(wire, "GET /next"...)
		strict := bufio.NewReaderSize(bytes.NewReader(wire), smallBuffer)
		want, wantErr := io.ReadAll(httphead.NewChunked(strict))
		rest, _ := io.ReadAll(strict)

		from := arriving(t, r, wire)
		src := read{bufio.NewReaderSize(from, smallBuffer), from}
		f := &flow{lender: from.l}
		var out bytes.Buffer
		framed := r.IntN(2) == 0
		err := f.pump(&out, newChunks(src, framed, true), &f.in, nil)
		got := out.Bytes()
		if framed {
			var gotErr error
			got, gotErr = io.ReadAll(httphead.NewChunked(bufio.NewReader(&out)))
			if (gotErr == nil) != (err == nil) {
				t.Fatalf("seed %d: %q: %v, and what goes on: %v", seed, wire, err, gotErr)
			}
		}
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Fatalf("seed %d: %q went on as %q, %v; the reader: %q, %v", seed, wire, got, err, want, wantErr)
		}
		if err == nil {
			whole++
			if behind, err := io.ReadAll(src); !bytes.Equal(behind, rest) {
				t.Fatalf("seed %d: behind %q: %q, %v; the reader leaves %q", seed, wire, behind, err, rest)
			}
		} else if errors.Is(err, io.EOF) {
			t.Fatalf("seed %d: %q ends by EOF", seed, wire)
		}
	}
	if whole < 200 {
		t.Errorf("%d bodies were whole", whole)
	}
}
