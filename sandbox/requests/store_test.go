package requests

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("REQUESTS_WRITER"); dir != "" {
		writeForEver(dir)
		return
	}
	os.Exit(m.Run())
}

// open is a store with a clock.
func open(t testing.TB) (*Store, *time.Time) {
	t.Helper()
	clock := time.Unix(1_800_000_000, 0)
	s := at(t, filepath.Join(t.TempDir(), "requests~"), t.TempDir())
	s.now = func() time.Time { return clock }
	return s, &clock
}

func at(t testing.TB, dir, project string) *Store {
	t.Helper()
	s, err := Open(dir, project)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func id(n int) string { return fmt.Sprintf("rr-%012x", n) }

func add(t testing.TB, s *Store, n int, text string) Request {
	t.Helper()
	r, err := s.Add(t.Context(), Request{ID: id(n), Session: "one", Agent: "a", Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// is demands a request's status.
func is(t *testing.T, s *Store, n int, status, reason string) Request {
	t.Helper()
	r, err := s.Get(t.Context(), id(n))
	if err != nil || r.Status != status || r.Reason != reason {
		t.Errorf("%s is %q (%q), %v, want %s", id(n), r.Status, r.Reason, err, status)
	}
	return r
}

func TestLife(t *testing.T) {
	s, clock := open(t)
	ctx := t.Context()
	for n, text := range []string{"a", "b", "c", "d"} {
		add(t, s, n, text)
	}
	if r := add(t, s, 9, "a"); r.ID != id(0) {
		t.Errorf("the same text is %s", r.ID)
	}
	until := clock.Add(time.Minute)
	if _, err := s.Approve(ctx, id(0), Hash("a"), until); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Approve(ctx, id(1), Hash("b"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reject(ctx, id(2), "no"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what string
		err  error
		want any
	}{
		{"approve what was rejected", second(s.Approve(ctx, id(2), Hash("c"), until)), &StatusError{id(2), Rejected}},
		{"approve twice", second(s.Approve(ctx, id(1), Hash("b"), until)), &StatusError{id(1), Approved}},
		{"reject what is approved", second(s.Reject(ctx, id(1), "x")), &StatusError{id(1), Approved}},
		{"revoke what waits", second(s.Revoke(ctx, id(3), "x")), &StatusError{id(3), Pending}},
		{"approve another text", second(s.Approve(ctx, id(3), Hash("a"), until)), ErrChanged},
		{"approve nothing", second(s.Approve(ctx, id(7), Hash("a"), until)), ErrNotFound},
		{"reject nothing", second(s.Reject(ctx, id(7), "x")), ErrNotFound},
	} {
		if !same(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.what, tt.err, tt.want)
		}
	}
	is(t, s, 3, Pending, "")
	// Another process, later: what was answered is there, the text of what ended
	// is not.
	later := at(t, s.dir, s.Project)
	later.now = s.now
	is(t, later, 0, Approved, "")
	if r := is(t, later, 2, Rejected, "no"); r.Text != "" || r.SHA256 != Hash("c") {
		t.Errorf("%+v", r)
	}
	*clock = until
	is(t, later, 0, Expired, "")
	if err := later.Expire(ctx); err != nil {
		t.Fatal(err)
	}
	*clock = clock.Add(-time.Hour)
	is(t, later, 0, Expired, "")
	if r := add(t, s, 10, "a"); r.ID != id(10) {
		t.Errorf("what has expired cannot be asked for again: %s", r.ID)
	}
	if r := add(t, s, 11, "c"); r.ID != id(2) {
		t.Errorf("what was rejected is asked for again: %s", r.ID)
	}
	if _, err := s.Revoke(ctx, id(1), "enough"); err != nil {
		t.Fatal(err)
	}
	is(t, later, 1, Rejected, "enough")
}

func second(_ Request, err error) error { return err }

func same(err error, want any) bool {
	if w, ok := want.(*StatusError); ok {
		got, ok := errors.AsType[*StatusError](err)
		return ok && *got == *w
	}
	return errors.Is(err, want.(error))
}

func TestUndo(t *testing.T) {
	s, _ := open(t)
	add(t, s, 1, "a")
	if _, err := s.Approve(t.Context(), id(1), Hash("a"), s.now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := s.Undo(t.Context(), id(1)); err != nil {
		t.Fatal(err)
	}
	if r := is(t, s, 1, Pending, ""); !r.Expires.IsZero() || !r.Answered.IsZero() {
		t.Errorf("%+v", r)
	}
}

func TestReason(t *testing.T) {
	s, _ := open(t)
	add(t, s, 1, "a")
	for reason, want := range map[string]string{
		"": "blank", " \t ": "blank", strings.Repeat("x", MaxReason+1): "1025 bytes", "a\nb": "control", "a\x1b[2J": "control",
		"a\u202eb": "control", "a\xff": "control", "a\u2028b": "control",
	} {
		if _, err := s.Reject(t.Context(), id(1), reason); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %s", reason, err, want)
		}
	}
	if _, err := s.Reject(t.Context(), id(1), strings.Repeat("é", MaxReason/2)); err != nil {
		t.Error(err)
	}
}

// C3: ten thousand requests. What waits is kept, the rest is refused, and the
// file stays small.
func TestC3ManyRequests(t *testing.T) {
	s, clock := open(t)
	ctx := t.Context()
	full := 0
	for n := range 10_000 {
		_, err := s.Add(ctx, Request{ID: id(n), Text: fmt.Sprintf("%d", n)})
		if errors.Is(err, ErrFull) {
			full++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != maxPending || full != 10_000-maxPending || list[0].ID != id(0) {
		t.Errorf("%d are kept, %d were refused, %v", len(list), full, err)
	}
	// Answered ones make room, and are pruned by number and by age.
	for n := range maxAnswered + 10 {
		list = append(list, Request{ID: id(20_000 + n), Status: Rejected, SHA256: Hash(fmt.Sprint("old", n)), Submitted: clock.UTC()})
	}
	if err := s.write(list); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reject(ctx, id(0), "no"); err != nil {
		t.Fatal(err)
	}
	add(t, s, 30_000, "there is room")
	if list, err = s.List(ctx); err != nil || len(list) != maxPending+maxAnswered || list[len(list)-1].ID != id(30_000) {
		t.Errorf("%d are kept: %v", len(list), err)
	}
	*clock = clock.Add(keepFor)
	if _, err := s.Reject(ctx, id(30_000), "no"); err != nil {
		t.Fatal(err)
	}
	if list, _ = s.List(ctx); len(list) != maxPending-1 {
		t.Errorf("%d are kept after a month", len(list))
	}
	fi, err := os.Stat(s.Path())
	if err != nil || fi.Size() > 1<<20 {
		t.Errorf("%d bytes, %v", fi.Size(), err)
	}
}

func TestLimitsOfTexts(t *testing.T) {
	s, _ := open(t)
	if _, err := s.Add(t.Context(), Request{ID: id(1), Text: strings.Repeat("x", MaxText+1)}); err == nil {
		t.Error("a text that is too long is kept")
	}
	big := strings.Repeat("x", MaxText-3)
	n := 0
	for ; n < maxPending; n++ {
		_, err := s.Add(t.Context(), Request{ID: id(n), Text: fmt.Sprintf("%s%03d", big, n)})
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n != maxTexts/MaxText {
		t.Errorf("%d texts of %d bytes are kept", n, MaxText)
	}
}

// K19: the body has changed after it was shown.
func TestK19ChangedBody(t *testing.T) {
	s, _ := open(t)
	shown := add(t, s, 1, "version: 1")
	data, err := os.ReadFile(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	// With a hash that fits, and without.
	for _, sum := range []string{Hash("version: 2"), shown.SHA256} {
		changed := strings.Replace(strings.Replace(string(data), "version: 1", "version: 2", 1), shown.SHA256, sum, 1)
		if err := os.WriteFile(s.Path(), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Approve(t.Context(), id(1), shown.SHA256, time.Time{}); err == nil || sum != shown.SHA256 && !errors.Is(err, ErrChanged) {
			t.Errorf("approved by the hash of another text: %v", err)
		}
	}
}

func TestCorruption(t *testing.T) {
	good := func() (*Store, string) {
		s, _ := open(t)
		add(t, s, 1, "a")
		data, err := os.ReadFile(s.Path())
		if err != nil {
			t.Fatal(err)
		}
		return s, string(data)
	}
	for what, spoil := range map[string]func(s string) string{
		"cut":             func(s string) string { return s[:len(s)/2] },
		"empty":           func(string) string { return "" },
		"binary":          func(string) string { return "\x00\xff" },
		"more behind":     func(s string) string { return s + "{}" },
		"unknown key":     func(s string) string { return strings.Replace(s, `"project"`, `"x":1,"project"`, 1) },
		"version":         func(s string) string { return strings.Replace(s, `"version":1`, `"version":2`, 1) },
		"other project":   func(s string) string { return strings.Replace(s, `"project":"`, `"project":"/x`, 1) },
		"id":              func(s string) string { return strings.Replace(s, `rr-0`, `rr-/`, 1) },
		"status":          func(s string) string { return strings.Replace(s, `pending`, `granted`, 1) },
		"text without it": func(s string) string { return strings.Replace(s, `"rule_file":"a"`, `"rule_file":"b"`, 1) },
		"approved text": func(s string) string {
			return strings.NewReplacer("pending", "approved", `"rule_file":"a"`, `"rule_file":"b"`).Replace(s)
		},
	} {
		s, data := good()
		if err := os.WriteFile(s.Path(), []byte(spoil(data)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.List(t.Context())
		if err == nil || !strings.Contains(err.Error(), s.Path()+" is corrupt") || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := s.Add(t.Context(), Request{ID: id(2), Text: "z"}); err == nil {
			t.Errorf("%s: written over", what)
		}
		if left, _ := os.ReadFile(s.Path()); string(left) != spoil(data) {
			t.Errorf("%s: changed", what)
		}
		if err := os.Remove(s.Path()); err != nil {
			t.Fatal(err)
		}
		add(t, s, 3, "a")
	}
}

func TestWhoseFile(t *testing.T) {
	s, _ := open(t)
	add(t, s, 1, "a")
	for _, f := range []string{s.dir, s.Path()} {
		want := os.FileMode(0o600)
		if f == s.dir {
			want = 0o700
		}
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v %v", f, fi.Mode(), err)
		}
	}
	os.Chmod(s.Path(), 0o640)
	if _, err := s.List(t.Context()); err == nil {
		t.Error("a file that others can read is taken")
	}
	os.Remove(s.Path())
	if err := os.Symlink("/etc/passwd", s.Path()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(t.Context()); err == nil {
		t.Error("a symlink is followed")
	}
	os.Chmod(s.dir, 0o755)
	if _, err := Open(s.dir, s.Project); err == nil {
		t.Error("a directory that others can read is taken")
	}
}

// Every project has a file of its own; another's id is not known.
func TestC2OtherProject(t *testing.T) {
	s, _ := open(t)
	add(t, s, 1, "a")
	other := at(t, s.dir, t.TempDir())
	if _, err := other.Get(t.Context(), id(1)); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := other.Approve(t.Context(), id(1), Hash("a"), time.Time{}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(s.Project, link); err != nil {
		t.Fatal(err)
	}
	is(t, at(t, s.dir, link), 1, Pending, "")
}

// Many writers, in several stores of one project: no change is lost.
func TestManyWriters(t *testing.T) {
	s, _ := open(t)
	var wg sync.WaitGroup
	for w := range 4 {
		own := at(t, s.dir, s.Project)
		wg.Go(func() {
			for n := range 4 {
				if _, err := own.Add(context.Background(), Request{ID: id(w*4 + n), Text: fmt.Sprint(w, n)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if list, err := s.List(t.Context()); err != nil || len(list) != 16 {
		t.Errorf("%d requests, %v", len(list), err)
	}
}

func TestWatch(t *testing.T) {
	s, _ := open(t)
	other := at(t, s.dir, s.Project)
	ctx, cancel := context.WithCancel(t.Context())
	changed, err := s.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		add(t, other, n, fmt.Sprint(n))
		deadline := time.After(time.Minute)
		for { // one change may be told several times, and the one before late
			if list, _ := s.List(ctx); len(list) == n+1 {
				break
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatal("a change is not told")
			}
		}
	}
	cancel()
	deadline := time.After(time.Minute)
	for open := true; open; {
		select {
		case _, open = <-changed:
		case <-deadline:
			t.Fatal("it goes on after its end")
		}
	}
}

// A writer that is killed at any moment leaves a file that can be read, with
// every change that it has told of.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	for round := range 6 {
		project := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "REQUESTS_WRITER="+filepath.Join(dir, "requests~")+"\n"+project)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(out)
		told := 0
		for range round%4 + 1 {
			if _, err := in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			told++
		}
		time.Sleep(time.Duration(round) * 600 * time.Microsecond)
		cmd.Process.Kill()
		rest, _ := io.ReadAll(in)
		cmd.Wait()
		told += strings.Count(string(rest), "\n")
		s := at(t, filepath.Join(dir, "requests~"), project)
		list, err := s.List(t.Context())
		if err != nil || len(list) < min(told, maxPending) {
			t.Errorf("round %d: %d of %d, %v", round, len(list), told, err)
		}
		// And the next writer goes on.
		if len(list) < maxPending {
			add(t, s, 1_000_000, "next")
		}
	}
}

// writeForEver is the writer that is killed.
func writeForEver(where string) {
	dir, project, _ := strings.Cut(where, "\n")
	s, err := Open(dir, project)
	for n := 0; err == nil; n++ {
		_, err = s.Add(context.Background(), Request{ID: id(n), Text: strings.Repeat("x", 8192) + fmt.Sprint(n)})
		fmt.Println(n)
	}
	time.Sleep(time.Minute)
}
