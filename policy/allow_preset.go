package policy

import (
	"slices"
	"strings"

	"outcall/policy/preset"
)

// AllowSources writes the --allow targets as rule files: each preset among
// them as the file that it is, once, and the others as AllowTargets does.
func AllowSources(targets []string) ([]Source, error) {
	own, err := AllowTargets(targets)
	if err != nil {
		return nil, err
	}
	out := []Source{own}
	for i, t := range targets {
		if !strings.HasPrefix(t, preset.Prefix) || slices.Index(targets, t) < i {
			continue
		}
		src, err := presetSource(t)
		if err != nil {
			return nil, err
		}
		out = append(out, src)
	}
	return out, nil
}

// presetSource returns the file of a target preset:NAME.
func presetSource(target string) (Source, error) {
	text, err := preset.Text(strings.TrimPrefix(target, preset.Prefix))
	return Source{Path: target, Data: text, Origin: CLI}, err
}
