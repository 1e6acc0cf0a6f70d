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
	silence        = time.Minute // of a socket, after which it is lost; the gateway pings more often
	maxAnswer      = 256 << 20   // bytes: a page of large events
)

// Gateway is one that answers at an address. It is safe for concurrent use.
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

// Unreachable is why the gateway gave no answer of its own: it, its database or
// the network is away.
type Unreachable struct{ err error }

func (u *Unreachable) Error() string { return u.err.Error() }
func (u *Unreachable) Unwrap() error { return u.err }

// Append writes the events. An event that is refused comes back as store's
// Append returns it.
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

// keyed reports whether the events may be written in parts: writing one of them
// again does no harm.
func keyed(events []event.Event) bool {
	for _, e := range events {
		if e.Key == "" {
			return false
		}
	}
	return true
}

// Page is what one read brought.
type Page struct {
	Events []event.Event
	Cursor string
	More   bool
}

// Since returns what the cursor, or the time, has not seen, at most limit
// events; empty: the last five minutes. A cursor of another history comes back
// as store.ErrExpired.
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

// State is the overview. It has seen the newest event: without one, a gateway
// answers with what its feed has read so far.
func (g *Gateway) State(ctx context.Context) (state.State, error) {
	var answer struct {
		State state.State `json:"state"`
	}
	err := g.ask(ctx, http.MethodGet, "/api/status", url.Values{"last": {"1"}}, g.read, nil, http.StatusOK, &answer)
	return answer.State, err
}

// Follow passes on the events that the cursor has not seen, and then each that
// comes, as soon as it comes. It ends with an error, or when take returns one.
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
	alive := func() { _ = conn.SetReadDeadline(time.Now().Add(silence)) }
	ping := conn.PingHandler()
	conn.SetPingHandler(func(text string) error {
		alive()
		return ping(text)
	})
	for {
		alive()
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
		if err := take(Page{Events: events(message.Data.Events), Cursor: message.Cursor}); err != nil {
			return err
		}
	}
}

// readEvent is an event as a gateway prints it.
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
		return fmt.Errorf("the gateway at %s gives no answer of a Specwatch gateway: %w", g.URL(), err)
	}
	return nil
}

// unreachable tells why, without the address that the library's errors repeat.
func (g *Gateway) unreachable(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return &Unreachable{fmt.Errorf("cannot connect to the gateway at %s: %w", g.URL(), err)}
}

// refusal is the error that an answer other than the wanted one stands for.
func (g *Gateway) refusal(response *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	var p api.Problem
	_ = json.Unmarshal(text, &p) // what cannot be read has no detail
	detail := p.Detail
	if detail == "" {
		detail = response.Status
	}
	switch {
	case response.StatusCode == http.StatusGone:
		return store.ErrExpired
	case response.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("the gateway at %s does not let this program in: %s; set the same value here", g.URL(), detail)
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
