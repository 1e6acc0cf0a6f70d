package gateway

import (
	"context"
	"net/http"
	"time"

	"github.com/specwatch/specwatch/pkg/api"
)

// pollTimeout bounds a read that several callers may share.
const pollTimeout = 30 * time.Second

func (g *Gateway) status(w http.ResponseWriter, r *http.Request) {
	type shared struct {
		status int
		body   []byte
	}
	query := r.URL.Query()
	key := query.Get("since") + " " + query.Get("last") + " " + query.Get("limit")
	// A thousand pollers with one cursor cost one read. It must not end with
	// the one of them who came first.
	found := g.reads.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(g.stopping, pollTimeout)
		defer cancel()
		status, body, err := api.Poll(ctx, g.store, g.feed, query)
		return shared{status, body}, err
	})
	select {
	case <-r.Context().Done():
	case result := <-found:
		if result.Err != nil {
			g.fail(w, r, result.Err)
			return
		}
		answer := result.Val.(shared)
		mediaType := "application/json"
		if answer.status != http.StatusOK {
			mediaType = "application/problem+json"
		}
		sendText(w, answer.status, mediaType, answer.body)
	}
}
