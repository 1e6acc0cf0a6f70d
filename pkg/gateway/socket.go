package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/specwatch/specwatch/pkg/api"
	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/feed"
	"github.com/specwatch/specwatch/pkg/state"
	"github.com/specwatch/specwatch/pkg/store"
)

// Close codes and what they ask of the client. Beside them, a message of more
// than maxMessage bytes is answered with 1009, which is final too.
const (
	closeGoingAway = websocket.CloseGoingAway         // 1001: the gateway stops; reconnect
	closeBad       = websocket.ClosePolicyViolation   // 1008: the client sent nonsense; final
	closeTrouble   = websocket.CloseInternalServerErr // 1011: the database cannot be read; reconnect later
	closeSlow      = websocket.CloseTryAgainLater     // 1013: too slow; resume by cursor
)

const (
	writeTimeout = 10 * time.Second // of one message: a client that takes longer is too slow
	pingEvery    = 25 * time.Second
	pongTimeout  = 60 * time.Second
	maxMessage   = 4 << 10 // bytes that a client may send at once
)

type updateData struct {
	State  *state.State  `json:"state,omitempty"`
	Events []event.Event `json:"events"`
}

type message struct {
	Type    string     `json:"type"`
	From    string     `json:"from,omitempty"`
	Cursor  string     `json:"cursor"`
	Expired bool       `json:"expired,omitempty"` // the cursor was of another history: drop what you hold
	Data    updateData `json:"data"`
}

// encode prepares the one encoding of a batch for all clients.
func encode(b *feed.Batch) (any, error) {
	text, err := json.Marshal(message{Type: "event_update", From: b.From.String(), Cursor: b.Cursor.String(), Data: updateData{Events: b.Events}})
	if err != nil {
		return nil, err
	}
	return websocket.NewPreparedMessage(websocket.TextMessage, text)
}

func (g *Gateway) socket(w http.ResponseWriter, r *http.Request) {
	since, err := api.ParseSince(r.URL.Query().Get("since"))
	if err != nil {
		p := api.ProblemOf(err)
		p.Title = "bad request"
		refuse(w, p)
		return
	}
	if !g.originAllowed(r) {
		refuse(w, api.Problem{Status: http.StatusForbidden, Title: "origin not allowed", Detail: "this page's origin may not open the WebSocket; allow it with --allow-origin"})
		return
	}
	conn, err := g.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	g.sockets.Add(1)
	defer g.sockets.Done()
	c := &client{gateway: g, conn: conn}
	code, reason := c.serve(g.stopping, since)
	if code != 0 {
		conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(time.Second)) //nolint:errcheck // a farewell
	}
	conn.Close()
	<-c.reading
}

type client struct {
	gateway *Gateway
	conn    *websocket.Conn
	writing sync.Mutex    // one message at a time
	reading chan struct{} // closed when the reading goroutine has ended
}

// serve returns why the socket is closed; 0: the client has gone.
func (c *client) serve(stopping context.Context, since api.Since) (code int, reason string) {
	ctx, cancel := context.WithCancelCause(stopping)
	defer cancel(nil)
	c.reading = make(chan struct{})
	go func() {
		defer close(c.reading)
		cancel(c.read())
	}()
	err := c.write(ctx, since)
	var bad badMessage
	switch {
	case stopping.Err() != nil:
		return closeGoingAway, "the gateway stops; reconnect"
	case errors.As(context.Cause(ctx), &bad):
		return closeBad, string(bad)
	case ctx.Err() != nil:
		return 0, ""
	case errors.Is(err, feed.ErrSlow):
		return closeSlow, "too slow; resume by cursor"
	case errors.Is(err, store.ErrExpired):
		return closeSlow, "the history of the database changed; resume by cursor"
	case errors.Is(err, errWrite):
		return closeSlow, "too slow; resume by cursor"
	}
	c.gateway.options.Log.Warn("socket closed", "error", err)
	return closeTrouble, "the database cannot be read now; reconnect"
}

// badMessage is the reason for which a client is closed for good.
type badMessage string

func (b badMessage) Error() string { return string(b) }

var (
	errGone  = errors.New("the client has gone")
	errWrite = errors.New("the client does not take its messages")
)

// read answers the client's pings until the client goes.
func (c *client) read() error {
	c.conn.SetReadLimit(maxMessage)
	alive := func(string) error { return c.conn.SetReadDeadline(time.Now().Add(pongTimeout)) }
	c.conn.SetPongHandler(alive)
	alive("") //nolint:errcheck // an error shows at the next read
	for {
		kind, text, err := c.conn.ReadMessage()
		if err != nil {
			return errGone
		}
		alive("") //nolint:errcheck // as above
		if kind != websocket.TextMessage || !isPing(text) {
			return badMessage(`the only message that a client may send is {"type":"ping"}`)
		}
		pong, err := json.Marshal(map[string]string{"type": "pong", "timestamp": time.Now().UTC().Format(event.TimeLayout)})
		if err != nil {
			return err
		}
		prepared, err := websocket.NewPreparedMessage(websocket.TextMessage, pong)
		if err != nil {
			return err
		}
		if err := c.send(prepared); err != nil {
			return errGone
		}
	}
}

func isPing(text []byte) bool {
	var m struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(text, &m) == nil && m.Type == "ping"
}

func (c *client) send(m *websocket.PreparedMessage) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) //nolint:errcheck // an error shows at the write
	if err := c.conn.WritePreparedMessage(m); err != nil {
		return errWrite
	}
	return nil
}

// write greets the client and then passes on what the feed brings.
func (c *client) write(ctx context.Context, since api.Since) error {
	sub, err := c.greet(ctx, since)
	if err != nil {
		return err
	}
	defer sub.Close()
	ping := time.Now().Add(pingEvery)
	for {
		waiting, cancel := context.WithDeadline(ctx, ping)
		b, err := sub.Next(waiting)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			if err := c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout)); err != nil {
				return errWrite
			}
			ping = time.Now().Add(pingEvery)
			continue
		}
		if err != nil {
			return err
		}
		prepared, err := b.Encoding(encode)
		if err != nil {
			return err
		}
		if err := c.send(prepared.(*websocket.PreparedMessage)); err != nil {
			return err
		}
	}
}

// greet sends the first page of what the client lacks, and the state.
func (c *client) greet(ctx context.Context, since api.Since) (*feed.Subscription, error) {
	g := c.gateway
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	hello := message{Type: "connection_established"}
	sub, events, err := g.join(ctx, since)
	if errors.Is(err, store.ErrExpired) {
		hello.Expired = true
		sub, events, err = g.join(ctx, api.Since{})
	}
	if err != nil {
		return nil, err
	}
	at := sub.Cursor()
	st, err := g.feed.State(ctx, at)
	if err != nil {
		sub.Close()
		return nil, err
	}
	hello.Cursor, hello.Data = at.String(), updateData{State: &st, Events: events}
	text, err := json.Marshal(hello)
	if err == nil {
		var prepared *websocket.PreparedMessage
		if prepared, err = websocket.NewPreparedMessage(websocket.TextMessage, text); err == nil {
			err = c.send(prepared)
		}
	}
	if err != nil {
		sub.Close()
		return nil, err
	}
	return sub, nil
}

// join subscribes and takes the first page of the past.
func (g *Gateway) join(ctx context.Context, since api.Since) (*feed.Subscription, []event.Event, error) {
	start := since.Cursor
	events := []event.Event{}
	if !since.Time.IsZero() {
		page, err := g.store.SinceTime(ctx, since.Time, event.MaxPage)
		if err != nil {
			return nil, nil, err
		}
		start, events = page.Cursor, page.Events
	}
	sub, err := g.feed.Subscribe(ctx, start, event.MaxPage)
	if err != nil {
		return nil, nil, err
	}
	if since.Time.IsZero() {
		b, err := sub.Catch(ctx)
		if err != nil {
			sub.Close()
			return nil, nil, err
		}
		if b != nil {
			events = b.Events
		}
	}
	return sub, events, nil
}
