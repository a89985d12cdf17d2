package integration

import (
	"io/fs"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

func TestMain(m *testing.M) { world.Main(m, harness.Build, harness.BuildShort) }

// prompt is how soon a client must see a refusal, in milliseconds. A busy
// machine makes single attempts slow, so tests take the best of some.
const prompt = 50

// allowAPI are the usual flags: the policy P0 of the attacks.
var allowAPI = harness.Allow("api.allowed.test:443", "git.allowed.test:22")

// curl is the command line of one request.
func curl(args ...string) []string {
	return append([]string{"curl", "-sS", "--max-time", "20"}, args...)
}

// onlyQuestions accepts frames to the configured resolver: they are allowed
// names being looked up.
func onlyQuestions(w *world.World) func(world.Frame) bool {
	return func(f world.Frame) bool {
		return f.Dst.Addr() == w.Resolver && f.Dst.Port() == 53 ||
			f.Proto == "icmp" && f.Dst.Addr() == w.Resolver // an answer that came after its socket had gone
	}
}

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

func port(p uint16) string { return strconv.Itoa(int(p)) }

func mustContain(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q:\n%s", what, p, text)
		}
	}
}

func mustLack(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if strings.Contains(text, p) {
			t.Errorf("%s contains %q:\n%s", what, p, text)
		}
	}
}

// ownerOf is the uid of a file's owner.
func ownerOf(fi fs.FileInfo) uint32 { return fi.Sys().(*syscall.Stat_t).Uid }
