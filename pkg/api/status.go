// Package api is what both doors, the gateway and the Grafana data source,
// answer alike: the JSON of a poll and of an error, and how its parameters
// are read.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// Status is the answer of a poll.
type Status struct {
	Events    []event.Event `json:"events"`
	Cursor    string        `json:"cursor"`
	More      bool          `json:"more"`
	Timestamp string        `json:"timestamp"` // the database's clock
	Mode      string        `json:"mode"`
	State     state.State   `json:"state"`
}

// Expired is the answer to a cursor of another database or history: a problem
// and, beside it, a fresh start.
type Expired struct {
	Problem
	Status
}

// Since is where a reader wants to begin: at a cursor, at a time, with the
// newest events, or, the zero value, event.DefaultHistory back.
type Since struct {
	Cursor cursor.Cursor
	Time   time.Time
	Last   int // events
}

// ParseSince reads a cursor's token or an RFC 3339 time; empty is the zero
// value. The error is an *event.FieldError for "since".
func ParseSince(text string) (Since, error) {
	if text == "" {
		return Since{}, nil
	}
	c, err := cursor.Parse(text)
	if err == nil {
		return Since{Cursor: c}, nil
	}
	// A "+" that was not escaped in the URL arrives as a space.
	if at, err := event.ParseTime(strings.Replace(text, " ", "+", 1)); err == nil {
		return Since{Time: at}, nil
	}
	return Since{}, &event.FieldError{Field: "since", Detail: err.Error()}
}

// parsePoll reads the parameters since, last and limit. The error is an
// *event.FieldError.
func parsePoll(query url.Values) (since Since, limit int, err error) {
	if since, err = ParseSince(query.Get("since")); err != nil {
		return since, 0, err
	}
	if since.Last, err = parseCount("last", query.Get("last"), 0); err != nil {
		return since, 0, err
	}
	if since.Last > 0 && query.Get("since") != "" {
		return since, 0, &event.FieldError{Field: "last", Detail: "is for the first call of a reader without a cursor; leave it or since out"}
	}
	limit, err = parseCount("limit", query.Get("limit"), event.DefaultPage)
	return since, limit, err
}

// parseCount reads a number of events; empty is the default.
func parseCount(field, text string, none int) (int, error) {
	if text == "" {
		return none, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > event.MaxPage {
		return 0, &event.FieldError{Field: field, Detail: fmt.Sprintf("must be a whole number from 1 to %d", event.MaxPage)}
	}
	return n, nil
}

// ReadStatus answers a poll. Its State has seen all of its events. A cursor
// that expired comes back as store.ErrExpired.
func ReadStatus(ctx context.Context, s *store.Store, f *feed.Feed, since Since, limit int) (Status, error) {
	var page store.Page
	var err error
	switch {
	case since.Last > 0:
		page, err = s.SinceLast(ctx, since.Last, limit)
	case !since.Time.IsZero():
		page, err = s.SinceTime(ctx, since.Time, limit)
	default:
		page, err = s.Since(ctx, since.Cursor, limit)
	}
	if err != nil {
		return Status{}, err
	}
	st, err := f.State(ctx, page.Cursor)
	if err != nil {
		return Status{}, err
	}
	return Status{
		Events: page.Events, Cursor: page.Cursor.String(), More: page.More,
		Timestamp: page.At.UTC().Format(event.TimeLayout), Mode: contract.ModePolling, State: st,
	}, nil
}

// Poll reads the query parameters since, last and limit and returns the answer
// to them with its HTTP status: 200, 400 or 410. The error is about the
// database.
func Poll(ctx context.Context, s *store.Store, f *feed.Feed, query url.Values) (status int, body []byte, err error) {
	since, limit, bad := parsePoll(query)
	if bad != nil {
		p := ProblemOf(bad)
		p.Type, p.Title = "about:blank", "bad request"
		body, err = json.Marshal(p)
		return p.Status, body, err
	}
	answer, err := ReadStatus(ctx, s, f, since, limit)
	if err == nil {
		body, err = json.Marshal(answer)
		return http.StatusOK, body, err
	}
	if !errors.Is(err, store.ErrExpired) {
		return 0, nil, err
	}
	if answer, err = ReadStatus(ctx, s, f, Since{}, limit); err != nil {
		return 0, nil, err
	}
	body, err = json.Marshal(Expired{Problem{
		Type: "about:blank", Status: http.StatusGone, Title: "cursor expired", Field: "since",
		Detail: "the cursor belongs to another database, or to a history that a restore or fail-over ended; drop what you hold and go on from the events and the cursor of this answer",
	}, answer})
	return http.StatusGone, body, err
}
