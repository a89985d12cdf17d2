package main

import (
	"context"

	"github.com/spf13/cobra"

	"outcall/policy/schemafile"
)

func (a *app) rulesSchemaCommand() *cobra.Command {
	c := a.cmd("schema", "print the JSON Schema of rule files, for editors", none,
		func(context.Context, []string) error {
			_, err := a.io.out.Write(schemafile.JSON())
			return a.written(err)
		})
	c.Long = `Prints the JSON Schema (draft 7) of rule files. Editors complete and check with
it, for example where a file begins with

  # yaml-language-server: $schema=rules.schema.json

What a schema cannot see (conditions, ids that are written twice) rules check
tells.`
	return c
}
