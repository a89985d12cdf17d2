package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"outcall/policy/escape"
	"outcall/sandbox/hostapi"
)

func (a *app) bridgeCommand() *cobra.Command {
	var asJSON *bool
	status := a.ask("status [--json]", "the bridge and the nftables table", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			b, err := c.Bridge(ctx)
			if err != nil {
				return err
			}
			return a.print(*asJSON, b, func(w io.Writer) { bridgeText(w, b) })
		})
	asJSON = jsonFlag(status)
	nft := a.ask("nft", "print what `nft list table inet outcall` prints", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error {
			text, err := c.NFT(ctx)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.io.out, escape.Block(text))
			return a.written(err)
		})
	up := a.ask("up", "set the bridge up again, as at the start", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error { return c.BridgeUp(ctx) })
	down := a.ask("down", "remove the bridge, and with it all egress", none,
		func(ctx context.Context, c *hostapi.Client, _ []string) error { return c.BridgeDown(ctx) })
	return a.group("bridge", "the session's bridge and table in the gateway network namespace",
		status, nft, a.captureCommand(), a.bridgeExecCommand(), up, down)
}

func bridgeText(w io.Writer, b hostapi.Bridge) {
	row(w, "Bridge:", b.Name)
	row(w, "Status:", yesNo(b.Up, "up", "down"))
	if b.Index != nil {
		row(w, "Index:", *b.Index)
	} else {
		row(w, "Index:", "-")
	}
	row(w, "nftables:", yesNo(b.NftablesActive, "active", "inactive"))
}
