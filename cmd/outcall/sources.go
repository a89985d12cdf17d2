package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"outcall/policy"
)

// systemDir is the machine's own configuration.
const systemDir = "/etc/outcall"

// places says where the rules of a run come from.
func (a *app) places(dir string, rules, allow []string) policy.Places {
	return policy.Places{
		Rules: rules, Allow: allow, WorkDir: dir,
		UserDir: a.env.ConfigDir(), SysDir: systemDir, Trust: a.trustStore(),
	}
}

// trustStore stands in the user's configuration, which a session only reads.
func (a *app) trustStore() policy.TrustStore {
	return policy.TrustStore{Dir: filepath.Join(a.env.ConfigDir(), "trust")}
}

// sourcesOf opens the places and returns what reads them anew each time. The
// notes of the first reading are printed; those of a reload would end up in
// the middle of the command's output.
func (a *app) sourcesOf(p policy.Places) (func() ([]policy.Source, error), error) {
	s, err := p.Open()
	if err != nil {
		return nil, err
	}
	src, notes, err := s.Read()
	if err != nil {
		s.Close()
		return nil, err
	}
	for _, n := range notes {
		a.say("note", n)
	}
	first := make(chan []policy.Source, 1)
	first <- src
	return func() ([]policy.Source, error) {
		select {
		case src := <-first:
			return src, nil
		default:
			src, _, err := s.Read()
			return src, err
		}
	}, nil
}

func (a *app) trustCommand() *cobra.Command {
	var forget *bool
	c := a.cmd("trust [DIR] [--forget]", "trust exactly the present content of a project's .outcall/rules", atMostOne,
		func(_ context.Context, args []string) error {
			dir := one(args)
			if dir == "" {
				dir = "."
			}
			dir, err := filepath.Abs(dir)
			if err != nil {
				return err
			}
			if a.env.ConfigDir() == "" {
				return fmt.Errorf("trust: no configuration directory: neither XDG_CONFIG_HOME nor HOME is set")
			}
			if *forget {
				return a.trustStore().Forget(dir)
			}
			return a.trust(dir)
		})
	c.Long = `Trusts the rule files in DIR/.outcall/rules (default: the current directory) as
they are now, at this path: any later change of theirs needs a new trust, which
replaces the old. Prints what is trusted.`
	forget = c.Flags().Bool("forget", false, "take the trust back")
	return c
}

// trust remembers the very bytes that were read, checked and printed.
func (a *app) trust(dir string) error {
	src, err := policy.ReadProject(dir)
	if err != nil {
		return err
	}
	snap, err := policy.Load(src)
	if err != nil {
		return err
	}
	if err := a.print(false, nil, func(w io.Writer) {
		row(w, "ID", "ACTION", "PRIORITY", "CONDITION")
		for _, r := range snap.Rules() {
			row(w, r.ID, yesNo(r.Block, "block", "allow"), r.Priority, r.Condition)
		}
	}); err != nil {
		return err
	}
	rec, err := a.trustStore().Trust(dir, src)
	if err != nil {
		return err
	}
	return a.print(false, nil, func(w io.Writer) { row(w, "trusted:", rec.Path, rec.SHA256) })
}
