package contract

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/state"
)

// models are the types of the overview, which TypeScript has under these names.
var models = []struct {
	name string
	of   reflect.Type
}{
	{"State", reflect.TypeFor[state.State]()},
	{"Specs", reflect.TypeFor[state.Specs]()},
	{"Session", reflect.TypeFor[state.Session]()},
	{"Open", reflect.TypeFor[state.Open]()},
	{"Waiting", reflect.TypeFor[state.Waiting]()},
	{"Usage", reflect.TypeFor[state.Usage]()},
	{"Delivery", reflect.TypeFor[state.Delivery]()},
}

// Model returns the text of src/connection/model.gen.ts: an interface for each
// struct of the overview, as encoding/json writes it.
func Model() string {
	var b strings.Builder
	b.WriteString("// Written by `go generate ./pkg/contract` from pkg/state, which explains the fields. Do not edit.\n")
	var statuses []string
	for _, s := range state.Statuses {
		statuses = append(statuses, fmt.Sprintf("%q", s))
	}
	fmt.Fprintf(&b, "\nexport type SessionStatus = %s;\n", strings.Join(statuses, " | "))
	for _, m := range models {
		fmt.Fprintf(&b, "\nexport interface %s {\n", m.name)
		for _, field := range reflect.VisibleFields(m.of) {
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue // it is not in JSON
			}
			optional := ""
			if strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") {
				optional = "?"
			}
			fmt.Fprintf(&b, "  %s%s: %s;\n", name, optional, typeScript(field.Type, optional == ""))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// typeScript returns the type of a value in JSON. A pointer may be null, unless its
// field is left out then.
func typeScript(of reflect.Type, null bool) string {
	switch of {
	case reflect.TypeFor[time.Time]():
		return "string" // RFC 3339
	case reflect.TypeFor[json.RawMessage]():
		return "unknown"
	case reflect.TypeFor[state.Status]():
		return "SessionStatus"
	}
	switch of.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64, reflect.Float64:
		return "number"
	case reflect.Slice:
		return typeScript(of.Elem(), true) + "[]"
	case reflect.Map:
		return "Record<string, " + typeScript(of.Elem(), true) + ">"
	case reflect.Pointer:
		if null {
			return typeScript(of.Elem(), true) + " | null"
		}
		return typeScript(of.Elem(), true)
	case reflect.Struct:
		for _, m := range models {
			if m.of == of {
				return m.name
			}
		}
	}
	panic("no TypeScript for " + of.String()) // add it here or to models
}
