package main

import (
	"io"

	"outcall/policy/preset"
)

// presetText is a preset as --json prints it.
type presetText struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// showPreset prints the rule file of a preset as it is, so that it can be
// saved and changed.
func (a *app) showPreset(name string, asJSON bool) error {
	text, err := preset.Text(name)
	if err != nil {
		return &usageError{err}
	}
	return a.print(asJSON, presetText{name, string(text)}, func(w io.Writer) { w.Write(text) })
}
