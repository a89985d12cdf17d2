package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"outcall/policy/preset"
)

// MaxTargets is the number of --allow targets of one session.
const MaxTargets = 1000

// AllowTargets writes the --allow targets as a rule file with ids cli-1…; it
// is loaded beside the others with origin CLI.
//
//	HOST        TLS, QUIC or HTTP by that name on ports 443 and 80
//	HOST:PORT   any TCP protocol by that name on that port; TLS must carry SNI
//	.HOST       the name and all below it (also .HOST:PORT)
//	CIDR[:PORT] addresses; a single address is the network of itself
//	preset:NAME a rule file of its own, which AllowSources adds
func AllowTargets(targets []string) (Source, error) {
	src := Source{Path: "--allow", Origin: CLI}
	if len(targets) > MaxTargets {
		return src, fmt.Errorf("--allow: %d targets, more than %d", len(targets), MaxTargets)
	}
	var b strings.Builder
	for i, t := range targets {
		if strings.HasPrefix(t, preset.Prefix) {
			if _, err := presetSource(t); err != nil {
				return src, fmt.Errorf("--allow %s: %w", strconv.Quote(t), err)
			}
			continue
		}
		cond, ports, err := allowTarget(t)
		if err != nil {
			return src, fmt.Errorf("--allow %s: %w", strconv.Quote(t), err)
		}
		fmt.Fprintf(&b, "  - id: cli-%d\n    description: %q\n    action: allow\n    condition: '%s'\n", i+1, "--allow "+t, cond)
		if ports != "" {
			fmt.Fprintf(&b, "    egress: {mode: proxy, ports: [%s]}\n", ports)
		}
	}
	head := "version: \"1\"\nrules:\n"
	if b.Len() == 0 {
		head = "version: \"1\"\nrules: []\n"
	}
	src.Data = []byte(head + b.String())
	return src, nil
}

// allowTarget returns the condition and the ports of one target.
func allowTarget(t string) (cond, ports string, err error) {
	if p, port, ok, err := parseNetwork(t); err != nil {
		return "", "", err
	} else if ok {
		cond = fmt.Sprintf(`cidr("%s").contains(network.ip)`, p)
		if port != "" {
			cond += " && network.port == " + port
		}
		return cond, port, nil
	}
	host, port, err := splitPort(t)
	if err != nil {
		return "", "", err
	}
	below := strings.HasPrefix(host, ".")
	name, err := canonicalName(strings.TrimPrefix(host, "."))
	if err != nil {
		return "", "", err
	}
	is := func(field string) string {
		if below {
			return fmt.Sprintf(`domain(%s, "%s")`, field, name)
		}
		return fmt.Sprintf(`%s == "%s"`, field, name)
	}
	if port == "" {
		return is("dns.query") + " || " + is("http.host"), "443, 80", nil
	}
	return is("dns.query") + " || (" + is("network.hostname") + ` && network.protocol == "tcp")`, port, nil
}

// parseNetwork reads CIDR, CIDR:PORT, ADDRESS, ADDRESS:PORT, and the same with
// IPv6 in brackets. ok tells that the target is meant as addresses.
func parseNetwork(t string) (p netip.Prefix, port string, ok bool, err error) {
	text := t
	if strings.HasPrefix(t, "[") {
		end := strings.IndexByte(t, ']')
		if end < 0 {
			return p, "", false, fmt.Errorf("the bracket is not closed")
		}
		text = t[1:end]
		switch rest := t[end+1:]; {
		case rest == "":
		case strings.HasPrefix(rest, ":"):
			if port, err = parsePort(rest[1:]); err != nil {
				return p, "", false, err
			}
		default:
			return p, "", false, fmt.Errorf("after the bracket may stand :PORT only")
		}
		p, err = parseCIDR(text)
		return p, port, err == nil, err
	}
	if strings.Count(t, ":") == 1 {
		left, right, _ := strings.Cut(t, ":")
		if !looksNumeric(left) {
			return p, "", false, nil
		}
		if port, err = parsePort(right); err != nil {
			return p, "", false, err
		}
		text = left
	}
	if !looksNumeric(text) {
		return p, "", false, nil
	}
	p, err = parseCIDR(text)
	return p, port, err == nil, err
}

// looksNumeric reports whether a text can only be meant as an address: it has
// a slash or a colon, or its last label is a number (as URL parsers hold it:
// 127.1 and 0x7f.1 are no names).
func looksNumeric(s string) bool {
	if strings.ContainsAny(s, "/:") {
		return true
	}
	last := strings.TrimSuffix(s, ".")
	last = strings.ToLower(last[strings.LastIndexByte(last, '.')+1:])
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		last, digits = hex, digits+"abcdef"
	}
	return last != "" && strings.Trim(last, digits) == ""
}

func splitPort(t string) (host, port string, err error) {
	host, right, found := strings.Cut(t, ":")
	if !found {
		return host, "", nil
	}
	port, err = parsePort(right)
	return host, port, err
}

func parsePort(s string) (string, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return "", fmt.Errorf("%s is no port from 1 to 65535", strconv.Quote(s))
	}
	return strconv.FormatUint(n, 10), nil
}

// canonicalName brings a host name into the form that facts have: lower case,
// without trailing dot, IDNs in punycode (UTS 46).
func canonicalName(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	name := strings.ToLower(s)
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			var err error
			if name, err = idna.Lookup.ToASCII(s); err != nil {
				return "", fmt.Errorf("%s is no host name: %w", strconv.Quote(s), err)
			}
			break
		}
	}
	if len(name) > 253 {
		return "", fmt.Errorf("a host name has at most 253 characters")
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", fmt.Errorf("%s is no host name", strconv.Quote(s))
		}
	}
	return name, nil
}
