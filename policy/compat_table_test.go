package policy_test

import "strings"

const (
	allowA = "  - {event: 'dns://a.test', verdict: allow, rule: x}\n  - {event: 'dns://b.test', verdict: deny}\n"
	ruleA  = `rule: action: allow, condition: 'dns.query == "a.test"'`
)

func ruleWith(keys string) string { return ruleA + ", " + keys }

func withCondition(c string) string {
	return "rule: action: allow, condition: '" + strings.ReplaceAll(c, "'", "''") + "'"
}

// compatTable holds every documented construct of the original's rule files,
// in the order of its own reference.
var compatTable = []compatRow{
	{"`version: \"1\"`", same, "", ruleA, "", allowA},
	{"`version: 1`, a number", refused, "", "version: 1", `version must be the string "1", in quotes`, ""},
	{"another version", refused, "", `version: "2"`, `unsupported version "2" (only "1" is supported)`, ""},
	{"an unknown key, at any level", refused, "", ruleWith("colour: red"), "unknown key 'colour' in a rule", ""},
	{"no rules, or an empty list", same, "Everything is blocked, and a warning says so.", "version: \"1\"\nrules: []", "everything is blocked", "  - {event: 'dns://a.test', verdict: deny, rule: default policy}\n"},
	{"`definitions` and `$name`", same, "", "version: \"1\"\ndefinitions: {a: 'dns.query == \"a.test\"', b: $a}\nrules: [{id: x, action: allow, condition: $b}]", "", allowA},
	{"`$name` inside a string literal", differs, "It is text. The original expanded it.", "version: \"1\"\ndefinitions: {a: '\"a.test\"'}\nrules: [{id: x, action: allow, condition: 'run.tool == \"$a\" || dns.query == $a'}]", "", allowA + "  - {event: {layer: run, run.tool: $a}, verdict: allow, rule: x}\n"},
	{"an undefined `$name`", refused, "", withCondition("$nothing"), "undefined definition '$nothing'", ""},
	{"circular definitions", refused, "The message shows the chain.", "version: \"1\"\ndefinitions: {a: $b, b: $a}", "circular definition: $b → $a → $b", ""},
	{"an unused definition", same, "A warning; one that only another unused definition uses counts as unused, one that a used definition uses does not.", "version: \"1\"\ndefinitions: {a: 'true'}\nrules: [{id: x, action: allow, condition: 'dns.query == \"a.test\"'}]", "definition 'a' is not used", allowA},
	{"block styles `|`, `>-`, plain scalars over lines", same, "", "version: \"1\"\nrules:\n  - id: x\n    action: allow\n    condition: >-\n      dns.query ==\n      \"a.test\"\n", "", allowA},
	{"`id` of 1-128 letters, digits, `.`, `_`, `-`", same, "", ruleA, "", allowA},
	{"an `id` that begins with `.`, `_` or `-`", same, "The original wanted a letter or digit first.", "version: \"1\"\nrules: [{id: _x, action: allow, condition: 'dns.query == \"a.test\"'}]", "", "  - {event: 'dns://a.test', verdict: allow, rule: _x}\n"},
	{"an `id` that is a word of the host API", refused, "", "version: \"1\"\nrules: [{id: reload, action: allow, condition: 'true'}]", `the id "reload" is reserved`, ""},
	{"an `id` twice, in any files", refused, "", "version: \"1\"\nrules: [{id: x, action: allow, condition: 'true'}, {id: x, action: block, condition: 'true'}]", "duplicate rule id 'x' (first seen in x.yaml:2)", ""},
	{"`description`", same, "", ruleWith("description: why"), "", allowA},
	{"`action: allow`", same, "", ruleA, "", allowA},
	{"`action: block`", same, "", "version: \"1\"\nrules: [{id: x, action: block, condition: 'dns.query == \"a.test\"'}, {id: y, action: allow, condition: 'true'}]", "", "  - {event: 'dns://a.test', verdict: deny, rule: x}\n  - {event: 'dns://b.test', verdict: allow, rule: y}\n"},
	{"`action: deny`", refused, "", "rule: action: deny, condition: 'true'", "write action: block", ""},
	{"`action: enrich`", refused, "", "rule: action: enrich, condition: 'true'", "write action: allow or action: block", ""},
	{"`enrich:`", refused, "", ruleWith("enrich: {script: x}"), "enrich is not supported", ""},
	{"`priority`, negative ones too", same, "Lower first, then file, then position.", "version: \"1\"\nrules: [{id: y, action: allow, condition: 'true'}, {id: x, action: block, priority: -1, condition: 'dns.query == \"a.test\"'}]", "", "  - {event: 'dns://a.test', verdict: deny, rule: x}\n"},
	{"`log: true`", same, "The match is printed on standard error.", ruleWith("log: true"), "", allowA},
	{"no `egress`", same, "As `mode: proxy`.", ruleA, "", allowA},
	{"`egress` with a block rule", refused, "", "rule: action: block, condition: 'true', egress: {mode: proxy}", "egress belongs to allow rules only", ""},
	{"`egress.mode: proxy`", same, "Reached by name through the judged path: with the proxy variables, or transparently.", withCondition(`dns.query == "a.test" || http.host == "a.test"`) + ", egress: {mode: proxy}", "", "  - {event: 'https://a.test/', verdict: allow, rule: x}\n"},
	{"`egress` without `mode`", same, "As `mode: proxy`, which is what its reference said; its code refused it.", ruleWith("egress: {ports: [443]}"), "", allowA},
	{"`egress.mode: direct_ip`", differs, "The answer's addresses pass unread on the ports, also by UDP, while the name is pinned. The original let TCP pass.", ruleWith("egress: {mode: direct_ip}"), "", "  - {event: 'tcp://a.test:443', via: direct, verdict: allow, rule: x}\n  - {event: 'udp://a.test:443', verdict: allow, rule: x}\n  - {event: 'tcp://a.test:22', via: direct, verdict: deny}\n"},
	{"`mode: direct_ip` after a block by what only bytes tell", differs, "The flow waits to be read, and bytes that are neither TLS nor HTTP need a rule of their own. The original's packets never met the block.", "version: \"1\"\nrules: [{id: b, action: block, priority: 1, condition: 'http.host == \"b.test\"'}, {id: x, action: allow, condition: 'dns.query == \"a.test\" || http.host == \"a.test\"', egress: {mode: direct_ip}}]", "flows wait to be read", "  - {event: 'https://a.test/', verdict: allow, rule: x}\n  - {event: 'tcp://a.test:443', via: direct, verdict: depends}\n"},
	{"`mode: direct_ip` of a rule that only names `http.host`", same, "No effect on addresses: only a question grants.", withCondition(`http.host == "a.test"`) + ", egress: {mode: direct_ip}", "no rule lets DNS resolve it", "  - {event: 'tcp://a.test:443', via: direct, verdict: deny}\n"},
	{"`egress.mode: intercept`", refused, "", ruleWith("egress: {mode: intercept}"), "write mode: proxy", ""},
	{"`egress.ports`", differs, "They bind proxy rules, too, wherever `network.port` is known. The original only read them for `direct_ip`.", withCondition(`dns.query == "a.test" || http.host == "a.test"`) + ", egress: {mode: proxy, ports: [443]}", "", "  - {event: 'https://a.test/', verdict: allow, rule: x}\n  - {event: 'http://a.test/', verdict: deny}\n"},
	{"port 0 in `egress.ports`", refused, "", ruleWith("egress: {ports: [0]}"), "a port must be a number from 1 to 65535", ""},
	{"`egress.allow_private_ips`", same, "RFC 1918, unique local and shared addresses only; loopback, link-local and metadata need a literal and a port.", withCondition(`dns.query == "a.test" || http.host == "a.test"`) + ", egress: {allow_private_ips: true}", "", "  - {event: 'http://a.test/', ip: 10.0.0.1, verdict: allow, rule: x}\n  - {event: 'http://a.test/', ip: 169.254.169.254, verdict: deny}\n"},
	{"`egress.match_body`, `egress.timeout_secs`", refused, "", ruleWith("egress: {match_body: true}"), "unknown key 'match_body' in egress", ""},

	{"`dns.query`, `dns.record_type`", same, "Types beyond A, AAAA, CNAME, HTTPS and SVCB need a condition that names `dns.record_type`.", withCondition(`dns.query == "a.test" && dns.record_type in ["A", "TXT"]`), "", "  - {event: 'dns://a.test?type=TXT', verdict: allow, rule: x}\n  - {event: 'dns://a.test?type=MX', verdict: deny}\n"},
	{"a DNS type that no rule names", differs, "The original answered any type of an allowed name.", ruleA, "", "  - {event: 'dns://a.test?type=TXT', verdict: deny}\n"},
	{"`network.hostname`", differs, "It is the pinned name of a flow already at its first packet, so that a rule on it opens every protocol; a warning says so where no port is named.", withCondition(`dns.query == "a.test" || network.hostname == "a.test"`), "every TCP and UDP port", "  - {event: 'tcp://a.test:22', via: direct, verdict: allow, rule: x}\n"},
	{"`network.ip`", differs, "It is the address that is dialled, resolved ones too. The original knew literals only.", "version: \"1\"\nrules: [{id: x, action: block, condition: 'network.ip.startsWith(\"10.\")'}, {id: y, action: allow, condition: 'true', egress: {allow_private_ips: true}}]", "a network is cidr(", "  - {event: 'http://a.test/', ip: 10.0.0.1, verdict: deny}\n  - {event: 'http://a.test/', verdict: allow, rule: y}\n"},
	{"`network.port`", same, "", withCondition(`http.host == "a.test" && network.port == 80 || dns.query == "a.test"`), "", "  - {event: 'http://a.test/', verdict: allow, rule: x}\n  - {event: 'http://a.test:81/', verdict: deny}\n"},
	{"`network.protocol`", same, "`icmp`, too.", withCondition(`network.ip == "192.0.2.1" && network.protocol == "tcp"`), "", "  - {event: {layer: flow, network.ip: 8.8.8.8}, verdict: deny}\n"},
	{"`http.method`", same, "`CONNECT` also for TLS that no proxy saw: its method cannot be read.", withCondition(`http.host == "a.test" && http.method == "GET" || dns.query == "a.test"`), "", "  - {event: 'http://a.test/', verdict: allow, rule: x}\n  - {event: 'https://a.test/', verdict: deny}\n"},
	{"`http.path`", differs, "The path alone, in its normal form (`%61` is `a`, dot segments are gone); what follows `?` is `http.query`. Where a server may read it in another way (`%2F`, `;x`, `%252e`), the rules must allow that, too. It is hidden under TLS: an allow that asks for it does not match there. The original had `/` for a CONNECT.", withCondition(`http.path == "/p" && http.host == "a.test" || dns.query == "a.test"`), "", "  - {event: 'http://a.test/p?q', verdict: allow, rule: x}\n  - {event: 'https://a.test/p', verdict: deny}\n"},
	{"`http.path == \"/\"` to mean a CONNECT", differs, "It rests on an empty field: nothing matches.", withCondition(`http.method == "CONNECT" && http.path == "/" && http.host == "a.test" || dns.query == "a.test"`), "", "  - {event: 'https://a.test/', via: proxy, verdict: deny}\n"},
	{"`http.host`", same, "Lower case, without port and trailing dot; the SNI of TLS.", withCondition(`http.host == "a.test" || dns.query == "a.test"`), "", "  - {event: 'https://a.test/', verdict: allow, rule: x}\n"},
	{"`http.headers`", same, "Names in lower case, duplicates joined with `, `.", withCondition(`http.host == "a.test" && http.headers["x-a"] == "1"`), "", "  - {event: {layer: request, http.host: a.test, http.headers: {x-a: '1'}}, verdict: allow, rule: x}\n  - {event: {layer: request, http.host: a.test}, verdict: deny}\n"},
	{"`http.body_size`", same, "0 only where the framing says so.", withCondition(`http.host == "a.test" && http.body_size < 10`), "", "  - {event: {layer: request, http.host: a.test, http.body_size: 9}, verdict: allow, rule: x}\n  - {event: {layer: request, http.host: a.test, http.body_size: 10}, verdict: deny}\n"},
	{"`agent.name`", same, "The name of `--name` without a trailing number, else the command's.", withCondition(`agent.name == "bot" && dns.query == "a.test"`), "", "  - {event: 'dns://a.test', agent: bot, verdict: allow, rule: x}\n  - {event: 'dns://a.test', agent: cat, verdict: deny}\n"},
	{"`run.tool`, `run.args`, `run.flags`, `run.cwd`, `run.context`", same, "", withCondition(`run.tool == "git" && "pull" in run.args && run.cwd == "/w" && size(run.flags) == 0 && run.context.k == "v"`), "", "  - {event: {layer: run, run.tool: git, run.args: [pull], run.cwd: /w, run.context: {k: v}}, verdict: allow, rule: x}\n"},
	{"`docker.*`", differs, "Rules that ask for it load, warn, and never match by it.", withCondition(`docker.image == "x" || dns.query == "a.test"`), "docker.image, which nothing here knows", allowA},
	{"`has(http.host)` and its like", same, "The field is there and not empty.", withCondition(`has(dns.query) && dns.query == "a.test"`), "", allowA},
	{"`net.dst_ip`, `net.dst_port`", refused, "", withCondition(`net.dst_ip == "192.0.2.1"`), "undefined identifier 'net.dst_ip' (did you mean network.ip?)", ""},
	{"`dns.type`", refused, "", withCondition(`dns.type == "A"`), "undefined identifier 'dns.type' (did you mean dns.record_type?)", ""},
	{"`ip.dst`", refused, "", withCondition(`ip.dst == "192.0.2.1"`), "undefined identifier 'ip.dst' (did you mean network.ip?)", ""},
	{"`agent.image`, `agent.container_id`", refused, "", withCondition(`agent.image == "a"`), "undefined identifier 'agent.image' (did you mean agent.name?)", ""},
	{"`http_host` and other slips", refused, "The original loaded it, and it never matched.", withCondition(`http_host == "a.test"`), "undefined identifier 'http_host' (did you mean http.host?)", ""},
	{"`http.body`", refused, "", withCondition(`http.body == "x"`), "undefined identifier 'http.body'", ""},
	{"a condition that is not bool", refused, "The original loaded it, and it never matched.", withCondition(`network.port`), "the condition is of type int, not bool", ""},
	{"an error while a condition is evaluated, in an allow", same, "No match.", withCondition(`http.headers["none"] == "x" || dns.query == "a.test"`), "", "  - {event: {layer: request, http.host: a.test}, verdict: deny}\n"},
	{"an error while a condition is evaluated, in a block", differs, "It matches. The original went on.", "version: \"1\"\nrules: [{id: x, action: block, condition: 'http.headers[\"none\"] == \"x\"'}, {id: y, action: allow, condition: 'true'}]", "", "  - {event: {layer: request, http.host: a.test}, verdict: deny, rule: x}\n"},
	{"`http.host != \"evil.test\"` as an allow", differs, "A question, a packet and other bytes than TLS and HTTP have no host: nothing matches there. The original's empty host did. A warning says that every other host is allowed.", withCondition(`http.host != "evil.test"`), "allows by what http.host is not", "  - {event: 'dns://a.test', verdict: deny}\n  - {event: {layer: raw, network.ip: 8.8.8.8}, verdict: deny}\n  - {event: {layer: request, http.host: a.test}, verdict: allow, rule: x}\n"},
	{"a block that compares a field with its empty value", same, "In a block a field that cannot exist is empty.", "version: \"1\"\nrules: [{id: x, action: block, condition: 'tls.sni == \"\"'}, {id: y, action: allow, condition: 'true'}]", "", "  - {event: {layer: request, http.host: a.test}, verdict: deny, rule: x}\n"},
	{"nothing matches", same, "Block, by `default policy`.", ruleA, "", "  - {event: 'dns://b.test', verdict: deny, rule: default policy}\n"},
}
