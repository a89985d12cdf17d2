package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/common/ast"
)

// functionNames are offered where a function is misspelt.
var functionNames = []string{
	"domain", "cidr", "contains", "startsWith", "endsWith", "matches", "size", "has", "all", "exists",
	"exists_one", "filter", "map", "lowerAscii", "upperAscii", "split", "join", "substring", "replace",
	"trim", "indexOf", "lastIndexOf", "charAt", "string", "int", "bool", "double",
}

// oldNames are spellings of other versions of the language.
var oldNames = map[string]string{
	"net.dst_ip": "network.ip", "net.dst_port": "network.port", "net.protocol": "network.protocol",
	"dns.type": "dns.record_type", "ip.dst": "network.ip", "agent.container_id": "agent.name", "agent.image": "agent.name",
}

// typeNames are identifiers of standard CEL.
var typeNames = map[string]bool{
	"int": true, "uint": true, "double": true, "bool": true, "string": true, "bytes": true,
	"list": true, "map": true, "null_type": true, "type": true, "dyn": true, "google": true,
}

// undefined finds names in a parsed condition that are no field. cel-go would
// report only the first part of http.hots, without knowing what was meant.
func undefined(a *ast.AST, text string) []finding {
	var out []finding
	walkNames(a.Expr(), nil, func(e ast.Expr, name string) {
		if knownName(name) {
			return
		}
		if parts := strings.SplitN(name, ".", 3); len(parts) == 3 && namespaces[parts[0]] {
			name = parts[0] + "." + parts[1] // the key of a map is not what is wrong
		}
		out = append(out, finding{nameOffset(a, e, text), "undefined identifier '" + name + "'" + suggestField(name)})
	})
	return out
}

// hiding finds variables of macros that are called as fields are: then http.x
// could be either.
func hiding(a *ast.AST, text string) []finding {
	var out []finding
	visit(a.Expr(), func(e ast.Expr) {
		if e.Kind() != ast.ComprehensionKind {
			return
		}
		c := e.AsComprehension()
		for _, v := range []string{c.IterVar(), c.IterVar2()} {
			if namespaces[v] {
				out = append(out, finding{exprOffset(a, e, text), fmt.Sprintf("the variable '%s' hides the fields %s.*: give it another name", v, v)})
			}
		}
	})
	return out
}

// namespaces are the first words of the fields.
var namespaces = func() map[string]bool {
	m := map[string]bool{}
	for _, n := range fieldNames {
		m[n[:strings.IndexByte(n, '.')]] = true
	}
	return m
}()

func knownName(name string) bool {
	for n := name; ; {
		if _, ok := fieldByName[n]; ok {
			return true
		}
		i := strings.LastIndexByte(n, '.')
		if i < 0 {
			return typeNames[n]
		}
		n = n[:i]
	}
}

// walkNames calls f for each maximal chain of selections that starts at a
// name which is no variable of a macro.
func walkNames(e ast.Expr, vars []string, f func(ast.Expr, string)) {
	if name := dottedName(e); name != "" {
		root, _, _ := strings.Cut(name, ".")
		for _, v := range vars {
			if v == root {
				return
			}
		}
		f(e, strings.TrimPrefix(name, "."))
		return
	}
	if e.Kind() == ast.ComprehensionKind {
		c := e.AsComprehension()
		walkNames(c.IterRange(), vars, f)
		walkNames(c.AccuInit(), vars, f)
		inner := append(append([]string(nil), vars...), c.IterVar(), c.IterVar2(), c.AccuVar())
		for _, x := range []ast.Expr{c.LoopCondition(), c.LoopStep(), c.Result()} {
			walkNames(x, inner, f)
		}
		return
	}
	for _, x := range children(e) {
		walkNames(x, vars, f)
	}
}

// children returns the direct sub-expressions of a node that is no
// comprehension.
func children(e ast.Expr) []ast.Expr {
	switch e.Kind() {
	case ast.CallKind:
		c := e.AsCall()
		if c.IsMemberFunction() {
			return append([]ast.Expr{c.Target()}, c.Args()...)
		}
		return c.Args()
	case ast.ListKind:
		return e.AsList().Elements()
	case ast.SelectKind:
		return []ast.Expr{e.AsSelect().Operand()}
	case ast.MapKind:
		var out []ast.Expr
		for _, en := range e.AsMap().Entries() {
			out = append(out, en.AsMapEntry().Key(), en.AsMapEntry().Value())
		}
		return out
	case ast.StructKind:
		var out []ast.Expr
		for _, en := range e.AsStruct().Fields() {
			out = append(out, en.AsStructField().Value())
		}
		return out
	}
	return nil
}

// nameOffset is where a chain of selections begins: its innermost operand.
func nameOffset(a *ast.AST, e ast.Expr, text string) int {
	for e.Kind() == ast.SelectKind {
		e = e.AsSelect().Operand()
	}
	return exprOffset(a, e, text)
}

// suggestField says what may have been meant by an unknown name.
func suggestField(name string) string {
	if n, ok := oldNames[name]; ok {
		return " (did you mean " + n + "?)"
	}
	return suggest(strings.ReplaceAll(name, "_", "."), fieldNames[:])
}

// suggest returns " (did you mean x?)" for the nearest of the names, or "".
func suggest(name string, names []string) string {
	best, dist := "", max(2, len(name)/4)+1
	for _, n := range names {
		if d := editDistance(name, strings.ReplaceAll(n, "_", "."), dist); d < dist {
			best, dist = n, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// editDistance counts insertions, deletions, replacements and swaps of
// neighbours that make b of a; limit or more is reported as limit.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return min(prev[len(b)], limit)
}
