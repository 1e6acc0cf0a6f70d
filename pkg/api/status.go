// Package api has what the gateway and the Grafana data source have in common:
// the JSON of a poll and of an error, and the parameters of a poll.
package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/specwatch/specwatch/pkg/contract"
	"github.com/specwatch/specwatch/pkg/cursor"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/overview"
	"github.com/specwatch/specwatch/pkg/store"
)

// Status is the answer of a poll.
type Status struct {
	Events    event.List         `json:"events"`
	Cursor    string             `json:"cursor"`
	More      bool               `json:"more"`
	Timestamp string             `json:"timestamp"` // the database's clock
	Mode      string             `json:"mode"`
	State     *overview.Snapshot `json:"state"`
}

// encode returns what json.Marshal returns, without reading the events and the
// state again.
func (s *Status) encode() []byte {
	b := s.Events.AppendJSON([]byte(`{"events":`))
	b = append(append(b, `,"cursor":"`...), s.Cursor...)
	b = append(strconv.AppendBool(append(b, `","more":`...), s.More), `,"timestamp":"`...)
	b = append(append(append(b, s.Timestamp...), `","mode":"`...), s.Mode...)
	return append(append(append(b, `","state":`...), s.State.JSON...), '}')
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

// ParseQuery returns the parameters of a URL. Unlike URL.Query it does not drop
// those that cannot be parsed: the client would get the answer to another request.
// The error is an *event.FieldError.
func ParseQuery(u *url.URL) (url.Values, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, &event.FieldError{Detail: "the query of the URL cannot be parsed: " + err.Error() + "; separate parameters with &, and write % as %25 and ; as %3B"}
	}
	return query, nil
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

// Read returns the first page from there. A cursor that expired comes back as
// store.ErrExpired.
func (since Since) Read(ctx context.Context, s *store.Store, limit int) (store.Page, error) {
	switch {
	case since.Last > 0:
		return s.SinceLast(ctx, since.Last, limit)
	case !since.Time.IsZero():
		return s.SinceTime(ctx, since.Time, limit)
	}
	return s.Since(ctx, since.Cursor, limit)
}

// Subscribe reads the first page from there and returns it with a subscription
// that continues after it. Pages have at most limit events. A cursor that expired
// comes back as store.ErrExpired.
func (since Since) Subscribe(ctx context.Context, s *store.Store, f *feed.Feed, limit int) (*feed.Subscription, []event.Event, error) {
	if since.Last > 0 || !since.Time.IsZero() {
		page, err := since.Read(ctx, s, limit)
		if err != nil {
			return nil, nil, err
		}
		sub, err := f.Subscribe(ctx, page.Cursor, limit)
		return sub, page.Events, err
	}
	sub, err := f.Subscribe(ctx, since.Cursor, limit)
	if err != nil {
		return nil, nil, err
	}
	b, err := sub.Catch(ctx)
	switch {
	case err != nil:
		sub.Close()
		return nil, nil, err
	case b == nil:
		return sub, []event.Event{}, nil
	}
	return sub, b.Events, nil
}

// Source is one events table with its feed and overview.
type Source struct {
	Store    *store.Store
	Feed     *feed.Feed
	Overview *overview.Overview
}

// NewSource returns a source. It does nothing until Run is called.
func NewSource(s *store.Store) *Source {
	f := feed.New(s)
	return &Source{s, f, overview.New(s, f)}
}

// Run runs the feed and the overview until ctx ends.
func (s *Source) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { s.Feed.Run(ctx) }) //nolint:errcheck // it ends with ctx
	running.Go(func() { s.Overview.Run(ctx) })
	running.Wait()
}

// read answers a poll: from memory where the feed can, else from the database.
// The state of the last page has seen all of the events, but where the feed
// reads another server, which is behind: see overview.Overview.At. A cursor
// that expired comes back as store.ErrExpired.
func (s *Source) read(ctx context.Context, since Since, limit int) (Status, error) {
	page, remembered := s.Feed.Since(ctx, since.Cursor, limit)
	if !remembered {
		var err error
		if page, err = since.Read(ctx, s.Store, limit); err != nil {
			return Status{}, err
		}
	}
	at := page.Cursor
	if page.More {
		at = cursor.Cursor{} // the client polls again at once
	}
	snapshot, err := s.Overview.At(ctx, at)
	if err != nil {
		return Status{}, err
	}
	return Status{
		Events: page.Events, Cursor: page.Cursor.String(), More: page.More,
		Timestamp: page.At.UTC().Format(event.TimeLayout), Mode: contract.ModePolling, State: snapshot,
	}, nil
}

// UpToDate reports whether the cursor of a poll has seen all that the feed has
// read: the answer will be small.
func (s *Source) UpToDate(query url.Values) bool {
	c, err := cursor.Parse(query.Get("since"))
	return err == nil && s.Feed.AtEnd(c)
}

// Answer is the answer to a poll. It may be shared and must not be changed.
type Answer struct {
	Code  int    // of HTTP: 200, 400 or 410
	ETag  string // names cursor and state; empty: there is none
	Empty bool   // without events, and there are no more
	body  func() ([]byte, error)
}

// Body is the JSON. That of an empty answer is made at the first call, because
// most clients hold it already.
func (a *Answer) Body() ([]byte, error) { return a.body() }

// encoded is a body that is made at once.
func encoded(content any) func() ([]byte, error) {
	text, err := json.Marshal(content)
	return func() ([]byte, error) { return text, err }
}

// MediaType is that of the body.
func (a *Answer) MediaType() string {
	if a.Code == http.StatusOK {
		return "application/json"
	}
	return "application/problem+json"
}

// Holds reports whether a client that sends these values of If-None-Match
// holds all that the answer says.
func (a *Answer) Holds(ifNoneMatch []string) bool {
	if !a.Empty || a.ETag == "" {
		return false
	}
	for _, value := range ifNoneMatch {
		for tag := range strings.SplitSeq(value, ",") {
			if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == strings.TrimPrefix(a.ETag, "W/") {
				return true
			}
		}
	}
	return false
}

// Poll reads the query parameters since, last and limit and answers them. The
// error is about the database.
func (s *Source) Poll(ctx context.Context, query url.Values) (*Answer, error) {
	since, limit, bad := parsePoll(query)
	if bad != nil {
		p := BadRequest(bad)
		p.Type = "about:blank"
		return &Answer{Code: p.Status, body: encoded(p)}, nil
	}
	status, err := s.read(ctx, since, limit)
	if err == nil {
		digest := sha256.Sum256([]byte(status.Cursor))
		answer := &Answer{
			Code: http.StatusOK, Empty: len(status.Events) == 0 && !status.More,
			ETag: `W/"` + status.State.Version + hex.EncodeToString(digest[:6]) + `"`,
		}
		answer.body = sync.OnceValues(func() ([]byte, error) { return status.encode(), nil })
		if !answer.Empty {
			answer.body() //nolint:errcheck // there is none; the events need not be kept
		}
		return answer, nil
	}
	if !errors.Is(err, store.ErrExpired) {
		return nil, err
	}
	// As many events as requested, not only those of the last minutes: a restored
	// table may have no new ones.
	if status, err = s.read(ctx, Since{Last: limit}, limit); err != nil {
		return nil, err
	}
	return &Answer{Code: http.StatusGone, body: encoded(Expired{Problem{
		Type: "about:blank", Status: http.StatusGone, Title: "cursor expired", Field: "since",
		Detail: "the cursor belongs to another database, or to a history that a restore or fail-over ended; drop what you hold and go on from the events and the cursor of this answer",
	}, status})}, nil
}
