package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// append takes one event or a list; it stores all or none.
func (g *Gateway) append(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, event.MaxBatchBytes))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			refuse(w, api.Problem{Status: http.StatusRequestEntityTooLarge, Title: "too large", Detail: fmt.Sprintf("the body has more than %d bytes; send it in parts", event.MaxBatchBytes)})
			return
		}
		refuse(w, api.Problem{Status: http.StatusBadRequest, Title: "bad request", Detail: "the body ended early"})
		return
	}
	events, err := decodeEvents(body)
	if err != nil {
		refuse(w, api.ProblemOf(err))
		return
	}
	ids, err := g.store.Append(r.Context(), events)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	answer(w, http.StatusCreated, map[string][]int64{"ids": ids})
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
