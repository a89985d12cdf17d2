package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"outcall/sandbox/audit"
	"outcall/sandbox/session"
)

// headLen is the length of a line's hash in hexadecimal digits.
const headLen = 64

func (a *app) logVerifyCommand() *cobra.Command {
	var head *string
	c := a.cmd("verify [FILE] [--head H]", "check that an audit is whole and in order", atMostOne,
		func(ctx context.Context, args []string) error {
			if *head != "" && (len(*head) != headLen || strings.Trim(*head, "0123456789abcdef") != "") {
				return usagef("--head %q: want %d lower-case hexadecimal digits", *head, headLen)
			}
			path := one(args)
			if path == "" {
				i, err := session.Pick(ctx, a.env, a.session)
				if err != nil {
					return err
				}
				if path = i.Audit; path == "" {
					return fmt.Errorf("session %q has no audit file yet", i.Name)
				}
			}
			return a.verify(path, *head)
		})
	c.Long = `Checks the chain of hashes of FILE (default: the running session's) and names
the first line that does not fit. It proves order and wholeness to someone who
kept the last line's hash, given as --head; not the honesty of the file's
owner, who could write all of it anew.`
	head = c.Flags().String("head", "", "the last line must have the hash `H`")
	return c
}

func (a *app) verify(path, head string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	line, err := audit.Verify(f, head)
	if err == nil {
		return a.print(false, nil, func(w io.Writer) { row(w, path+": every line fits") })
	}
	if line == 0 {
		return fmt.Errorf("%s: %w", path, err)
	}
	return fmt.Errorf("%s:%d: %w", path, line, withoutLine(err))
}

// withoutLine takes the "line N: " off an error whose line is told already.
func withoutLine(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}
