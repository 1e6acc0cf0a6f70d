package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// fail answers an error that the client did not cause, and logs it.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the client is gone
	}
	var p api.Problem
	switch {
	case errors.Is(err, errBusy):
		p = busy
	case g.stopping.Err() != nil && !isProblem(err):
		// The request was cancelled because the gateway stops.
		p = stopping
	default:
		if p = api.ProblemOf(err); p.Status >= 500 {
			g.options.Log.Warn("request failed", "path", r.URL.Path, "error", err)
		}
	}
	refuse(w, p)
}

// isProblem reports whether the error has a reason other than the stop.
func isProblem(err error) bool {
	var field *event.FieldError
	var known *store.Problem
	return errors.As(err, &field) || errors.As(err, &known) && known.Code != store.NoConnection
}

var (
	errBusy = errors.New("too many answers are on their way")

	busy = api.Problem{Status: http.StatusServiceUnavailable, Title: "too busy",
		Detail: "too many large answers are on their way to clients; ask again in a moment, or for fewer events with limit"}
	stopping = api.Problem{Status: http.StatusServiceUnavailable, Title: "stopping",
		Detail: "the gateway stops and did not finish this request; ask again, and use a key for events that must not be stored twice"}
)

// refuseMethod says which methods the path takes; methods is the value of Allow.
func refuseMethod(w http.ResponseWriter, r *http.Request, methods string) {
	w.Header().Set("Allow", methods)
	refuse(w, api.Problem{Status: http.StatusMethodNotAllowed, Title: "method not allowed",
		Detail: fmt.Sprintf("%s does not take %s; use %s", r.URL.Path, r.Method, strings.ReplaceAll(methods, ", ", " or "))})
}

func refuse(w http.ResponseWriter, p api.Problem) {
	p.Type = "about:blank"
	if p.Status >= 500 {
		w.Header().Set("Retry-After", "2")
	}
	send(w, p.Status, "application/problem+json", p)
}

func answer(w http.ResponseWriter, status int, body any) {
	send(w, status, "application/json", body)
}

func send(w http.ResponseWriter, status int, mediaType string, body any) {
	text, _ := json.Marshal(body) // texts and numbers cause no error
	sendText(w, status, mediaType, text)
}

// sendShared sends a text that other clients may be getting at the same time;
// key names it.
func (g *Gateway) sendShared(w http.ResponseWriter, r *http.Request, status int, mediaType string, text []byte, key any) {
	release := g.budget.take(key, len(text), connOf(r))
	if release == nil {
		g.fail(w, r, errBusy)
		return
	}
	defer release()
	sendText(w, status, mediaType, text)
}

func sendText(w http.ResponseWriter, status int, mediaType string, text []byte) {
	w.Header().Set("Content-Type", mediaType)
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	w.Write(text) //nolint:errcheck // the client may be gone
}
