package datasource

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/grafana/grafana-plugin-sdk-go/backend"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
)

// answering is the response to GET answer: whether the user may answer requests,
// and the reason if not.
type answering struct {
	Allowed bool   `json:"allowed"`
	Why     string `json:"why,omitempty"`
}

// refuseRole returns why a user of this role may not answer requests; empty: the
// user may. It is checked here, because Grafana permits the resources of a data
// source to every user who may query it.
func refuseRole(user *backend.User) string {
	if user != nil && (user.Role == "Editor" || user.Role == "Admin") {
		return ""
	}
	return "Answering needs the role Editor in this organization of Grafana."
}

func (d *Datasource) mayAnswer(w http.ResponseWriter, r *http.Request) {
	why := refuseRole(backend.UserFromContext(r.Context()))
	if why == "" {
		if err := d.store.Writable(r.Context()); err != nil {
			why = "Requests cannot be answered here: " + err.Error() + "."
		}
	}
	answer(w, answering{why == "", why})
}

// answerRequest writes the answer to a request, or that it needs none any more:
// {"data": {"request": 7, "answer": "8080"}}, or "dismissed": true in place of
// the answer. The event has the session and the spec of the request.
func (d *Datasource) answerRequest(w http.ResponseWriter, r *http.Request) {
	if why := refuseRole(backend.UserFromContext(r.Context())); why != "" {
		refuse(w, api.Problem{Status: http.StatusForbidden, Title: "forbidden", Detail: why})
		return
	}
	var body struct {
		Data struct {
			Request   int64   `json:"request"`
			Answer    *string `json:"answer"`
			Dismissed bool    `json:"dismissed"`
		} `json:"data"`
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, event.MaxDataBytes+1))
	if err != nil || len(text) > event.MaxDataBytes {
		fail(w, &event.FieldError{Field: "data", Detail: "is too long for an answer"})
		return
	}
	if err := json.Unmarshal(text, &body); err != nil {
		fail(w, &event.FieldError{Field: "data", Detail: `cannot be read; it is {"request": ID, "answer": TEXT} or {"request": ID, "dismissed": true}`})
		return
	}
	fields := map[string]any{"request": body.Data.Request}
	switch a := body.Data.Answer; {
	case body.Data.Request < 1:
		fail(w, &event.FieldError{Field: "request", Detail: "is missing; it is the id of the intervention_request"})
		return
	case a != nil && !body.Data.Dismissed && strings.TrimSpace(*a) != "":
		fields["answer"] = *a
	case a == nil && body.Data.Dismissed:
		fields["dismissed"] = true
	default:
		fail(w, &event.FieldError{Field: "answer", Detail: "must be a text that is not empty, or dismissed must be true in its place"})
		return
	}
	asked, found, err := d.store.Request(r.Context(), body.Data.Request)
	switch {
	case err != nil:
		fail(w, err)
		return
	case !found:
		refuse(w, api.Problem{Status: http.StatusNotFound, Title: "not found", Detail: "there is no such request; it may have been removed as old"})
		return
	}
	data, _ := json.Marshal(fields) // texts and numbers cause no error
	receipt, err := d.store.Append(r.Context(), []event.Event{{Kind: event.InterventionAnswered, Session: asked.Session, Spec: asked.Spec, Data: data}})
	if err != nil {
		fail(w, err)
		return
	}
	text, _ = json.Marshal(receipt)
	write(w, http.StatusCreated, "application/json", text)
}
