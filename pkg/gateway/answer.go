package gateway

import (
	"encoding/json"
	"net/http"

	"github.com/specwatch/specwatch/pkg/api"
)

// fail answers an error that is not the caller's own doing, and logs it.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody listens any more
	}
	p := api.ProblemOf(err)
	if p.Status >= 500 {
		g.options.Log.Warn("request failed", "path", r.URL.Path, "error", err)
		w.Header().Set("Retry-After", "2")
	}
	refuse(w, p)
}

func refuse(w http.ResponseWriter, p api.Problem) {
	p.Type = "about:blank"
	send(w, p.Status, "application/problem+json", p)
}

func answer(w http.ResponseWriter, status int, body any) {
	send(w, status, "application/json", body)
}

func send(w http.ResponseWriter, status int, mediaType string, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, "the answer cannot be written as JSON", http.StatusInternalServerError)
		return
	}
	sendText(w, status, mediaType, text)
}

func sendText(w http.ResponseWriter, status int, mediaType string, text []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(text) //nolint:errcheck // the client is gone, which is its right
}
