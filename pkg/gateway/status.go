package gateway

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
)

const (
	pollTimeout = 30 * time.Second // of a read that several requests may share
	maxReads    = 8                // at once: each holds a page in memory
	pageBytes   = 16 << 20         // the read of a large page holds it as rows, as events and as JSON
	memoryWait  = 2 * time.Second  // for memory to read a large page; then the client is asked to come again
	maxWaiting  = 5_000            // reads that wait, including those whose clients are gone
)

func (g *Gateway) status(w http.ResponseWriter, r *http.Request, query url.Values) {
	key := query.Get("since") + " " + query.Get("last") + " " + query.Get("limit")
	// Requests with the same cursor that wait at the same time share one read. It
	// must not be cancelled with the first of them.
	found := g.reads.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(g.ending, pollTimeout)
		defer cancel()
		defer g.waiting.Add(-1)
		if g.waiting.Add(1) > maxWaiting {
			return nil, errBusy
		}
		// A large page is read only while there is memory for it.
		if n, err := strconv.Atoi(query.Get("limit")); err == nil && n > event.DefaultPage && !g.source.UpToDate(query) {
			patient, stop := context.WithTimeout(ctx, memoryWait)
			release := g.budget.await(patient, &patient, pageBytes, nil)
			stop()
			if release == nil {
				return nil, errBusy
			}
			defer release()
		}
		if err := g.reading.Acquire(ctx, 1); err != nil {
			return nil, errBusy
		}
		defer g.reading.Release(1)
		// A request that comes from now on has a read of its own: this one may
		// not see what is committed before that request.
		g.reads.Forget(key)
		return g.source.Poll(ctx, query)
	})
	select {
	case <-r.Context().Done():
	case <-g.cutOff:
		g.fail(w, r, context.Canceled)
	case result := <-found:
		if result.Err != nil {
			g.fail(w, r, result.Err)
			return
		}
		answer := result.Val.(*api.Answer)
		if answer.ETag != "" {
			w.Header().Set("ETag", answer.ETag)
			w.Header().Set("Cache-Control", "private, no-cache") // revalidated each time by its ETag
		}
		if answer.Holds(r.Header.Values("If-None-Match")) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		body, err := answer.Body()
		if err != nil {
			g.fail(w, r, err)
			return
		}
		g.sendShared(w, r, answer.Code, answer.MediaType(), body, answer)
	}
}
