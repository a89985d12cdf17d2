package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"outcall/policy"
)

// record writes n allows and returns its lines, each with its newline.
func record(t testing.TB, n int) (lines [][]byte, head string) {
	t.Helper()
	m := &memory{}
	w := newWriter(Options{}, m)
	for i := range n {
		w.Record(allow(fmt.Sprintf("n%d.test", i)))
	}
	w.Close()
	return bytes.SplitAfter(m.b.Bytes(), []byte("\n"))[:n], w.Head()
}

// C13: whatever is done to a line is found at that line.
func TestVerifyFindsTheFirstBadLine(t *testing.T) {
	lines, head := record(t, 5)
	join := func(l ...[]byte) string { return string(bytes.Join(l, nil)) }
	edited := []byte(strings.Replace(string(lines[2]), "n2.test", "x2.test", 1))
	recount := []byte(strings.Replace(string(lines[2]), `"seq":3`, `"seq":9`, 1))
	for name, c := range map[string]struct {
		text string
		head string
		bad  int
	}{
		"whole":            {join(lines...), head, 0},
		"no head":          {join(lines...), "", 0},
		"empty":            {"", "", 0},
		"empty, genesis":   {"", Genesis, 0},
		"empty, a head":    {"", head, 1},
		"deleted":          {join(lines[0], lines[1], lines[3], lines[4]), head, 3},
		"first deleted":    {join(lines[1:]...), head, 1},
		"edited":           {join(lines[0], lines[1], edited, lines[3], lines[4]), head, 4},
		"last edited":      {join(lines[0], lines[1], edited), head, 4},
		"seq edited":       {join(lines[0], lines[1], recount, lines[3]), "", 3},
		"reordered":        {join(lines[0], lines[2], lines[1], lines[3], lines[4]), head, 2},
		"doubled":          {join(lines[0], lines[0], lines[1]), "", 2},
		"truncated":        {join(lines[:3]...), head, 4},
		"truncated inside": {join(lines[:3]...)[:len(join(lines[:3]...))-9], "", 3},
		"no newline":       {strings.TrimSuffix(join(lines...), "\n"), "", 5},
		"inserted":         {join(lines[0], []byte(`{"event":"verdict","seq":2}`+"\n"), lines[1]), "", 2},
		"empty line":       {join(lines[0], []byte("\n"), lines[1]), "", 2},
		"no event":         {join(lines[0], []byte("{}\n"), lines[1]), "", 2},
		"too long":         {join(lines[0], bytes.Repeat([]byte{'a'}, 2*MaxLine), []byte("\n")), "", 2},
		"two in one":       {join(lines[0], bytes.TrimSpace(lines[1]), lines[2]), "", 2},
	} {
		bad, err := Verify(strings.NewReader(c.text), c.head)
		if bad != c.bad || (err != nil) != (c.bad != 0) {
			t.Errorf("%s: line %d (%v), want %d", name, bad, err, c.bad)
		}
	}
	broken := errors.New("broken")
	if bad, err := Verify(iotest.ErrReader(broken), ""); bad != 0 || !errors.Is(err, broken) {
		t.Errorf("a read error: %d, %v", bad, err)
	}
}

// A newline in a name is no way to forge a line.
func TestNewlineForgesNothing(t *testing.T) {
	m := &memory{}
	w := newWriter(Options{}, m)
	e := deny("a\n{\"event\":\"verdict\",\"verdict\":\"allow\"}\n")
	e.Path, e.Host, e.Reason = e.Query, e.Query, e.Query
	e.Process = &policy.Process{Exe: e.Query, Args: []string{e.Query}}
	w.Record(e)
	w.Close()
	if n := bytes.Count(m.b.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
	m.verify(t, w.Head())
}

// What sha256sum says of the last line is the head.
func TestHeadIsTheLastLinesHash(t *testing.T) {
	lines, head := record(t, 3)
	sum := sha256.Sum256(lines[2])
	if head != hex.EncodeToString(sum[:]) {
		t.Errorf("head %s is not the hash of %s", head, lines[2])
	}
}

func TestRead(t *testing.T) {
	lines, _ := record(t, 3)
	text := string(bytes.Join(lines, nil))
	stop := errors.New("stop")
	n := 0
	err := Read(strings.NewReader(text), func([]byte, policy.Event) error {
		if n++; n == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 2 {
		t.Errorf("%d lines, %v", n, err)
	}
	err = Read(strings.NewReader(text+"x\n"), func([]byte, policy.Event) error { return nil })
	if err == nil || !strings.HasPrefix(err.Error(), "line 4: ") {
		t.Errorf("a bad line: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	lines, head := record(f, 3)
	f.Add(bytes.Join(lines, nil), head)
	f.Add([]byte("{}\n"), "")
	f.Add([]byte("{\"event\":\"x\",\"seq\":18446744073709551615,\"count\":-1}\n"), "")
	f.Fuzz(func(t *testing.T, b []byte, head string) {
		bad, err := Verify(bytes.NewReader(b), head)
		if (bad == 0) != (err == nil) {
			t.Errorf("line %d with %v", bad, err)
		}
		whole := bytes.Count(b, []byte("\n"))
		if err == nil && len(b) > 0 && b[len(b)-1] != '\n' {
			t.Errorf("a last line without end was taken among %d", whole)
		}
		_ = Read(bytes.NewReader(b), func(line []byte, e policy.Event) error {
			if s := Text(e); strings.ContainsAny(s, "\n\x1b") {
				t.Errorf("%q", s)
			}
			return nil
		})
	})
}
