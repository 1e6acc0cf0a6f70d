package datasource

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// menuSpan is how far back the lists of sessions and specs look.
const menuSpan = 30 * 24 * time.Hour

// resources answers GET status?since=&last=&limit=, sessions, specs?session= and
// kinds.
func (d *Datasource) resources() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		status, body, err := api.Poll(r.Context(), d.store, d.live(), r.URL.Query())
		if err != nil {
			refuse(w, err)
			return
		}
		mediaType := "application/json"
		if status != http.StatusOK {
			mediaType = "application/problem+json"
		}
		write(w, status, mediaType, body)
	})
	names := func(read func(r *http.Request, f store.Filter) ([]string, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			now := time.Now()
			f := store.Filter{From: now.Add(-menuSpan), To: now.Add(event.MaxAhead), Sessions: r.URL.Query()["session"]}
			list, err := read(r, f)
			if err != nil {
				refuse(w, err)
				return
			}
			answer(w, list)
		}
	}
	mux.HandleFunc("GET /sessions", names(func(r *http.Request, f store.Filter) ([]string, error) {
		f.Sessions = nil
		return d.store.Sessions(r.Context(), f)
	}))
	mux.HandleFunc("GET /specs", names(func(r *http.Request, f store.Filter) ([]string, error) {
		return d.store.Specs(r.Context(), f)
	}))
	mux.HandleFunc("GET /kinds", func(w http.ResponseWriter, _ *http.Request) { answer(w, event.Kinds) })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		body, _ := json.Marshal(api.Problem{Type: "about:blank", Title: "not found", Status: http.StatusNotFound, Detail: "the resources are status, sessions, specs and kinds"})
		write(w, http.StatusNotFound, "application/problem+json", body)
	})
	return mux
}

func answer(w http.ResponseWriter, list any) {
	body, err := json.Marshal(list)
	if err != nil {
		refuse(w, err)
		return
	}
	write(w, http.StatusOK, "application/json", body)
}

func refuse(w http.ResponseWriter, err error) {
	p := api.ProblemOf(err)
	p.Type = "about:blank"
	body, _ := json.Marshal(p) // texts and numbers
	write(w, p.Status, "application/problem+json", body)
}

func write(w http.ResponseWriter, status int, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // the caller is gone
}
