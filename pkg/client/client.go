// Package client writes to and reads from a gateway, for programs that cannot
// reach the database.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	requestTimeout = 30 * time.Second
	silence        = time.Minute // after which a socket without data is broken; the gateway pings more often
	maxAnswer      = 256 << 20   // bytes; a page of large events has less
)

// Gateway sends requests to the gateway at an address. It is safe for concurrent
// use.
type Gateway struct {
	base        *url.URL
	write, read string // tokens
	http        *http.Client
}

// New returns the gateway at an address such as https://specwatch.example/. It
// reads with the write token if there is no read token.
func New(address, writeToken, readToken string) (*Gateway, error) {
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, errors.New("the gateway's address cannot be read; it looks like https://specwatch.example")
	}
	base.Path, base.RawQuery, base.Fragment = strings.TrimRight(base.Path, "/"), "", ""
	return &Gateway{base: base, write: writeToken, read: cmp.Or(readToken, writeToken), http: &http.Client{Timeout: requestTimeout}}, nil
}

// URL is the address, without a password.
func (g *Gateway) URL() *url.URL {
	bare := *g.base
	bare.User = nil
	return &bare
}

// Unreachable is the error if the gateway cannot be reached or cannot answer now,
// such as while its database cannot be reached.
type Unreachable struct{ err error }

func (u *Unreachable) Error() string { return u.err.Error() }
func (u *Unreachable) Unwrap() error { return u.err }

// Append writes the events. The error for a refused event is that of store's
// Append.
func (g *Gateway) Append(ctx context.Context, events []event.Event) (event.Receipt, error) {
	if len(events) == 0 {
		return event.Receipt{IDs: []int64{}}, nil
	}
	var body bytes.Buffer
	body.WriteByte('[')
	for i, e := range events {
		if i > 0 {
			body.WriteByte(',')
		}
		body.Write(outbox.Encode(e))
	}
	body.WriteByte(']')
	if (body.Len() > event.MaxBatchBytes || len(events) > event.MaxBatch) && len(events) > 1 && keyed(events) {
		first, err := g.Append(ctx, events[:len(events)/2])
		if err != nil {
			return event.Receipt{}, err
		}
		second, err := g.Append(ctx, events[len(events)/2:])
		return event.Receipt{IDs: append(first.IDs, second.IDs...), Known: first.Known + second.Known}, err
	}
	var answer event.Receipt
	err := g.ask(ctx, http.MethodPost, "/api/events", nil, g.write, &body, http.StatusCreated, &answer)
	var batch *store.BatchError
	if errors.As(err, &batch) && len(events) == 1 {
		err = batch.Err
	}
	if err == nil && len(answer.IDs) != len(events) {
		err = fmt.Errorf("the gateway at %s answered with %d ids to %d events; is it a Specwatch gateway?", g.URL(), len(answer.IDs), len(events))
	}
	return answer, err
}

// keyed reports whether all events have a key. Then they may be written in parts,
// because an event that is written again is stored once.
func keyed(events []event.Event) bool {
	for _, e := range events {
		if e.Key == "" {
			return false
		}
	}
	return true
}

// Page is the result of one read.
type Page struct {
	Events []event.Event
	Cursor string
	More   bool
}

// Since returns at most limit events after a cursor or a time; empty: those of the
// last five minutes. The error for a cursor of another history is
// store.ErrExpired.
func (g *Gateway) Since(ctx context.Context, since string, limit int) (Page, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if since != "" {
		query.Set("since", since)
	}
	var answer struct {
		Events []readEvent `json:"events"`
		Cursor string      `json:"cursor"`
		More   bool        `json:"more"`
	}
	err := g.ask(ctx, http.MethodGet, "/api/status", query, g.read, nil, http.StatusOK, &answer)
	return Page{Events: events(answer.Events), Cursor: answer.Cursor, More: answer.More}, err
}

// State returns the overview. It asks for the newest event too: without that, a
// gateway answers with the state that its feed has read so far.
func (g *Gateway) State(ctx context.Context) (state.State, error) {
	var answer struct {
		State state.State `json:"state"`
	}
	err := g.ask(ctx, http.MethodGet, "/api/status", url.Values{"last": {"1"}}, g.read, nil, http.StatusOK, &answer)
	return answer.State, err
}

// Follow passes the events after a cursor or a time to take, and then each new
// event as soon as it arrives. It returns when the connection fails or take
// returns an error.
func (g *Gateway) Follow(ctx context.Context, since string, take func(Page) error) error {
	address := *g.base
	address.Scheme = strings.Replace(address.Scheme, "http", "ws", 1)
	address.Path += "/ws"
	if since != "" {
		address.RawQuery = url.Values{"since": {since}}.Encode()
	}
	dialer := websocket.Dialer{Proxy: http.ProxyFromEnvironment, HandshakeTimeout: requestTimeout}
	conn, response, err := dialer.DialContext(ctx, address.String(), header(g.read))
	if err != nil {
		if response != nil && response.StatusCode/100 == 4 {
			return g.refusal(response)
		}
		return g.unreachable(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	extend := func() { _ = conn.SetReadDeadline(time.Now().Add(silence)) }
	ping := conn.PingHandler()
	conn.SetPingHandler(func(text string) error {
		extend()
		return ping(text)
	})
	for {
		extend()
		var message struct {
			Cursor  string `json:"cursor"`
			Expired bool   `json:"expired"`
			Data    struct {
				Events []readEvent `json:"events"`
			} `json:"data"`
		}
		if err := conn.ReadJSON(&message); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return g.unreachable(err)
		}
		if message.Expired {
			return store.ErrExpired
		}
		if message.Cursor == "" {
			continue // a message of another type
		}
		if err := take(Page{Events: events(message.Data.Events), Cursor: message.Cursor}); err != nil {
			return err
		}
	}
}

// readEvent is an event in the JSON of a gateway.
type readEvent struct {
	ID      int64           `json:"id"`
	Kind    event.Kind      `json:"kind"`
	At      time.Time       `json:"at"`
	Session string          `json:"session"`
	Spec    string          `json:"spec"`
	Data    json.RawMessage `json:"data"`
}

func events(read []readEvent) []event.Event {
	all := make([]event.Event, len(read))
	for i, e := range read {
		all[i] = event.Event{ID: e.ID, Kind: e.Kind, At: e.At, Session: e.Session, Spec: e.Spec, Data: e.Data}
	}
	return all
}

func header(token string) http.Header {
	h := http.Header{}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return h
}

func (g *Gateway) ask(ctx context.Context, method, path string, query url.Values, token string, body io.Reader, want int, answer any) error {
	address := *g.base
	address.Path += path
	address.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, address.String(), body)
	if err != nil {
		return err
	}
	request.Header = header(token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := g.http.Do(request)
	if err != nil {
		return g.unreachable(err)
	}
	defer response.Body.Close()
	if response.StatusCode != want {
		return g.refusal(response)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(answer); err != nil {
		if ctx.Err() != nil {
			return g.unreachable(ctx.Err())
		}
		return fmt.Errorf("cannot read the answer of the gateway at %s; is it a Specwatch gateway? %w", g.URL(), err)
	}
	return nil
}

// unreachable wraps an error of a connection. It leaves out the URL that errors of
// net/http contain, because the message has it already.
func (g *Gateway) unreachable(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return &Unreachable{fmt.Errorf("cannot connect to the gateway at %s: %w", g.URL(), err)}
}

// refusal returns the error of an unexpected response.
func (g *Gateway) refusal(response *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	var p api.Problem
	_ = json.Unmarshal(text, &p) // a body that cannot be read leaves the detail empty
	detail := p.Detail
	if detail == "" {
		detail = response.Status
	}
	switch {
	case response.StatusCode == http.StatusGone:
		return store.ErrExpired
	case response.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("the gateway at %s requires a token: %s; set SPECWATCH_READ_TOKEN or SPECWATCH_WRITE_TOKEN to the gateway's value", g.URL(), detail)
	case response.StatusCode == http.StatusBadRequest && p.Field != "":
		if _, after, ok := strings.Cut(detail, p.Field+": "); ok {
			detail = after
		}
		var refused error = &event.FieldError{Field: p.Field, Detail: detail}
		if p.Index != nil {
			refused = &store.BatchError{Index: *p.Index, Err: refused}
		}
		return refused
	case response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests:
		return &Unreachable{fmt.Errorf("the gateway at %s cannot answer now: %s", g.URL(), detail)}
	}
	return fmt.Errorf("the gateway at %s refuses: %s", g.URL(), detail)
}
