// Package schemafile describes the rule file as a JSON Schema, so that editors
// complete and check it while it is written.
//
// The schema and the loader agree on every file, but for what a schema cannot
// see: conditions and definitions (CEL), ids that are written twice, and
// numbers that are not in plain decimal, which the loader refuses.
package schemafile

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"

	"outcall/policy"
)

// object is one JSON object. Keys are written in alphabetical order, so the
// text is the same each time.
type object map[string]any

// JSON returns the schema.
func JSON() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(schema()); err != nil {
		panic(err) // strings, numbers and maps: it cannot fail
	}
	return b.Bytes()
}

func schema() object {
	return object{
		"$schema":              "http://json-schema.org/draft-07/schema#",
		"title":                "outcall rule file",
		"description":          "Rules of outcall: what a command may reach. The first rule that matches decides; what no rule matches is blocked.",
		"type":                 "object",
		"required":             []string{"version"},
		"additionalProperties": false,
		"properties": object{
			"version": object{"const": "1", "description": "The version of the rule language: the string \"1\", in quotes."},
			"definitions": object{
				"description":          "Named texts that conditions use as $name. They hold in this file only.",
				"type":                 []string{"object", "null"},
				"propertyNames":        object{"pattern": `^[\p{L}\p{Nd}_]+$`},
				"additionalProperties": object{"type": "string", "description": "CEL, " + fieldsText()},
			},
			"rules": object{
				"description": "Asked by priority, then in the order of files, then as they stand here.",
				"type":        []string{"array", "null"},
				"maxItems":    policy.MaxRules,
				"items":       object{"$ref": "#/definitions/rule"},
			},
		},
		"definitions": object{"rule": rule(), "egress": egress()},
	}
}

func fieldsText() string {
	var names []string
	for x := policy.Field(0); x < policy.NumFields; x++ {
		names = append(names, x.String())
	}
	return "over the fields " + strings.Join(names, ", ") + ". Functions beyond standard CEL: domain(name, \"a.test\"), cidr(\"10.0.0.0/8\").contains(network.ip)."
}

func rule() object {
	return object{
		"description":          "One rule.",
		"type":                 "object",
		"required":             []string{"id", "condition", "action"},
		"additionalProperties": false,
		"properties": object{
			"id": object{
				"description": "The rule's name in denials, logs and counters; unique over all files.",
				"type":        "string",
				"pattern":     `^[A-Za-z0-9._-]+$`,
				"maxLength":   policy.MaxID,
				"not":         object{"enum": policy.ReservedIDs()},
			},
			"description": object{"type": []string{"string", "null"}, "description": "For people."},
			"condition":   object{"type": "string", "description": "CEL of type bool, " + fieldsText()},
			"action":      object{"enum": []string{"allow", "block"}, "description": "What becomes of what matches."},
			"priority": object{
				"description": "Lower is asked first.",
				"type":        []string{"integer", "null"},
				"minimum":     math.MinInt32,
				"maximum":     math.MaxInt32,
				"default":     100,
			},
			"log":    object{"type": []string{"boolean", "null"}, "default": false, "description": "Print each match on standard error."},
			"egress": object{"$ref": "#/definitions/egress"},
		},
		"if":   object{"required": []string{"action"}, "properties": object{"action": object{"const": "block"}}},
		"then": object{"properties": object{"egress": object{"type": "null"}}},
	}
}

func egress() object {
	return object{
		"description":          "How an allowed name is reached; allow rules only.",
		"type":                 []string{"object", "null"},
		"additionalProperties": false,
		"properties": object{
			"mode": object{
				"description": "proxy: by name, through the judged path. direct_ip: the answer's addresses, unread.",
				"enum":        []any{string(policy.ModeProxy), string(policy.ModeDirectIP), nil},
				"default":     string(policy.ModeProxy),
			},
			"ports": object{
				"description": "The ports that the rule binds to. Default: any (proxy), 80 and 443 (direct_ip).",
				"type":        []string{"array", "null"},
				"maxItems":    policy.MaxPorts,
				"items":       object{"type": "integer", "minimum": 1, "maximum": math.MaxUint16},
			},
			"allow_private_ips": object{
				"description": "The name may have private addresses (RFC 1918, unique local, shared).",
				"type":        []string{"boolean", "null"},
				"default":     false,
			},
		},
	}
}
