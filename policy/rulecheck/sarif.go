package rulecheck

import (
	"encoding/json"
	"io"
	"maps"
	"net/url"
	"path/filepath"
	"slices"

	"outcall/policy"
)

// sarifSchema is what the Static Analysis Results Interchange Format, version
// 2.1.0, is described by.
const sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool       sarifTool     `json:"tool"`
	ColumnKind string        `json:"columnKind"`
	Results    []sarifResult `json:"results"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version,omitempty"`
	Rules   []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID      string       `json:"id"`
	Short   sarifMessage `json:"shortDescription"`
	Default sarifConfig  `json:"defaultConfiguration"`
}

type sarifConfig struct {
	Level string `json:"level"`
}

type sarifMessage struct {
	Text string `json:"text"`
}

type sarifResult struct {
	RuleID    string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   sarifMessage    `json:"message"`
	Locations []sarifLocation `json:"locations,omitempty"`
}

type sarifLocation struct {
	Physical sarifPhysical `json:"physicalLocation"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   *sarifRegion  `json:"region,omitempty"`
}

type sarifArtifact struct {
	URI string `json:"uri"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

// WriteSARIF writes the report as a log of one run of this version of the
// program.
func (r *Report) WriteSARIF(w io.Writer, version string) error {
	rules := sarifRules()
	index := map[string]int{}
	for i, k := range rules {
		index[k.ID] = i
	}
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{},
		Tool: sarifTool{sarifDriver{Name: "outcall", Version: version, Rules: rules}}}
	for _, f := range r.Findings {
		res := sarifResult{RuleID: f.Code, RuleIndex: index[f.Code], Level: f.Level, Message: sarifMessage{f.Message}}
		if f.Path != "" {
			at := sarifPhysical{Artifact: sarifArtifact{fileURI(f.Path)}}
			if f.Line > 0 {
				at.Region = &sarifRegion{f.Line}
			}
			res.Locations = []sarifLocation{{at}}
		}
		run.Results = append(run.Results, res)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(sarifLog{sarifSchema, "2.1.0", []sarifRun{run}})
}

// sarifRules are all codes, errors first.
func sarifRules() []sarifRule {
	var out []sarifRule
	for _, t := range []struct {
		level string
		codes map[string]string
	}{{LevelError, errorCodes}, {LevelWarning, policy.WarningCodes}} {
		for _, id := range slices.Sorted(maps.Keys(t.codes)) {
			out = append(out, sarifRule{id, sarifMessage{t.codes[id]}, sarifConfig{t.level}})
		}
	}
	return out
}

// fileURI writes a path as SARIF has it: relative to the working directory
// where it is so, which is what systems that annotate changes need.
func fileURI(path string) string {
	u := url.URL{Path: filepath.ToSlash(filepath.Clean(path))}
	if filepath.IsAbs(path) {
		u.Scheme = "file"
	}
	return u.String()
}
