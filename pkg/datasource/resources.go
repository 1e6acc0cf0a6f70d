package datasource

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/questions"
)

// menuSpan is the range of the lists of sessions and specs. A search has no such
// limit.
const menuSpan = 30 * 24 * time.Hour

// resources answers GET status?since=&last=&limit=, sessions?search=,
// specs?session=&search=, kinds and answer, and POST answer.
func (d *Datasource) resources() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", queried(func(w http.ResponseWriter, r *http.Request, query url.Values) {
		answer, err := d.live().Poll(r.Context(), query)
		if err != nil {
			fail(w, err)
			return
		}
		body, err := answer.Body()
		if err != nil {
			fail(w, err)
			return
		}
		write(w, answer.Code, answer.MediaType(), body)
	}))
	names := func(read func(ctx context.Context, f questions.Filter, text string) ([]string, int64, error)) http.HandlerFunc {
		return queried(func(w http.ResponseWriter, r *http.Request, query url.Values) {
			text := query.Get("search")
			now := time.Now()
			f := questions.Filter{From: now.Add(-menuSpan), To: now.Add(event.MaxAhead), Sessions: query["session"]}
			if text != "" {
				f.From = event.Earliest
			}
			list, total, err := read(r.Context(), f, text)
			if err != nil {
				fail(w, err)
				return
			}
			w.Header().Set(contract.TotalHeader, strconv.FormatInt(total, 10))
			answer(w, list)
		})
	}
	mux.HandleFunc("GET /sessions", names(func(ctx context.Context, f questions.Filter, text string) ([]string, int64, error) {
		f.Sessions = nil
		return d.questions.Sessions(ctx, f, text)
	}))
	mux.HandleFunc("GET /specs", names(d.questions.Specs))
	mux.HandleFunc("GET /kinds", func(w http.ResponseWriter, _ *http.Request) { answer(w, event.Kinds) })
	mux.HandleFunc("GET /answer", d.mayAnswer)
	mux.HandleFunc("POST /answer", d.answerRequest)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, api.Problem{Status: http.StatusNotFound, Title: "not found", Detail: "the resources are status, sessions, specs, kinds and answer"})
	})
	return mux
}

// queried parses the parameters of the URL for a handler, and refuses those that
// cannot be parsed.
func queried(next func(http.ResponseWriter, *http.Request, url.Values)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query, err := api.ParseQuery(r.URL)
		if err != nil {
			refuse(w, api.BadRequest(err))
			return
		}
		next(w, r, query)
	}
}

func answer(w http.ResponseWriter, list any) {
	body, err := json.Marshal(list)
	if err != nil {
		fail(w, err)
		return
	}
	write(w, http.StatusOK, "application/json", body)
}

func fail(w http.ResponseWriter, err error) {
	p := api.ProblemOf(err)
	if p.Status == http.StatusInternalServerError {
		backend.Logger.Error("A resource could not be answered", "error", err)
	}
	refuse(w, p)
}

func refuse(w http.ResponseWriter, p api.Problem) {
	p.Type = "about:blank"
	body, _ := json.Marshal(p) // texts and numbers cause no error
	write(w, p.Status, "application/problem+json", body)
}

func write(w http.ResponseWriter, status int, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // it fails only if the client has disconnected
}
