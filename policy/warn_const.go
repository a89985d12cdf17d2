package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// constants warns of comparisons that can never hold, because the facts never
// have such a value: a slip that would otherwise be a rule that silently does
// nothing.
func (w *warner) constants(r *Rule) {
	for _, u := range r.c.texts {
		if why := neverIs(u); why != "" {
			w.rule(r, WarnNever, "compares %s with '%s', which it never is: %s", u.field, u.value, why)
		}
	}
	for _, n := range r.c.port.consts {
		if n < 0 || n > 65536 { // < 65536 is a way to say all
			w.rule(r, WarnNever, "compares network.port with %d, which it never is: ports are 1 to 65535", n)
		}
	}
	if w.looksAt(r, "http.headers", "endsWith", "network.ip.") {
		w.texts(r)
	}
}

// neverIs says why a field never equals, or ends with, a constant.
func neverIs(u textUse) string {
	switch u.field {
	case DNSQuery, NetworkHostname, HTTPHost, TLSSNI:
		return neverName(u)
	case NetworkIP:
		return neverAddress(u)
	case NetworkProtocol:
		return oneOf(u, "tcp", "udp", "icmp")
	case HTTPScheme:
		return oneOf(u, "http", "https")
	case TLSVersion:
		return oneOf(u, "1.0", "1.1", "1.2", "1.3")
	case DNSRecordType, HTTPMethod:
		if v := strings.ToUpper(u.value); v != u.value {
			return "it is upper case" + meant(v)
		}
		if u.field == DNSRecordType && !u.below && !recordTypes[u.value] && !otherType.MatchString(u.value) {
			return "no such type is known" + suggest(u.value, slices.Sorted(maps.Keys(recordTypes)))
		}
	case HTTPPath:
		if !u.below {
			return neverPath(u.value, false)
		}
	case ProcessExe:
		if !u.below && !strings.HasPrefix(u.value, "/") {
			return "it is an absolute path; the last part of it is process.name"
		}
	case ProcessName:
		if strings.Contains(u.value, "/") {
			return "it is the last part of process.exe"
		}
	case AgentName:
		if m := numbered.FindStringSubmatch(u.value); m != nil && !u.below {
			return "a name's trailing number is not part of it" + meant(m[1])
		}
	}
	return ""
}

// recordTypes are the names of DNS types; others are TYPE and their number.
var recordTypes = func() map[string]bool {
	m := map[string]bool{}
	for _, n := range strings.Fields("A A6 AAAA AFSDB AMTRELAY ANY APL ATMA AVC AXFR CAA CDNSKEY CDS CERT CNAME CSYNC DHCID DLV DNAME DNSKEY " +
		"DS EID EUI48 EUI64 GID GPOS HINFO HIP HTTPS IPSECKEY ISDN IXFR KEY KX L32 L64 LOC LP MAILA MAILB MB MD MF MG MINFO MR MX NAPTR NID " +
		"NIMLOC NINFO NS NSAP NSAP-PTR NSEC NSEC3 NSEC3PARAM NULL NXNAME NXT OPENPGPKEY OPT PTR PX RESINFO RKEY RP RRSIG RT SIG SMIMEA SOA " +
		"SPF SRV SSHFP SVCB TA TALINK TKEY TLSA TSIG TXT UID UINFO UNSPEC URI WALLET X25 ZONEMD") {
		m[n] = true
	}
	return m
}()

var otherType = regexp.MustCompile(`^TYPE[0-9]{1,5}$`)

// numbered is a name that a second session of an agent has.
var numbered = regexp.MustCompile(`^(.+)-[0-9]+$`)

func meant(v string) string { return fmt.Sprintf(" (did you mean %s?)", v) }

func oneOf(u textUse, values ...string) string {
	if u.below || slices.Contains(values, u.value) {
		return ""
	}
	return fmt.Sprintf("it is one of %s%s", strings.Join(values, ", "), suggest(strings.ToLower(u.value), values))
}

// neverName checks a name as it stands in facts: lower case, without trailing
// dot, in punycode.
func neverName(u textUse) string {
	v := u.value
	if _, rest, ok := strings.Cut(v, "://"); ok {
		host, _, _ := strings.Cut(rest, "/")
		return "it is the name alone" + meant(host)
	}
	if host, ok := strings.CutPrefix(v, "*."); ok {
		return "a star is no pattern" + meant(fmt.Sprintf("domain(%s, \"%s\")", u.field, host))
	}
	if u.below {
		if _, err := netip.ParseAddr(v); err == nil || strings.Contains(strings.Trim(v, "."), "..") {
			return "an address is no name, and a name has no empty part"
		}
		if v = strings.ToLower(v); strings.Trim(v, nameLetters) != "" {
			return "names hold only letters, digits, -, _ and ., IDNs in punycode"
		}
		return ""
	}
	if _, err := netip.ParseAddr(v); err == nil {
		if u.field == HTTPHost {
			return ""
		}
		return "an address is no name, it is network.ip"
	}
	if host, port, ok := strings.Cut(v, ":"); ok && strings.Trim(port, "0123456789") == "" {
		return "the port is network.port" + meant(host)
	}
	name, err := canonicalName(v)
	switch {
	case v == "" || name == v:
		return ""
	case err != nil:
		return "it is no host name"
	}
	return "names are lower case, without trailing dot, in punycode" + meant(name)
}

const nameLetters = "abcdefghijklmnopqrstuvwxyz0123456789-_."

// neverAddress checks an address as it stands in facts.
func neverAddress(u textUse) string {
	if u.below || u.value == "" {
		return ""
	}
	if p, err := netip.ParsePrefix(u.value); err == nil {
		return "it is one address" + meant(fmt.Sprintf("cidr(\"%s\").contains(network.ip)", p.Masked()))
	}
	a, err := netip.ParseAddr(u.value)
	if err != nil {
		return "it is no address"
	}
	if v := a.Unmap().WithZone("").String(); v != u.value {
		return "addresses are written in their shortest form" + meant(v)
	}
	return ""
}

// texts looks into a condition for texts that are taken for more than they
// are: parts of names and addresses, and the keys of http.headers.
func (w *warner) texts(r *Rule) {
	e, ok := w.parse(r)
	if !ok {
		return
	}
	visit(e, func(e ast.Expr) {
		switch e.Kind() {
		case ast.SelectKind:
			if s := e.AsSelect(); isHeaders(s.Operand()) {
				w.header(r, s.FieldName())
			}
		case ast.CallKind:
			call := e.AsCall()
			if args := call.Args(); call.FunctionName() == operators.Index && isHeaders(args[0]) {
				if k, ok := literal[types.String](args[1]); ok {
					w.header(r, string(k))
				}
			} else if call.IsMemberFunction() && len(args) > 0 {
				if v, ok := literal[types.String](args[0]); ok {
					w.part(r, call, string(v))
				}
			}
		}
	})
}

func isHeaders(e ast.Expr) bool {
	x, ok := fieldNamed(e)
	return ok && x == HTTPHeaders
}

func (w *warner) header(r *Rule, key string) {
	if v := strings.ToLower(key); v != key {
		w.rule(r, WarnNever, "asks http.headers for '%s', which it never has: header names are lower case%s", key, meant(v))
	}
}

// part warns of a part of a name or address that ends where no label or
// number ends.
func (w *warner) part(r *Rule, call ast.CallExpr, v string) {
	x, ok := fieldNamed(call.Target())
	if !ok || v == "" {
		return
	}
	fn := call.FunctionName()
	switch {
	case x == NetworkIP && (fn == overloads.StartsWith || fn == overloads.EndsWith || fn == overloads.Contains):
		w.rule(r, WarnPart, "compares network.ip with the text '%s': a network is cidr(\"…\").contains(network.ip)", v)
	case 1<<x&nameFields == 0 || fn != overloads.EndsWith:
	case strings.ToLower(v) != v:
		w.rule(r, WarnNever, "compares %s with '%s', which it never is: names are lower case%s", x, v, meant(strings.ToLower(v)))
	case v[0] != '.':
		w.rule(r, WarnPart, "%s.endsWith('%s') also matches x%s: write domain(%s, \"%s\")", x, v, v, x, v)
	}
}

// looksAt reports whether the expanded condition holds one of the words.
func (w *warner) looksAt(r *Rule, words ...string) bool {
	in := func(text string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
	}
	if in(r.Condition) {
		return true
	}
	if !strings.Contains(r.Condition, "$") {
		return false
	}
	text, ok := w.text[r.ID]()
	return ok && in(text)
}
