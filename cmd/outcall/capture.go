package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"outcall/sandbox/hostapi"
	"outcall/sandbox/pcap"
)

func (a *app) captureCommand() *cobra.Command {
	var path string
	var count uint64
	c := a.ask("capture [-w FILE.pcap] [-c N]", "show the packets on the bridge, or write them to a file", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error { return a.capture(ctx, c, path, count) })
	c.Long = `Prints one line for each packet that crosses the bridge, in both directions and
before any verdict, until Ctrl-C or the end of the session. With -w the packets
go to a file that tcpdump, tshark and Wireshark read, with "-w -" to standard
output. Checksums are often still to do where the packets are taken; readers
call them incorrect.`
	c.Example = `  outcall bridge capture
  outcall bridge capture -w session.pcap
  outcall bridge capture -w - | tcpdump -n -r - port 53`
	c.Flags().StringVarP(&path, "write", "w", "", "write a pcap `FILE`")
	c.Flags().Uint64VarP(&count, "count", "c", 0, "end after `N` packets (0: no limit)")
	return c
}

// capture ends well by the signals that end a tcpdump: what came until then
// is in the file.
func (a *app) capture(ctx context.Context, c *hostapi.Client, path string, count uint64) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	emit := func(f pcap.Frame) error {
		_, err := io.WriteString(a.io.out, pcap.Summary(f)+"\n")
		return a.written(err)
	}
	if path != "" {
		out, finish, err := a.captureFile(path)
		if err != nil {
			return err
		}
		w, err := pcap.NewWriter(out)
		if err != nil {
			return errors.Join(err, finish())
		}
		n, dropped, err := a.captureTo(ctx, c, count, w.Write)
		return errors.Join(err, finish(), a.captured(n, dropped))
	}
	n, dropped, err := a.captureTo(ctx, c, count, emit)
	return errors.Join(err, a.captured(n, dropped))
}

func (a *app) captureTo(ctx context.Context, c *hostapi.Client, count uint64, emit func(pcap.Frame) error) (n, dropped uint64, err error) {
	begun := func() { fmt.Fprintln(a.io.err, "outcall: capturing on the bridge; Ctrl-C ends") }
	dropped, err = c.Capture(ctx, count, begun, func(f pcap.Frame) error {
		n++
		return emit(f)
	})
	if errors.Is(err, syscall.EPIPE) { // `| head`: as SIGPIPE would
		err = &codeError{128 + int(syscall.SIGPIPE), nil}
	}
	return n, dropped, err
}

// captured says how much there is; what is not in the capture is no secret.
func (a *app) captured(n, dropped uint64) error {
	text := fmt.Sprintf("outcall: %d packets captured", n)
	if dropped > 0 {
		text += fmt.Sprintf(", %d more came too fast and are not in it", dropped)
	}
	_, err := fmt.Fprintln(a.io.err, text)
	return err
}

// captureFile opens the file of -w. It is the operator's own path, made with
// the operator's own rights; packets hold what was said, so nobody else reads
// it.
func (a *app) captureFile(path string) (io.Writer, func() error, error) {
	if path == "-" {
		return a.io.out, func() error { return nil }, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("capture: %w", err)
	}
	return f, f.Close, nil
}
