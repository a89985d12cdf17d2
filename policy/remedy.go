package policy

import (
	"net"

	"outcall/policy/preset"
)

// Remedy is one line that says what can be done about a denial. target is a
// name or name:port as the audit tells it, rule the id of the deciding rule.
func Remedy(target, rule string, structural bool) string {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		host, port = target, ""
	}
	if port == "80" || port == "443" {
		target = host
	}
	switch {
	case structural:
		return "no --allow opens it: outcall explain " + target + " tells why"
	case rule == DefaultPolicy:
		if name := preset.Holding(host, port); name != "" {
			return "to allow it: --allow " + target + ", or all of its kind: --allow " + preset.Prefix + name
		}
		return "to allow it: --allow " + target
	}
	return "outcall explain " + target + " shows what rule " + rule + " decides"
}
