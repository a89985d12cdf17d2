package schemafile

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// A validator checks a value against the part of JSON Schema (draft 7) that
// the schema uses. A keyword that it does not know fails the test: nothing in
// the schema may go unchecked.
type validator struct {
	t    *testing.T
	root map[string]any
}

func (v *validator) valid(schema map[string]any, x any) bool {
	if ref, ok := schema["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/definitions/")
		return v.valid(v.root["definitions"].(map[string]any)[name].(map[string]any), x)
	}
	ok := true
	for key, arg := range schema {
		switch key {
		case "$schema", "title", "description", "default", "definitions", "then":
		case "type":
			ok = ok && isType(arg, x)
		case "const":
			ok = ok && equal(arg, x)
		case "enum":
			ok = ok && slices.ContainsFunc(arg.([]any), func(e any) bool { return equal(e, x) })
		case "not":
			ok = ok && !v.valid(arg.(map[string]any), x)
		case "if":
			if v.valid(arg.(map[string]any), x) {
				ok = ok && v.valid(schema["then"].(map[string]any), x)
			}
		default:
			ok = v.keyword(schema, key, arg, x) && ok
		}
	}
	return ok
}

// keyword checks those keywords that hold for one type of value only.
func (v *validator) keyword(schema map[string]any, key string, arg, x any) bool {
	s, isString := x.(string)
	n, isNumber := number(x)
	list, isList := x.([]any)
	m, isMap := x.(map[string]any)
	switch key {
	case "pattern":
		return !isString || regexp.MustCompile(arg.(string)).MatchString(s)
	case "maxLength":
		return !isString || float64(utf8.RuneCountInString(s)) <= arg.(float64)
	case "minimum":
		return !isNumber || n >= arg.(float64)
	case "maximum":
		return !isNumber || n <= arg.(float64)
	case "maxItems":
		return !isList || float64(len(list)) <= arg.(float64)
	case "items":
		return !slices.ContainsFunc(list, func(e any) bool { return !v.valid(arg.(map[string]any), e) })
	case "required":
		return !isMap || !slices.ContainsFunc(arg.([]any), func(k any) bool { _, ok := m[k.(string)]; return !ok })
	case "propertyNames", "properties", "additionalProperties":
		return !isMap || v.members(schema, key, arg, m)
	}
	v.t.Fatalf("the validator does not know %q", key)
	return false
}

func (v *validator) members(schema map[string]any, key string, arg any, m map[string]any) bool {
	known, _ := schema["properties"].(map[string]any)
	for k, x := range m {
		switch key {
		case "propertyNames":
			if !v.valid(arg.(map[string]any), k) {
				return false
			}
		case "properties":
			if s, ok := known[k]; ok && !v.valid(s.(map[string]any), x) {
				return false
			}
		case "additionalProperties":
			if _, ok := known[k]; ok {
				continue
			}
			if s, ok := arg.(map[string]any); !ok || !v.valid(s, x) {
				return false
			}
		}
	}
	return true
}

func number(x any) (float64, bool) {
	switch n := x.(type) {
	case int:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

func isType(arg, x any) bool {
	if list, ok := arg.([]any); ok {
		return slices.ContainsFunc(list, func(e any) bool { return isType(e, x) })
	}
	n, isNumber := number(x)
	switch arg {
	case "integer":
		return isNumber && n == math.Trunc(n)
	case "null":
		return x == nil
	case "string", "boolean", "object", "array":
		return arg == map[string]string{"string": "string", "bool": "boolean", "map[string]interface {}": "object", "[]interface {}": "array"}[fmt.Sprintf("%T", x)]
	}
	return false
}

func equal(a, b any) bool {
	x, ok1 := number(a)
	y, ok2 := number(b)
	if ok1 && ok2 {
		return x == y
	}
	return reflect.DeepEqual(a, b)
}
