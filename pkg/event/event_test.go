package event

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestDecodeNamesTheFieldThatIsWrong(t *testing.T) {
	long := strings.Repeat("x", MaxNameBytes+1)
	for name, c := range map[string]struct{ raw, field string }{
		"no JSON":             {`{`, ""},
		"null":                {`null`, ""},
		"a list":              {`[]`, ""},
		"broken UTF-8":        {"{\"kind\":\"spec_started\",\"session\":\"\xff\"}", ""},
		"no kind":             {`{"session":"s"}`, "kind"},
		"unknown kind":        {`{"kind":"spec_paused","session":"s"}`, "kind"},
		"kind is a number":    {`{"kind":1,"session":"s"}`, "kind"},
		"kind in capitals":    {`{"Kind":"spec_started","session":"s"}`, "Kind"},
		"no session":          {`{"kind":"spec_started"}`, "session"},
		"empty session":       {`{"kind":"spec_started","session":""}`, "session"},
		"NUL in session":      {`{"kind":"spec_started","session":"a\u0000b"}`, "session"},
		"long spec":           {`{"kind":"spec_started","session":"s","spec":"` + long + `"}`, "spec"},
		"long key":            {`{"kind":"spec_started","session":"s","key":"` + long + `"}`, "key"},
		"time without zone":   {`{"kind":"spec_started","session":"s","at":"2026-11-24T05:14:04"}`, "at"},
		"far future":          {`{"kind":"spec_started","session":"s","at":"2999-01-01T00:00:00Z"}`, "at"},
		"before 1970":         {`{"kind":"spec_started","session":"s","at":"1969-12-31T23:59:59Z"}`, "at"},
		"data too long":       {`{"kind":"spec_started","session":"s","data":"` + strings.Repeat("x", MaxDataBytes) + `"}`, "data"},
		"NUL in data":         {`{"kind":"spec_started","session":"s","data":{"a":"\u0000"}}`, "data"},
		"id":                  {`{"kind":"spec_started","session":"s","id":4}`, "id"},
		"a misspelt field":    {`{"kind":"spec_started","session":"s","sepc":"x"}`, "sepc"},
		"something behind it": {`{"kind":"spec_started","session":"s"} x`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(c.raw))
			var wrong *FieldError
			if !errors.As(err, &wrong) {
				t.Fatalf("got %v, want a FieldError", err)
			}
			if wrong.Field != c.field {
				t.Errorf("field %q, want %q (%s)", wrong.Field, c.field, wrong)
			}
		})
	}
}

func TestDecodeReadsEveryField(t *testing.T) {
	got, err := Decode([]byte(`{"kind":"spec_failed","at":"2026-11-24T07:14:04.5+02:00","session":"s","spec":"p","data":{"a":"\\u0000"},"key":"k"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 11, 24, 5, 14, 4, 5e8, time.UTC)
	if got.Kind != SpecFailed || !got.At.Equal(want) || got.Session != "s" || got.Spec != "p" || got.Key != "k" || string(got.Data) != `{"a":"\\u0000"}` {
		t.Errorf("got %+v", got)
	}
	got.ID = 7
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"id":7,"kind":"spec_failed","at":"2026-11-24T05:14:04.500000000Z","session":"s","spec":"p","data":{"a":"\\u0000"}}`; string(text) != want {
		t.Errorf("printed %s\nwant    %s", text, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"spec_started","session":"s","spec":"p","at":"2026-11-24T05:14:04Z","data":{"a":[1,"\u0000"]},"key":"k"}`))
	f.Add([]byte("{\"session\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := Decode(raw)
		if err != nil {
			var wrong *FieldError
			if !errors.As(err, &wrong) || wrong.Detail == "" {
				t.Fatalf("%q: an error that names no field and no reason: %v", raw, err)
			}
			return
		}
		// What was accepted must survive being printed and read by a client.
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("%q was accepted and cannot be printed: %v", raw, err)
		}
		if !json.Valid(text) {
			t.Fatalf("%q was printed as %q", raw, text)
		}
	})
}
