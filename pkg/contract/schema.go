package contract

import (
	"encoding/json"

	"github.com/specwatch/specwatch/pkg/event"
)

// object is a JSON object of a schema. JSON sorts its keys, so its text is
// always the same.
type object = map[string]any

// EventSchema returns the text of docs/event.schema.json: an event as a writer
// sends it, as a reader gets it, and what the data of each kind may say.
func EventSchema() string {
	schema := object{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"$id":         "https://github.com/specwatch/specwatch/docs/event.schema.json",
		"title":       "Specwatch event",
		"description": "Something that happened in an unattended loop, as a writer sends it. $defs/read is an event as a reader gets it, and $defs/conventional adds the fields of data that Specwatch reads.",
		"$ref":        "#/$defs/written",
		"$defs": object{
			"written": object{
				"type": "object", "required": []string{"kind", "session"}, "additionalProperties": false,
				"properties": object{
					"kind": object{"$ref": "#/$defs/kind"}, "session": name("one run of the loop", 1), "spec": name("one unit of work in the session", 0),
					"at":   instant("when it happened; default: the clock of the database. Not before 1970, not more than an hour in the future"),
					"data": object{"description": "details, any JSON of at most 1,000,000 bytes and 500 levels"},
					"key":  name("idempotency key: the same key is stored once", 0),
				},
			},
			"read": object{
				"type": "object", "required": []string{"id", "kind", "at", "session", "spec", "data"},
				"properties": object{
					"id": object{"type": "integer", "minimum": 1}, "kind": object{"type": "string"}, "at": instant("when it happened, in UTC with nanoseconds"),
					"session": object{"type": "string"}, "spec": object{"type": "string"}, "data": object{},
				},
			},
			"kind": object{
				"type": "string", "maxLength": event.MaxNameBytes,
				"anyOf": append(kindSchemas(), object{"pattern": `\.`, "description": event.Other.Meaning()}),
			},
			"conventional": object{"allOf": conventions()},
			"usage": object{
				"type": "object", "description": "what an agent used since its last event with usage",
				"properties": object{
					"inputTokens": number("tokens read, with those from a cache"), "cachedInputTokens": number("of these, tokens from a cache"),
					"outputTokens": number("tokens written"), "costUsd": number("cost in US dollars"),
				},
			},
		},
	}
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		panic(err) // the values are those above
	}
	return string(text) + "\n"
}

func kindSchemas() (all []object) {
	for _, k := range event.Kinds {
		all = append(all, object{"const": k, "description": k.Meaning()})
	}
	return all
}

// conventions are the fields of data that have a meaning, by kind.
func conventions() []object {
	all := []object{{"properties": object{"data": object{"properties": object{"usage": object{"$ref": "#/$defs/usage"}}}}}}
	for _, c := range []struct {
		kind   event.Kind
		fields object
	}{
		{event.InterventionRequest, object{
			"question": text("what to ask"), "options": object{"type": "array", "description": "answers to choose from"}, "default": object{"description": "the answer if nobody answers in time"},
			"timeoutSeconds": number("how long the asker waits"), "elsewhere": boolean("the answer is given in the agent's own terminal"),
		}},
		{event.InterventionAnswered, object{
			"request": object{"type": []string{"integer", "string"}, "description": "id of the request; without it, all earlier requests of the session and spec are answered"},
			"answer":  object{"description": "the answer"}, "dismissed": boolean("closed without an answer"),
		}},
		{event.SessionHeartbeat, object{
			"outputBytes": number("bytes printed since the last heartbeat"), "silentSeconds": number("seconds since something was printed"),
			"cpuSeconds": number("CPU time used since the last heartbeat"), "doing": text("what the agent is doing"),
			"limited": boolean("the agent is open at a usage limit"), "resetsInSeconds": number("seconds until that limit is lifted"),
		}},
		{event.SpecFailed, object{
			"reason":   text("why; \"" + event.LimitReason + "\" means that a usage limit ended the spec"),
			"resetsAt": instant("when the usage limit is lifted"), "exitCode": number("exit code of the command"), "output": text("last lines of output"),
		}},
		{event.TimeoutTriggered, object{"reason": text("time or idle")}},
	} {
		all = append(all, object{
			"if":   object{"properties": object{"kind": object{"const": c.kind}}},
			"then": object{"properties": object{"data": object{"properties": c.fields}}},
		})
	}
	return all
}

func name(description string, least int) object {
	return object{"type": "string", "minLength": least, "maxLength": event.MaxNameBytes, "description": description + "; at most 512 bytes of UTF-8"}
}

func text(description string) object { return object{"type": "string", "description": description} }

func number(description string) object { return object{"type": "number", "description": description} }

func boolean(description string) object {
	return object{"type": "boolean", "description": description}
}

func instant(description string) object {
	return object{"type": "string", "format": "date-time", "description": description}
}
