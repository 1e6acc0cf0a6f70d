package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	appendTimeout = 30 * time.Second // of a write: another transaction may hold the same key
	smallBody     = 64 << 10         // larger bodies wait for others
	largeBodies   = 4                // at once, each of event.MaxBatchBytes
	bodyTimeout   = 15 * time.Second // of that wait
)

// append takes one event or a list; it stores all or none.
func (g *Gateway) append(w http.ResponseWriter, r *http.Request) {
	if encodings := r.Header.Values("Content-Encoding"); len(encodings) > 0 && (len(encodings) != 1 || !strings.EqualFold(encodings[0], "identity")) {
		w.Header().Set("Accept-Encoding", "identity")
		refuse(w, api.Problem{Status: http.StatusUnsupportedMediaType, Title: "compressed", Detail: "events are taken as plain JSON; send them without Content-Encoding"})
		return
	}
	body, release, err := g.body(w, r)
	if err != nil {
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			refuse(w, api.Problem{Status: http.StatusRequestEntityTooLarge, Title: "too large", Detail: fmt.Sprintf("the body has more than %d bytes; send it in parts", event.MaxBatchBytes)})
		case errors.Is(err, errBusy), g.stopping.Err() != nil:
			g.fail(w, r, err)
		default:
			refuse(w, api.Problem{Status: http.StatusBadRequest, Title: "bad request", Detail: "the body is incomplete"})
		}
		return
	}
	defer release()
	events, err := decodeEvents(body)
	if err != nil {
		refuse(w, api.ProblemOf(err))
		return
	}
	type stored struct {
		receipt event.Receipt
		err     error
	}
	done := make(chan stored, 1)
	go func() {
		ctx, cancel := context.WithTimeout(r.Context(), appendTimeout)
		defer cancel()
		defer context.AfterFunc(g.ending, cancel)()
		receipt, err := g.source.Store.Append(ctx, events)
		done <- stored{receipt, err}
	}()
	select {
	case <-g.cutOff:
		g.fail(w, r, context.Canceled)
	case result := <-done:
		if result.err != nil {
			g.fail(w, r, result.err)
			return
		}
		answer(w, http.StatusCreated, result.receipt)
	}
}

// body reads the body of a request. A large one waits until others are done.
func (g *Gateway) body(w http.ResponseWriter, r *http.Request) (text []byte, release func(), err error) {
	release = func() {}
	from := http.MaxBytesReader(w, r.Body, event.MaxBatchBytes)
	text, err = io.ReadAll(io.LimitReader(from, smallBody))
	if err != nil || len(text) < smallBody {
		return text, release, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), bodyTimeout)
	defer cancel()
	if g.bodies.Acquire(ctx, event.MaxBatchBytes) != nil {
		return nil, release, errBusy
	}
	release = func() { g.bodies.Release(event.MaxBatchBytes) }
	rest, err := io.ReadAll(from)
	if err != nil {
		release()
		return nil, release, err
	}
	return append(text, rest...), release, nil
}

// decodeEvents reads one event or a list of them. Every error is or wraps an
// *event.FieldError.
func decodeEvents(body []byte) ([]event.Event, error) {
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] != '[' {
		e, err := event.Decode(body)
		return []event.Event{e}, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, &event.FieldError{Detail: "the body is neither a JSON event nor a list of them: " + err.Error()}
	}
	if len(list) == 0 || len(list) > event.MaxBatch {
		return nil, &event.FieldError{Detail: fmt.Sprintf("a list holds 1 to %d events, not %d", event.MaxBatch, len(list))}
	}
	events := make([]event.Event, len(list))
	for i, raw := range list {
		var err error
		if events[i], err = event.Decode(raw); err != nil {
			return nil, &store.BatchError{Index: int64(i), Err: err}
		}
	}
	return events, nil
}
