package bench

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outcall/integration/harness"
	"outcall/integration/world"
)

func TestMain(m *testing.M) { world.Main(m, harness.Build) }

// What one measurement moves, and how often it is repeated. The ways take turns,
// and the median of each counts: a machine is now slower and now faster, and on
// two processors a good deal is luck, of who runs where.
const (
	rounds   = 9
	starts   = 15
	stream   = 1 << 30
	requests = 500
)

// Ports of the servers of a stream that is not HTTP.
const (
	downPort = 3001
	upPort   = 3002
)

// A path is one way from a client to the small internet.
type path struct {
	name string
	host string // where the client connects instead of the server; "" is itself
	cmd  func(script string) *exec.Cmd
}

// BenchmarkAgainstOthers prints one table; b.N is not looked at.
func BenchmarkAgainstOthers(b *testing.B) {
	bed := harness.New(b)
	needed(b, bed)
	// What the tests look for is no part of an internet: it would cost the
	// machine a copy of all that is sent up.
	if err := bed.Capture.Stop(); err != nil {
		b.Fatal(err)
	}
	bed.Origins.Handle("/down", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { zeros(w) }))
	bed.Origins.Handle("/up", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { discard(r.Body) }))
	bed.Stand(b, downPort, func(c *net.TCPConn) { zeros(c) })
	bed.Stand(b, upPort, func(c *net.TCPConn) {
		discard(io.LimitReader(c, stream))
		_, _ = io.WriteString(c, "all of it\n")
	})
	for _, port := range []int{80, 443, downPort, upPort} {
		kernelRelay(b, port)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("\n%s, %d CPUs, kernel %s; go test -run '^$' -bench . ./integration/bench\n", cpu(), runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]))
	allow := harness.Allow(host, fmt.Sprintf("%s:%d", host, downPort), fmt.Sprintf("%s:%d", host, upPort))
	paths := []path{
		{"no sandbox", "", func(s string) *exec.Cmd { return bed.Program("sh", "-c", s) }},
		{"kernel relay", "127.0.0.1", func(s string) *exec.Cmd { return bed.Program("sh", "-c", s) }},
		{"outcall", "", func(s string) *exec.Cmd {
			cmd, _ := bed.SandboxCommand(append(allow, "--no-proxy"), "sh", "-c", s)
			return cmd
		}},
		{"slirp4netns", "", func(s string) *exec.Cmd { return slirp(bed, s) }},
	}
	mib := float64(stream >> 20)
	table(b, "one TCP stream down", "MiB/s", mib, paths, func(p path) string {
		return fmt.Sprintf("bash -c 'dd bs=256K of=/dev/null status=none <>/dev/tcp/%s/%d'", p.to(), downPort)
	})
	table(b, "one TCP stream up", "MiB/s", mib, paths, func(p path) string {
		// The server says when it has arrived.
		return fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/%s/%d; dd if=/dev/zero bs=256K count=%d status=none >&3 && read -r <&3'",
			p.to(), upPort, stream/(256<<10))
	})
	table(b, "one HTTP download", "MiB/s", mib, paths, func(p path) string {
		return "curl -sSf -o /dev/null " + p.curl() + "http://" + host + "/down"
	})
	table(b, "one HTTP upload", "MiB/s", mib, paths, func(p path) string {
		return fmt.Sprintf("head -c %d /dev/zero | curl -sSf -o /dev/null -T - %shttp://%s/up", stream, p.curl(), host)
	})
	table(b, "small HTTPS requests, a connection each", "per s", requests, paths, func(p path) string {
		return fmt.Sprintf("curl --http1.1 -sSf -H 'Connection: close' -o /dev/null %s'https://%s/?[1-%d]'", p.curl(), host, requests)
	})
}

const host = "api.allowed.test"

func (p path) to() string {
	if p.host == "" {
		return host
	}
	return p.host
}

// curl is the option that leads curl another way.
func (p path) curl() string {
	if p.host == "" {
		return ""
	}
	return "--connect-to ::" + p.host + ": "
}

// kernelRelay is what any relay in user space costs at least: it reads from one
// socket and writes to the other one, and both are the kernel's.
func kernelRelay(b *testing.B, port int) {
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go relay(c, port)
		}
	}()
}

func relay(c net.Conn, port int) {
	defer c.Close()
	up, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return // the client sees it
	}
	defer up.Close()
	done := make(chan struct{})
	one := func(dst, src net.Conn) {
		// Behind plain interfaces, lest the kernel move it by splice.
		_, _ = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, 256<<10))
		_ = dst.(*net.TCPConn).CloseWrite()
	}
	go func() { defer close(done); one(c, up) }()
	one(up, c)
	<-done
}

// BenchmarkStart prints the table of starts; b.N is not looked at.
func BenchmarkStart(b *testing.B) {
	bed := harness.New(b)
	needed(b, bed)
	startTable(b, bed)
}

// needed fails where a program is missing that this compares with.
func needed(b *testing.B, bed *harness.Bed) {
	for program, pkg := range map[string]string{"bash": "bash", "curl": "curl", "unshare": "util-linux", "bwrap": "bubblewrap", "slirp4netns": "slirp4netns"} {
		if err := run(bed.Program("sh", "-c", "command -v "+program)); err != nil {
			b.Fatalf("%s is not installed: apt-get install %s (make bench does it for root)", program, pkg)
		}
	}
}

func zeros(w io.Writer) {
	buf := make([]byte, 256<<10)
	for range stream / len(buf) {
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

func discard(r io.Reader) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 256<<10))
}

// run runs a command that must succeed.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

// slirp is a script in a network namespace that slirp4netns serves. The shell
// waits until the interface is there.
func slirp(bed *harness.Bed, script string) *exec.Cmd {
	return bed.Program("sh", "-c", `
rm -f "$0".*; mkfifo "$0.go"
unshare -rnm sh -c 'echo $$ >'"$0"'.pid; read go <'"$0"'.go || exit 1
	echo "nameserver 10.0.2.3" >'"$0"'.resolv; mount --bind '"$0"'.resolv /etc/resolv.conf; '"$1" &
work=$!
until [ -s "$0.pid" ]; do kill -0 $work || exit 1; sleep 0.01; done
slirp4netns --configure --mtu=65520 --disable-host-loopback --ready-fd=4 "$(cat "$0.pid")" tap0 4>"$0.ready" >"$0.log" 2>&1 &
slirp=$!
until [ -s "$0.ready" ]; do kill -0 $slirp 2>/dev/null || { cat "$0.log"; kill $work; exit 1; }; sleep 0.01; done
echo go >"$0.go"; wait $work; code=$?
kill $slirp; rm -f "$0".*; exit $code`, bed.Home+"/slirp", script)
}

// startTable measures how long it takes to start a command that does nothing.
func startTable(b *testing.B, bed *harness.Bed) {
	outcall := median(b, func() error { return run(bed.Command("run", "-q", "--", "true")) })
	fmt.Printf("\nstart of `true`, median of %d\n  %-14s %8.1f ms\n", starts, "outcall run", ms(outcall))
	bwrap := median(b, func() error { return run(bed.Program("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true")) })
	fmt.Printf("  %-14s %8.1f ms   outcall takes %.1f times as long\n", "bwrap", ms(bwrap), float64(outcall)/float64(bwrap))
	b.ReportMetric(float64(outcall)/float64(bwrap), "start/bwrap")
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(b *testing.B, f func() error) time.Duration {
	var took []time.Duration
	for range starts {
		begin := time.Now()
		if err := f(); err != nil {
			b.Fatal(oneLine(err))
		}
		took = append(took, time.Since(begin))
	}
	return middle(took)
}

// timed runs a script on a path, and returns what the work took there: no start
// of a sandbox is in it, nor its end.
func timed(b *testing.B, p path, script string) time.Duration {
	quoted := strings.ReplaceAll(script, "'", `'\''`)
	out, err := p.cmd("bash -c 'begin=$EPOCHREALTIME; " + quoted + "; code=$?; echo \"took $begin $EPOCHREALTIME\"; exit $code'").CombinedOutput()
	if err != nil {
		b.Fatalf("%s: %s: %v: %s", p.name, script, err, strings.TrimSpace(string(out)))
	}
	var from, to float64 // seconds since 1970
	_, text, _ := strings.Cut(string(out), "took ")
	if _, err := fmt.Sscan(strings.ReplaceAll(text, ",", "."), &from, &to); err != nil {
		b.Fatalf("%s: %s: no time in %q (bash 5 has EPOCHREALTIME)", p.name, script, out)
	}
	return time.Duration((to - from) * float64(time.Second))
}

// middle is the median of took, which it sorts.
func middle(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)/2]
}

// table measures one script on every path.
func table(b *testing.B, what, unit string, amount float64, paths []path, script func(path) string) {
	fmt.Printf("\n%s, median of %d (slowest to fastest)\n", what, rounds)
	took := map[string][]time.Duration{}
	for range rounds {
		for _, p := range paths {
			took[p.name] = append(took[p.name], timed(b, p, script(p)))
		}
	}
	rate := map[string]float64{}
	for _, p := range paths {
		per := func(t time.Duration) float64 { return amount / t.Seconds() }
		t := took[p.name]
		rate[p.name] = per(middle(t))
		fmt.Printf("  %-14s %8.0f %s (%.0f to %.0f)\n", p.name, rate[p.name], unit, per(t[len(t)-1]), per(t[0]))
	}
	for _, p := range paths {
		if p.name != "outcall" {
			fmt.Printf("  outcall / %-13s %.2f\n", p.name, rate["outcall"]/rate[p.name])
			b.ReportMetric(rate["outcall"]/rate[p.name], strings.ReplaceAll(what+"/"+p.name, " ", "-"))
		}
	}
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// cpu is the machine's first processor by its own name.
func cpu() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}
